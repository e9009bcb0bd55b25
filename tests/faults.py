"""Faults between a client and a server, for `Proxy`, `forwarding` and `Peer.fault` of scripted.py."""

from __future__ import annotations

import random
import re
import socket
import time
from typing import Callable

from scripted import Fault, Gone, Peer, response

HTML = b"<html><body>Please log in</body></html>"


def _after(count: int, then: Callable[[Peer, bytes], None]) -> Fault:
    """A fault after `count` sent bytes; `then` is called with the rest of the data."""

    def fault(peer: Peer, data: bytes) -> None:
        left = max(count - peer.sent, 0)
        if len(data) < left:
            peer.put(data)
        else:
            peer.put(data[:left])
            then(peer, data[left:])

    return fault


def cut(after: int, how: str = "fin") -> Fault:
    """End the connection, with a FIN or a RST."""

    def then(peer: Peer, rest: bytes) -> None:
        if how == "rst":
            peer.reset()
        else:
            peer.sock.shutdown(socket.SHUT_RDWR)
            peer.close()
        raise Gone

    return _after(after, then)


def stall(after: int) -> Fault:
    return _after(after, lambda peer, rest: peer.stall())


def half_close(after: int) -> Fault:
    """Send a FIN in this direction only: the server sends no more, but would still receive."""

    def then(peer: Peer, rest: bytes) -> None:
        peer.sock.shutdown(socket.SHUT_WR)
        peer.stall()

    return _after(after, then)


def garbage(after: int, seed: int = 0) -> Fault:
    """Insert bytes that are invalid in UTF-8, once."""
    noise = bytes(random.Random(seed).randrange(0xF8, 0x100) for _ in range(8))
    spoilt = False

    def then(peer: Peer, rest: bytes) -> None:
        nonlocal spoilt
        peer.put(rest if spoilt else noise + rest)
        spoilt = True

    return _after(after, then)


def drip(pause: float = 0.0, size: int = 1) -> Fault:
    """Send `size` bytes at a time, `pause` seconds apart."""

    def fault(peer: Peer, data: bytes) -> None:
        for start in range(0, len(data), size):
            peer.put(data[start : start + size])
            time.sleep(pause)

    return fault


def rewrite(pattern: str, replacement: str) -> Fault:
    """Replace the first match of a regular expression. Looks at one packet at a time."""
    done = False

    def fault(peer: Peer, data: bytes) -> None:
        nonlocal done
        if not done:
            data, found = re.subn(pattern.encode(), replacement.encode(), data, count=1, flags=re.DOTALL)
            done = bool(found)
        peer.put(data)

    return fault


def duplicate_chunk_header() -> Fault:
    return rewrite(r"([0-9a-f]+\r\n)(data:)", r"\1\1\2")


def reorder_chunk_header() -> Fault:
    return rewrite(r"([0-9a-f]+\r\n)(data:[^\r]*\r\n)", r"\2\1")


def longer_content_length() -> Fault:
    return rewrite("Content-Length: ([0-9]+)", r"Content-Length: \g<1>0")


def shorter_content_length() -> Fault:
    return rewrite("Content-Length: ([0-9]+)[0-9]", r"Content-Length: \1")


def html() -> Fault:
    """Send a page with status 200, like the login page of a hotel's network."""

    def fault(peer: Peer, data: bytes) -> None:
        if not peer.sent:
            peer.put(response(HTML, kind="text/html"))

    return fault
