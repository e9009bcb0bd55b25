"""A socket under the limits of the call that uses it: connecting, sending, receiving."""

from __future__ import annotations

import socket
import sys

from ..errors import FlynnError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

    from .call import Call
    from .endpoint import Endpoint

BLOCK = 64 * 1024  # bytes that are received, or gathered to be sent, at once


def connect(target: Endpoint, call: Call) -> socket.socket:
    """A connected socket; the addresses of a name are tried in turn."""
    addresses: Any
    if target.socket_path is not None:
        addresses = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", target.socket_path)]
    else:
        # As bytes: for a str the codec idna is loaded, which takes two milliseconds, and an endpoint's host is ASCII.
        addresses = socket.getaddrinfo(target.host.encode("ascii"), target.port, type=socket.SOCK_STREAM)
    failure: Optional[OSError] = None
    for family, kind, protocol, _, address in addresses:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a kernel without IPv6
            failure = error
            continue
        try:
            call.attach(sock)
            sock.settimeout(call.limit())
            sock.connect(address)
            if target.socket_path is None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        except BaseException as error:
            call.detach()
            sock.close()
            ends_it = isinstance(error, (FlynnError, socket.timeout)) or is_from_handler(error)
            if ends_it or not isinstance(error, OSError):
                raise
            failure = error
    raise failure or OSError("the name has no address")


class Wire:
    """A socket, each operation under the limits of the call that has the connection."""

    def __init__(self, sock: socket.socket, call: Call) -> None:
        self.sock = sock
        self._limit: Optional[float] = -1.0
        self.begin(call)

    def begin(self, call: Call) -> None:
        """The next response is this call's."""
        self.call = call
        self.received = 0
        self.ended = False

    def receive(self) -> bytes:
        """The next bytes, as soon as some have come; empty at the end of the connection."""
        waited = 0.0
        while True:
            patience = self.call.patience(waited)
            self._set_limit(patience)
            try:
                data = self.sock.recv(BLOCK)
                break
            except socket.timeout as error:
                if error.errno or is_from_handler(error):  # ETIMEDOUT is of the same class
                    raise
                waited += patience
        self.received += len(data)
        self.ended = not data
        return data

    def receive_ready(self) -> bytes:
        """As `receive`, but raises BlockingIOError if nothing has come."""
        self._set_limit(0.0)
        data = self.sock.recv(BLOCK)
        self.ended = not data
        return data

    def send(self, head: bytes, body: Optional[bytes] = None) -> None:
        """Send a request. Its parts go together, if they are small: they wake the server once, not twice."""
        if body is not None and len(body) <= BLOCK:
            head, body = head + body, None
        self._set_limit(self.call.limit())
        self.sock.sendall(head)
        if body is not None:
            self.sock.sendall(body)

    def look(self) -> None:
        """Take what has come, if anything has. Raises BlockingIOError, or for TLS SSLWantReadError, if nothing has."""
        self._set_limit(0.0)
        self.sock.recv(1)

    def _set_limit(self, limit: Optional[float]) -> None:
        if limit != self._limit:  # a system call, which is seldom needed
            self._limit = limit
            self.sock.settimeout(limit)


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal's handler raised it in the middle of a wait. Then it is the caller's own, of whatever class."""
    signal = sys.modules.get("signal")  # who has set a handler has imported it
    if signal is None:
        return False
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in handlers:
        trace = trace.tb_next
    return trace is not None
