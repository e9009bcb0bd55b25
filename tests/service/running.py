"""Query and change a service that systemd runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from .session import Session


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def drop_in(session: Session, text: str) -> Iterator[None]:
    """Install a drop-in, as `systemctl --user edit llama-server` does, until the block ends."""
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
    """Return the command line of the running llama-server."""
    return Path(f"/proc/{user.show('llama-server', 'MainPID')}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def health(port: int, path: str = "/health", *, body: Optional[object] = None) -> Optional[int]:
    """Return the status of a GET, or of a POST if there is a body; None if no server answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    return status(connection, path, body)


def health_at_socket(unix: Path) -> Optional[int]:
    """Return the status of /health at a UNIX socket; None if no server answers."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        connection.sock.connect(str(unix))
        return status(connection, "/health", None)
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
