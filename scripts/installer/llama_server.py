"""Find llama-server and query it: version, options, devices, and whether it accepts our arguments."""

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
from .hardware import MIB
from .obtain import install_hint

BACKEND_SAMPLING = "--backend-sampling"
SLEEP = "--sleep-idle-seconds"
CORS = "--cors-origins"
PRESETS = "--models-preset"
_LIST_DEVICES = "--list-devices"
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
    """A GPU as llama-server lists it: name, description, total and free bytes of its memory."""

    name: str
    description: str
    total: int
    free: int


@dataclass(frozen=True)
class Build:
    """A llama-server: its command line, version, options, and the GPUs that it can use.

    `command` is the path of llama-server, or the path of `llama` and the word `serve`. `devices` is None if the build
    is too old to list them.
    """

    command: tuple[str, ...]
    version: str
    options: frozenset[str]
    devices: Optional[tuple[Device, ...]]


def find(named: Optional[str], environ: Mapping[str, str], ask: Callable[[str], Optional[str]]) -> tuple[str, ...]:
    """Return the command line of llama-server: from `named`, PATH, a usual folder, or the user's answer.

    Args:
        named: the value of `--server`: a path, or a name to search on PATH, of llama-server or `llama`.
        ask: asks the user a question; returns None if there is no terminal.

    Raises:
        InstallError: llama-server was not found, or `named` cannot be run.
    """
    if named is not None:
        return _checked(named, environ)
    usual = [os.path.expanduser(place) for place in _USUAL_PLACES]
    for places in ([environ.get("PATH", os.defpath)], usual):
        for name in ("llama-server", "llama"):
            path = shutil.which(name, path=os.pathsep.join(places))
            if path and (name != "llama" or _serves(path, environ)):
                return _command(path)
    answer = ask("llama-server was not found. Enter its path (empty to stop): ")
    if answer:
        return _checked(answer, environ)
    raise InstallError("llama-server is not on PATH", hint=install_hint(), status=EXIT_UNAVAILABLE)


def _checked(named: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    path = shutil.which(os.path.expanduser(named), path=environ.get("PATH"))
    if path:
        return _command(path)
    problem = "not an executable file" if Path(named).exists() else "no such program"
    raise InstallError(f"--server {named}: {problem}", hint=install_hint(), status=EXIT_USAGE)


def _command(program: str) -> tuple[str, ...]:
    """Return the command line of a program. With llama.cpp's single program `llama`, llama-server is `llama serve`."""
    path = os.path.abspath(program)
    return (path, "serve") if os.path.basename(path) == "llama" else (path,)


def _serves(path: str, environ: Mapping[str, str]) -> bool:
    """Return True if a program named `llama` is llama.cpp's: other projects use the name, too."""
    done = _run((path, "serve"), ["--version"], environ)
    return done.returncode == 0 and "version" in done.stdout + done.stderr


def inspect(command: tuple[str, ...], environ: Mapping[str, str]) -> Build:
    """Query version, options and devices of the server.

    Raises:
        InstallError: the server cannot be run or fails, e.g. because a library is missing.
    """
    version = _last_line(_run_successfully(command, ["--version"], environ), first=True)
    help_text = _run_successfully(command, ["--help"], environ).stdout
    options = frozenset(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*", help_text))
    if not options:
        raise InstallError(f"{' '.join(command)} --help lists no options: is it llama-server?", status=EXIT_UNAVAILABLE)
    devices = None
    if _LIST_DEVICES in options:
        output = _run_successfully(command, [_LIST_DEVICES], environ).stdout
        listed = (
            Device(name, text, int(all_) * MIB, int(free) * MIB) for name, text, all_, free in _DEVICE.findall(output)
        )
        devices = tuple(device for device in listed if device.total)  # some accelerators have no memory of their own
    return Build(command, version, options, devices)


def check_arguments(build: Build, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Run the server with the unit's arguments and an option that ends it at once, so that it parses them.

    Raises:
        InstallError: the server refuses an option or a value; the message quotes the server.
    """
    last = _LIST_DEVICES if _LIST_DEVICES in build.options else "--version"
    done = _run(build.command, [*_without_key_file(arguments), last], environ)
    if done.returncode == 0:
        return
    lines = (done.stderr + done.stdout).splitlines()
    problem = next((line for line in lines if line.lower().startswith("error")), _last_line(done))
    problem = problem[len("error: ") :] if problem.startswith("error: ") else problem
    refused = next((word for word in arguments if word.startswith("-") and word in problem), "")
    similar = sorted(option for option in build.options if refused.strip("-") and refused.strip("-") in option)
    hint = f"{build.version} supports: {', '.join(similar)}" if similar and refused not in build.options else ""
    raise InstallError(f"llama-server refuses these options: {problem}", hint=hint, status=EXIT_USAGE)


def _without_key_file(arguments: Sequence[str]) -> list[str]:
    """Drop --api-key-file: the server reads the file while parsing, and it may not exist yet."""
    words = list(arguments)
    if "--api-key-file" in words:
        index = words.index("--api-key-file")
        del words[index : index + 2]
    return words


def _run_successfully(
    command: tuple[str, ...], arguments: list[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    done = _run(command, arguments, environ)
    if done.returncode:
        command_line = " ".join([*command, *arguments])
        status = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise InstallError(f"{command_line} failed ({status}): {_last_line(done)}", status=EXIT_UNAVAILABLE)
    return done


def _run(
    command: tuple[str, ...], arguments: list[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    # Ignore the LLAMA_ variables of this shell: the service will not have them.
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
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["(no output)"]
    return lines[0 if first else -1].strip()
