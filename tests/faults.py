"""What goes wrong between a client and a server: faults for `Proxy`, `forwarding` and `Peer.fault` of scripted.py."""

from __future__ import annotations

import random
import re
import socket
import time
from typing import Callable

from scripted import Fault, Gone, Peer, response

HTML = b"<html><body>Please log in</body></html>"


def _after(count: int, then: Callable[[Peer, bytes], None]) -> Fault:
    """A fault that comes when `count` bytes have gone; `then` is given the rest of what was to be sent."""

    def fault(peer: Peer, data: bytes) -> None:
        left = max(count - peer.sent, 0)
        if len(data) < left:
            peer.put(data)
        else:
            peer.put(data[:left])
            then(peer, data[left:])

    return fault


def cut(after: int, how: str = "fin") -> Fault:
    """The connection ends, with a FIN or with a RST."""

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
    """A FIN in this direction only: the server does not speak any more, but would listen."""

    def then(peer: Peer, rest: bytes) -> None:
        peer.sock.shutdown(socket.SHUT_WR)
        peer.stall()

    return _after(after, then)


def garbage(after: int, seed: int = 0) -> Fault:
    """Bytes that are no part of any text in UTF-8 stand between those of the answer, once."""
    noise = bytes(random.Random(seed).randrange(0xF8, 0x100) for _ in range(8))
    spoilt = False

    def then(peer: Peer, rest: bytes) -> None:
        nonlocal spoilt
        peer.put(rest if spoilt else noise + rest)
        spoilt = True

    return _after(after, then)


def drip(pause: float = 0.0, size: int = 1) -> Fault:
    """A few bytes at a time, each in a packet of its own."""

    def fault(peer: Peer, data: bytes) -> None:
        for start in range(0, len(data), size):
            peer.put(data[start : start + size])
            time.sleep(pause)

    return fault


def rewrite(pattern: str, replacement: str) -> Fault:
    """The first place that a regular expression finds is replaced. Looks at one packet at a time."""
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
    """A 200 with a page, as from the login of a hotel's network."""

    def fault(peer: Peer, data: bytes) -> None:
        if not peer.sent:
            peer.put(response(HTML, kind="text/html"))

    return fault
