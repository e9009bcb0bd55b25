"""Faults on the wire, for `Proxy`, `forwarding` and `Peer.fault` of scripted.py."""

from __future__ import annotations

import random
import re
import socket
import time
from typing import Callable

from scripted import Disconnected, Fault, Peer, response

HTML = b"<html><body>Please log in</body></html>"


def _after(count: int, then: Callable[[Peer, bytes], None]) -> Fault:
    """Return a fault that starts after `count` sent bytes: `then` is called with all later bytes."""

    def fault(peer: Peer, data: bytes) -> None:
        remaining = max(count - peer.sent, 0)
        if len(data) < remaining:
            peer.put(data)
        else:
            peer.put(data[:remaining])
            then(peer, data[remaining:])

    return fault


def cut(after: int, packet: str = "fin") -> Fault:
    """End the connection after so many bytes, with a FIN ("fin") or a RST ("rst")."""

    def then(peer: Peer, rest: bytes) -> None:
        if packet == "rst":
            peer.reset()
        else:
            peer.sock.shutdown(socket.SHUT_RDWR)
            peer.close()
        raise Disconnected

    return _after(after, then)


def stall(after: int) -> Fault:
    """Send nothing more after so many bytes, but keep the connection open."""
    return _after(after, lambda peer, rest: peer.stall())


def half_close(after: int) -> Fault:
    """Send a FIN after so many bytes, but go on receiving."""

    def then(peer: Peer, rest: bytes) -> None:
        peer.sock.shutdown(socket.SHUT_WR)
        peer.stall()

    return _after(after, then)


def garbage(after: int, seed: int = 0) -> Fault:
    """Insert, once, eight bytes that cannot occur in UTF-8."""
    noise = bytes(random.Random(seed).randrange(0xF8, 0x100) for _ in range(8))
    inserted = False

    def then(peer: Peer, rest: bytes) -> None:
        nonlocal inserted
        peer.put(rest if inserted else noise + rest)
        inserted = True

    return _after(after, then)


def drip(pause: float = 0.0, size: int = 1) -> Fault:
    """Send `size` bytes at a time, with `pause` seconds after each piece."""

    def fault(peer: Peer, data: bytes) -> None:
        for start in range(0, len(data), size):
            peer.put(data[start : start + size])
            time.sleep(pause)

    return fault


def rewrite(pattern: str, replacement: str) -> Fault:
    """Replace the first match of a regular expression. Each packet is searched on its own."""
    done = False

    def fault(peer: Peer, data: bytes) -> None:
        nonlocal done
        if not done:
            data, count = re.subn(pattern.encode(), replacement.encode(), data, count=1, flags=re.DOTALL)
            done = count > 0
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
    """Send a 200 with an HTML page instead, like the login page of a hotel's network."""

    def fault(peer: Peer, data: bytes) -> None:
        if not peer.sent:
            peer.put(response(HTML, kind="text/html"))

    return fault
