"""What goes wrong between a client and a server, on purpose, and on loopback only.

cut, stall, drip, …   faults: each spoils what one connection carries to the client
Proxy                 stands before any server; each connection through it may have a fault
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import socketserver
import struct
import sys
import threading
import time
from collections import deque
from typing import Any, Callable, Dict, Optional
from urllib.parse import urlsplit

from scripted import Gone, response

HTML = b"<html><body>Please log in</body></html>"


# --- faults -----------------------------------------------------------------------------------------------------------


class Ended(Exception):
    """A fault has ended the connection."""


class Wire:
    """The way to the client, with a fault in it."""

    def __init__(self, sock: socket.socket, fault: Fault) -> None:
        self.sock = sock
        self.sent = 0
        self._fault = fault

    def write(self, data: bytes) -> None:
        """What the server has to say; the fault decides what becomes of it."""
        self._fault(self, data)

    def put(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.sent += len(data)

    def end(self, how: str) -> None:
        """Close the connection with a FIN, or with a RST."""
        if how == "rst":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        raise Ended

    def gone(self, seconds: Optional[float] = 0.0) -> bool:
        """Whether the client has closed the connection; None waits until it has."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def wait(self) -> None:
        """Say nothing more."""
        self.gone(None)
        self.end("fin")


Fault = Callable[[Wire, bytes], None]


def passing() -> Fault:
    return Wire.put


def _after(count: int, then: Callable[[Wire, bytes], None]) -> Fault:
    """A fault that comes when `count` bytes have gone; `then` is given the rest of what was to be sent."""

    def fault(wire: Wire, data: bytes) -> None:
        left = max(count - wire.sent, 0)
        if len(data) < left:
            wire.put(data)
        else:
            wire.put(data[:left])
            then(wire, data[left:])

    return fault


def cut(after: int, how: str = "fin") -> Fault:
    return _after(after, lambda wire, rest: wire.end(how))


def stall(after: int) -> Fault:
    return _after(after, lambda wire, rest: wire.wait())


def half_close(after: int) -> Fault:
    """A FIN in this direction only: the server does not speak any more, but would listen."""

    def then(wire: Wire, rest: bytes) -> None:
        wire.sock.shutdown(socket.SHUT_WR)
        wire.wait()

    return _after(after, then)


def garbage(after: int, seed: int = 0) -> Fault:
    """Bytes that are no part of any text in UTF-8 stand between those of the answer, once."""
    noise = bytes(random.Random(seed).randrange(0xF8, 0x100) for _ in range(8))
    spoilt = False

    def then(wire: Wire, rest: bytes) -> None:
        nonlocal spoilt
        wire.put(rest if spoilt else noise + rest)
        spoilt = True

    return _after(after, then)


def drip(pause: float = 0.0, size: int = 1) -> Fault:
    """A few bytes at a time, each in a packet of its own."""

    def fault(wire: Wire, data: bytes) -> None:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            wire.put(data[start : start + size])
            time.sleep(pause)

    return fault


def rewrite(pattern: str, replacement: str) -> Fault:
    """The first place that a regular expression finds is replaced. Looks at one packet at a time."""
    done = False

    def fault(wire: Wire, data: bytes) -> None:
        nonlocal done
        if not done:
            data, found = re.subn(pattern.encode(), replacement.encode(), data, count=1, flags=re.DOTALL)
            done = bool(found)
        wire.put(data)

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

    def fault(wire: Wire, data: bytes) -> None:
        if not wire.sent:
            wire.put(response(HTML, kind="text/html"))

    return fault


FAULTS: Dict[str, Callable[..., Fault]] = {
    made.__name__: made
    for made in (
        cut, stall, half_close, garbage, drip, duplicate_chunk_header, reorder_chunk_header, longer_content_length,
        shorter_content_length, html,
    )
}  # fmt: skip


class LoopbackServer(socketserver.ThreadingTCPServer):
    """A thread for each connection; clients may leave whenever they like."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (OSError, Gone, Ended)):
            super().handle_error(request, client_address)


# --- a proxy ----------------------------------------------------------------------------------------------------------


class Proxy:
    """A TCP proxy. Its first connection has the first fault, and so on; those after the last fault have none.

    with Proxy(server.endpoint, cut(1000), cut(20, "rst")) as proxy:
        LlamaCppClient(proxy.endpoint)
    """

    def __init__(self, endpoint: str, *faults: Fault) -> None:
        url = urlsplit(endpoint)
        target = (url.hostname, url.port)
        waiting = deque(faults)
        self.connections = 0
        self.received = b""  # from clients
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy.connections += 1
                fault = waiting.popleft() if waiting else passing()
                with contextlib.closing(socket.create_connection(target)) as upstream:
                    proxy._pass_on(Wire(self.request, fault), upstream)

        self._server = LoopbackServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.endpoint = f"{url.scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _pass_on(self, wire: Wire, upstream: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([wire.sock, upstream], [], [])
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                if source is upstream:
                    wire.write(data)
                else:
                    self.received += data
                    upstream.sendall(data)
