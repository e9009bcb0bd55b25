"""What tests ask of a server that systemd runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

from .session import Session


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def drop_in(session: Session, text: str) -> Iterator[None]:
    """What `systemctl --user edit llama-server` would write, until the block ends."""
    folder = session.unit_dir / "llama-server.service.d"
    folder.mkdir(parents=True)
    (folder / "override.conf").write_text(text)
    try:
        session.systemctl("daemon-reload")
        yield
    finally:
        shutil.rmtree(folder)
        session.systemctl("daemon-reload")


def command_line(user: Session) -> str:
    return Path(f"/proc/{user.show('llama-server', 'MainPID')}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.1)


def health(port: int, path: str = "/health", *, body: Optional[object] = None) -> Optional[int]:
    """The status that the server answers with; None if it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    return status(connection, path, body)


def ask(unix: Path, path: str) -> Optional[int]:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        connection.sock.connect(str(unix))
        return status(connection, path, None)
    connection.close()
    return None


def status(connection: http.client.HTTPConnection, path: str, body: Optional[object]) -> Optional[int]:
    try:
        if body is None:
            connection.request("GET", path)
        else:
            message = {"max_tokens": 4, **body} if isinstance(body, dict) else body
            connection.request("POST", path, json.dumps(message), {"Content-Type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
