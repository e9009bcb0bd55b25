"""Runs the command `flynn` as people do: in a process of its own, with pipes or on a terminal."""

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
_NOT_KEPT = ("FLYNN_", "XDG_", "LC_", "LANG", "NO_COLOR", "PYTHON")
_TIMEOUT = 60.0  # seconds for what takes a moment on an idle machine


def environment(home: Path, **variables: str) -> Dict[str, str]:
    """The environment of a user who has configured nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_KEPT)}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "TERM": "xterm", **variables}


class Home:
    """An empty home directory, and the command run in it.

    Attributes:
        path: of the directory, in which commands run.
        variables: added to their environment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.variables: Dict[str, str] = {}

    def write(self, name: str, text: str, mode: int = 0o600) -> str:
        """Make a file; its path."""
        file = self.path / name
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        return str(file)

    def run(self, *arguments: str, stdin: str = "", python: Sequence[str] = FLYNN, **options: Any) -> Ended:
        """Run `flynn ARGUMENTS` with pipes, to its end."""
        with self._popen([*python, *arguments], environment(self.path, **self.variables), options) as process:
            try:
                out, err = process.communicate(stdin.encode(), timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())

    def start(self, *arguments: str, python: Sequence[str] = FLYNN, **options: Any) -> subprocess.Popen[bytes]:
        """Start `flynn ARGUMENTS` with pipes. It may be sent signals."""
        return self._popen([*python, *arguments], _unmeasured(environment(self.path, **self.variables)), options)

    def _popen(self, command: List[str], env: Dict[str, str], options: Dict[str, Any]) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=self.path, env=env, **pipes)

    def terminal(self, *arguments: str, python: Sequence[str] = FLYNN, **options: Any) -> Terminal:
        """Start `flynn ARGUMENTS` on a terminal."""
        return Terminal([*python, *arguments], self.path, environment(self.path, **self.variables), **options)


class Ended:
    """How a command ended: its exit code and what it printed. Compares with a tuple of these."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __eq__(self, other: object) -> bool:
        return (self.code, self.out, self.err) == other

    def __repr__(self) -> str:
        return repr((self.code, self.out, self.err))


# Makes standard error this session's terminal, so that a typed Ctrl-C becomes SIGINT, and then turns into the command.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command on a terminal of 100 columns.

    Args:
        options: of Popen, for those streams that are not to be the terminal.

    Attributes:
        text: all that the terminal got so far.
    """

    def __init__(self, command: List[str], folder: Path, env: Mapping[str, str], **options: Any) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        streams = {"stdin": slave, "stdout": slave, "stderr": slave, **options}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _ON_TERMINAL, *command],
            cwd=folder,
            env=_unmeasured(env),
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
        """Wait for a text; what came since the last one that was waited for, it included."""
        deadline = time.monotonic() + _TIMEOUT
        while (found := self.text.find(text, self._read_to)) < 0:
            more = self._read() and time.monotonic() < deadline
            assert more, f"{text!r} did not come, but {self.text[self._read_to :]!r}"
        start, self._read_to = self._read_to, found + len(text)
        return self.text[start : self._read_to]

    def end(self) -> int:
        """Wait until the command ends; its exit code."""
        while self._read():
            pass
        return self.process.wait(_TIMEOUT)

    def _read(self) -> bool:
        """Wait for more; False if the command has ended."""
        deadline = time.monotonic() + _TIMEOUT
        ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
        assert ready, f"nothing more after {self.text!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._master)  # hangs up
        try:
            self.process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def routes(answers: Mapping[str, bytes], chat: Optional[Script] = None) -> Script:
    """A script that answers by method and path, e.g. `"GET /health"`, and 204 to whoever ends a stream.

    Args:
        chat: takes over the connection after a request to the chat route.
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


def _unmeasured(env: Mapping[str, str]) -> Dict[str, str]:
    """Without coverage: a signal's handler that raises while that holds its lock leaves it locked, and all waits."""
    return {name: value for name, value in env.items() if name != "COVERAGE_PROCESS_CONFIG"}
