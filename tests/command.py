"""Run the command `flynn` as users do: as a process, with pipes or on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from scripted import Peer, Script, response

ROOT = Path(__file__).parent.parent
FLYNN = (sys.executable, "-W", "error", "-m", "flynn")
_REMOVED = ("FLYNN_", "XDG_", "LC_", "LANG", "NO_COLOR", "PYTHON")
_TIMEOUT = 60.0  # seconds; on an idle machine everything takes only a moment


def environment(home: Path, **variables: str) -> Dict[str, str]:
    """Return the environment variables of a user who has configured nothing, plus `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_REMOVED)}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "TERM": "xterm", **variables}


class Home:
    """A home directory, which is also the working directory of the commands.

    Attributes:
        path: the path of the directory.
        variables: environment variables of the commands, besides those of `environment`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.variables: Dict[str, str] = {}

    def write(self, name: str, text: str, mode: int = 0o600) -> str:
        """Write a file. Returns its path."""
        file = self.path / name
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        return str(file)

    def run(self, *arguments: str, stdin: str = "", python: Sequence[str] = FLYNN, **options: Any) -> Ended:
        """Run `flynn ARGUMENTS` with pipes until it ends."""
        with self._popen([*python, *arguments], environment(self.path, **self.variables), options) as process:
            try:
                out, err = process.communicate(stdin.encode(), timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())

    def start(self, *arguments: str, python: Sequence[str] = FLYNN, **options: Any) -> subprocess.Popen[bytes]:
        """Start `flynn ARGUMENTS` with pipes. The test may send it signals."""
        return self._popen([*python, *arguments], _without_coverage(environment(self.path, **self.variables)), options)

    def _popen(self, command: List[str], env: Dict[str, str], options: Dict[str, Any]) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=self.path, env=env, **pipes)

    def terminal(self, *arguments: str, python: Sequence[str] = FLYNN, **options: Any) -> Terminal:
        """Start `flynn ARGUMENTS` on a terminal."""
        return Terminal([*python, *arguments], self.path, environment(self.path, **self.variables), **options)


class Ended:
    """The exit code and the output of a command. Equal to the tuple (code, out, err)."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __eq__(self, other: object) -> bool:
        return (self.code, self.out, self.err) == other

    def __repr__(self) -> str:
        return repr((self.code, self.out, self.err))


# Makes standard error the controlling terminal, so that Ctrl-C sends SIGINT, and then executes the command.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command on a terminal of 100 columns and 40 lines.

    Args:
        options: arguments of Popen for the streams that are not the terminal, e.g. `stdout=subprocess.PIPE`.

    Attributes:
        process: the running command.
        text: everything printed on the terminal so far.
    """

    def __init__(self, command: List[str], folder: Path, env: Mapping[str, str], **options: Any) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        streams = {"stdin": slave, "stdout": slave, "stderr": slave, **options}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _ON_TERMINAL, *command],
            cwd=folder,
            env=_without_coverage(env),
            start_new_session=True,
            **streams,
        )
        os.close(slave)
        self.text = ""
        self._read_to = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        self.type("\x03")

    def expect(self, text: str) -> str:
        """Wait until `text` is printed. Returns the output since the last `expect`, up to the end of `text`."""
        deadline = time.monotonic() + _TIMEOUT
        while (position := self.text.find(text, self._read_to)) < 0:
            more = self._read() and time.monotonic() < deadline
            assert more, f"{text!r} was not printed, but {self.text[self._read_to :]!r}"
        start, self._read_to = self._read_to, position + len(text)
        return self.text[start : self._read_to]

    def end(self) -> int:
        """Wait until the command ends. Returns its exit code."""
        while self._read():
            pass
        return self.process.wait(_TIMEOUT)

    def _read(self) -> bool:
        """Wait for more output. Returns False if the command has ended."""
        ready, _, _ = select.select([self._master], [], [], _TIMEOUT)
        assert ready, f"no more output after {self.text!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: no process has the terminal open any more
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._master)  # sends SIGHUP
        try:
            self.process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def routes(answers: Mapping[str, bytes], chat: Optional[Script] = None) -> Script:
    """Return a script that answers by method and path, e.g. `"GET /health"`; other routes get a 404.

    The request that deletes a stream gets a 204.

    Args:
        chat: is called with the connection after each request to the chat route.
    """

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            route = f"{request.method} {request.target.partition('?')[0]}"
            if chat and route == "POST /v1/chat/completions":
                chat(peer)
            elif route == "DELETE /v1/stream":
                peer.send(response(status="204 No Content"))
            else:
                peer.send(answers.get(route, response(b"{}", "404 Not Found")))

    return script


def _without_coverage(env: Mapping[str, str]) -> Dict[str, str]:
    """Remove coverage: a signal handler that raises while coverage holds its lock would cause a deadlock."""
    return {name: value for name, value in env.items() if name != "COVERAGE_PROCESS_CONFIG"}
