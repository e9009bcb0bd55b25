"""Finding llama-server, and asking it what it is: version, options, devices, and whether it takes our arguments."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from .errors import EXIT_UNAVAILABLE, EXIT_USAGE, InstallError
from .obtain import how_to_get_it

BACKEND_SAMPLING = "--backend-sampling"
SLEEP = "--sleep-idle-seconds"
CORS = "--cors-origins"
PRESETS = "--models-preset"
_LIST_DEVICES = "--list-devices"
MIB = 1024 * 1024
_USUAL_PLACES = (
    "~/.local/bin",
    "~/llama.cpp/build/bin",
    "/usr/local/bin",
    "/opt/llama.cpp/build/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/opt/homebrew/bin",
)
_DEVICE = re.compile(r"^ +([^ :]+): (.*) \((\d{1,12}) MiB, (\d{1,12}) MiB free\)$", re.MULTILINE)


@dataclass(frozen=True)
class Device:
    """A GPU as llama-server sees it: its name there, what it is, and bytes of its memory, all and free."""

    name: str
    description: str
    total: int
    free: int


@dataclass(frozen=True)
class Build:
    """A llama-server: the words that start it, its version, its options, and the GPUs that it can use.

    `command` is its path, or that of `llama` and `serve`. `devices` is None if it is too old to list them.
    """

    command: tuple[str, ...]
    version: str
    options: frozenset[str]
    devices: Optional[tuple[Device, ...]]


def find(named: Optional[str], environ: Mapping[str, str], ask: Callable[[str], Optional[str]]) -> tuple[str, ...]:
    """The words that start llama-server: the one that was named, on PATH, in a usual place, or what the user answers.

    Args:
        named: what `--server` says: a path, or a name to look for on PATH; of llama-server, or of `llama`.
        ask: puts a question to the user; None where there is nobody to ask.

    Raises:
        InstallError: there is none, or the one named cannot be run.
    """
    if named is not None:
        return _checked(named, environ)
    usual = [os.path.expanduser(place) for place in _USUAL_PLACES]
    for places in ([environ.get("PATH", os.defpath)], usual):
        for name in ("llama-server", "llama"):
            found = shutil.which(name, path=os.pathsep.join(places))
            if found and (name != "llama" or _serves(found, environ)):
                return _command(found)
    answer = ask("llama-server was not found. Its path (empty to stop): ")
    if answer:
        return _checked(answer, environ)
    raise InstallError("llama-server is not on PATH", hint=how_to_get_it(environ), status=EXIT_UNAVAILABLE)


def _checked(named: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    found = shutil.which(os.path.expanduser(named), path=environ.get("PATH"))
    if found:
        return _command(found)
    what = "cannot be run" if Path(named).exists() else "there is no such program"
    raise InstallError(f"--server {named}: {what}", hint=how_to_get_it(environ), status=EXIT_USAGE)


def _command(found: str) -> tuple[str, ...]:
    """llama.cpp's own installer brings one program, `llama`, whose command `serve` is llama-server."""
    path = os.path.abspath(found)
    return (path, "serve") if os.path.basename(path) == "llama" else (path,)


def _serves(path: str, environ: Mapping[str, str]) -> bool:
    """Whether a program named `llama` is llama.cpp's: there are others of that name."""
    done = _run((path, "serve"), ["--version"], environ)
    return done.returncode == 0 and "version" in done.stdout + done.stderr


def inspect(command: tuple[str, ...], environ: Mapping[str, str]) -> Build:
    """What the server says of itself.

    Raises:
        InstallError: it cannot be run, or does not start, e.g. for want of a library.
    """
    version = _last_line(_answered(command, ["--version"], environ), first=True)
    listed = _answered(command, ["--help"], environ).stdout
    options = frozenset(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*", listed))
    if not options:
        raise InstallError(f"{' '.join(command)} --help lists no options: is it llama-server?", status=EXIT_UNAVAILABLE)
    devices = None
    if _LIST_DEVICES in options:
        output = _answered(command, [_LIST_DEVICES], environ).stdout
        found = (
            Device(name, text, int(all_) * MIB, int(free) * MIB) for name, text, all_, free in _DEVICE.findall(output)
        )
        devices = tuple(device for device in found if device.total)  # some accelerators have no memory of their own
    return Build(command, version, options, devices)


def check_arguments(build: Build, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Has the server itself read the arguments that the unit will have; it starts nothing.

    Raises:
        InstallError: it does not know an option, or does not take a value; in the server's own words.
    """
    last = _LIST_DEVICES if _LIST_DEVICES in build.options else "--version"
    done = _run(build.command, [*_without_key_file(arguments), last], environ)
    if done.returncode == 0:
        return
    lines = (done.stderr + done.stdout).splitlines()
    problem = next((line for line in lines if line.lower().startswith("error")), _last_line(done))
    problem = problem[len("error: ") :] if problem.startswith("error: ") else problem
    asked = next((word for word in arguments if word.startswith("-") and word in problem), "")
    near = sorted(option for option in build.options if asked.strip("-") and asked.strip("-") in option)
    hint = f"{build.version} knows: {', '.join(near)}" if near and asked not in build.options else ""
    raise InstallError(f"llama-server does not take these options: {problem}", hint=hint, status=EXIT_USAGE)


def _without_key_file(arguments: Sequence[str]) -> list[str]:
    """The server reads the key while it reads its arguments, and that file is perhaps yet to be made."""
    words = list(arguments)
    if "--api-key-file" in words:
        at = words.index("--api-key-file")
        del words[at : at + 2]
    return words


def _answered(
    command: tuple[str, ...], arguments: list[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    done = _run(command, arguments, environ)
    if done.returncode:
        shown = " ".join([*command, *arguments])
        how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise InstallError(f"{shown} failed ({how}): {_last_line(done)}", status=EXIT_UNAVAILABLE)
    return done


def _run(
    command: tuple[str, ...], arguments: list[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    # Not with options of this shell's: the service will have those of its unit.
    clean = {name: value for name, value in environ.items() if not name.startswith("LLAMA_")}
    try:
        return subprocess.run(
            [*command, *arguments],
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallError(f"{' '.join(command)} cannot be run: {error}", status=EXIT_UNAVAILABLE) from error


def _last_line(done: subprocess.CompletedProcess[str], *, first: bool = False) -> str:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["it said nothing"]
    return lines[0 if first else -1].strip()
