"""The limits of a call, and its abort from any thread: both are checked before every wait for the peer.

    Call            the limits of one call, which outlives the connections that it uses
    CancelScope     calls that are aborted together
    LimitedSocket   a socket as `http.client` uses it, each operation under the limits of a call

The sockets never block: all waiting is in `Call.wait`, by poll(2). So a peer that sends a byte now and then cannot get
round a limit, `abort` ends every wait, and an exception that a signal handler raises passes through unchanged: no
`except` stands around a wait.
"""

from __future__ import annotations

import contextvars
import io
import math
import os
import select
import socket
import threading
import time
from typing import Any, Callable, List, Optional, TypeVar

from ..errors import ConnectionLostError, FlynnError, ProtocolError, RequestTimeoutError
from ..trace import Report, nothing
from .endpoint import Endpoint

try:
    from ssl import SSLEOFError, SSLError, SSLWantReadError, SSLWantWriteError, SSLZeroReturnError
except ImportError:  # a Python that was built without OpenSSL never raises them

    class SSLError(OSError):  # type: ignore[no-redef]
        pass

    SSLEOFError = SSLWantReadError = SSLWantWriteError = SSLZeroReturnError = SSLError  # type: ignore[assignment, misc]


T = TypeVar("T")

MAX_HEAD = 1024 * 1024  # bytes; http.client limits lines and their number, but not "100 Continue"

# Seconds to wait in one go: a signal that arrives just before a blocking system call is handled only when that returns.
_LONGEST_WAIT = 1.0
_SILENCE = 2.0  # seconds without an answer after which a TLS handshake looks for the reason
_TICK = 0.05  # seconds between two checks for an abort during a pause
_BUFFER = 16 * 1024  # bytes
_SEND = 256 * 1024  # bytes to send at once; the limits are checked in between


class CallAborted(FlynnError):
    """`Call.abort` was called. Never leaves the library: whoever aborts a call knows that it did."""


class CancelScope:
    """Every call made inside the `with` block can be aborted together, from another thread.

    The scope is a context variable: it holds for the code in the block, whatever thread or task runs it.
    """

    def __init__(self) -> None:
        self._calls: List[Call] = []
        self._aborted = False

    def __enter__(self) -> CancelScope:
        self._token = _scope.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _scope.reset(self._token)

    def add(self, call: Call) -> None:
        self._calls.append(call)
        if self._aborted:
            call.abort()

    def abort(self) -> None:
        """Abort the calls under way, and those that will be made in the scope."""
        self._aborted = True
        for call in self._calls:
            call.abort()


_scope: contextvars.ContextVar[Optional[CancelScope]] = contextvars.ContextVar("flynn-cancel-scope", default=None)


class Call:
    """The limits of one call and the means to end it.

    Args:
        timeout: seconds, None for no limit.
        whole: True if the limit is for all of the call, False if it is for each silence on the wire.
        connect_timeout: seconds for each attempt to connect to an address, None for no other limit than the call's.
        scoped: whether the `CancelScope` around it ends it too.
        report: called with each event of the call, for logs and traces.
    """

    def __init__(
        self,
        timeout: Optional[float],
        *,
        whole: bool,
        connect_timeout: Optional[float] = None,
        scoped: bool = True,
        report: Report = nothing,
    ) -> None:
        self.timeout = timeout
        self.whole = whole
        self.connect_timeout = connect_timeout
        self.report = report
        self.aborted = False
        self._silence = math.inf if whole or timeout is None else timeout
        self._deadline = math.inf if not whole or timeout is None else time.monotonic() + timeout
        self._socket: Optional[socket.socket] = None
        self._pid = os.getpid()
        # Reentrant: the garbage collector may find a stream, and so abort its call, while the lock is held.
        self._lock = threading.RLock()
        scope = _scope.get() if scoped else None
        if scope is not None:
            scope.add(self)

    @property
    def is_ours(self) -> bool:
        """False in a forked child: the call belongs to its parent."""
        return self._pid == os.getpid()

    def ended(self, error: BaseException) -> None:
        """Report that the call ended without an answer."""
        if isinstance(error, FlynnError) and not isinstance(error, CallAborted):
            self.report("error", error=error)
        else:
            self.report("closed")

    def check(self, silent_since: float = math.inf) -> float:
        """Return the seconds that the call may go on waiting, `math.inf` for no limit.

        Args:
            silent_since: when the peer gave its last sign of life (`time.monotonic`).

        Raises:
            RequestTimeoutError: no time is left.
            CallAborted: the call was ended from outside.
        """
        if self.aborted:
            raise CallAborted
        left = min(self._deadline, silent_since + self._silence) - time.monotonic()
        if left <= 0:
            raise RequestTimeoutError
        return left

    def wait(
        self, sock: socket.socket, silent_since: float, *, writing: bool = False, most: Optional[float] = None
    ) -> bool:
        """Wait until a socket is readable or writable. Returns False once `most` seconds have passed.

        Raises what `check` raises.
        """
        end = math.inf if most is None else time.monotonic() + most
        while not _is_ready(sock, writing, min(self.check(silent_since), end - time.monotonic(), _LONGEST_WAIT)):
            if time.monotonic() >= end:
                return False
        return True

    def pause(self, seconds: float) -> None:
        """Sleep. Raises what `check` raises, as soon as it does."""
        end = time.monotonic() + seconds
        while (left := min(end - time.monotonic(), self.check())) > 0:
            time.sleep(min(left, _TICK))

    def attach(self, sock: socket.socket) -> None:
        """Register the socket that `abort` shuts down."""
        with self._lock:
            self._socket = sock
        if self.aborted:
            raise CallAborted

    def detach(self) -> None:
        """Forget the socket: `abort` leaves it alone, so that another call may have it."""
        with self._lock:
            self._socket = None

    def abort(self) -> None:
        """Abort the call, from any thread, even while another thread is blocked in it."""
        self.aborted = True
        if not self.is_ours:
            return
        with self._lock:
            if self._socket is not None:
                try:
                    # Not SSLSocket.shutdown: it takes the TLS state away from under a thread that is reading.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    pass


def _is_ready(sock: socket.socket, writing: bool, seconds: float) -> bool:
    if not hasattr(select, "poll"):  # Windows
        sockets = [sock]
        return any(select.select([] if writing else sockets, sockets if writing else [], sockets, max(seconds, 0)))
    poll = select.poll()
    poll.register(sock, select.POLLOUT if writing else select.POLLIN)
    return bool(poll.poll(math.ceil(max(seconds, 0) * 1000)))


class LimitedSocket:
    """A socket as `http.client` uses it: it sends with `sendall`, and reads from the file that `makefile` returns.

    Args:
        sock: connected; it is made non-blocking.
        call: the call that uses the connection.
        expected: what the peer should send, for errors.

    Attributes:
        received: bytes since the call began to use the connection.
        ended: whether the peer has closed the connection.
        in_head: whether the head of a response is being read; its size is limited.
        draining: whether reads return only bytes that are already buffered.
    """

    def __init__(self, sock: socket.socket, call: Call, expected: str = "an HTTP response") -> None:
        sock.setblocking(False)
        self.sock = sock
        self._is_plain = type(sock) is socket.socket
        self._expected = expected
        self._use_for(call)

    def _use_for(self, call: Call) -> None:
        self.call = call
        self.received = 0
        self.ended = self.draining = False
        self.in_head = True

    def begin(self, call: Call) -> None:
        """Use a kept connection for another call. Raises CallAborted if it was aborted."""
        self._use_for(call)
        call.attach(self.sock)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self), _BUFFER)

    def recv_into(self, buffer: Any) -> Optional[int]:
        """Wait for bytes and receive them. Returns their number, 0 at the end, None while `draining`."""
        if self.draining:
            return None
        if self._is_plain:  # of a stream the next bytes are seldom there already; TLS may have them in its own buffer
            self.call.wait(self.sock, time.monotonic())
        size = self._complete(self.sock.recv_into, buffer)
        if not size:
            self.call.check()  # `abort` ends the connection too
            self.ended = True
        self.received += size
        if self.in_head and self.received > MAX_HEAD:
            raise ProtocolError(f"expected {self._expected}, got headers of more than {MAX_HEAD} bytes")
        return size

    def sendall(self, data: bytes) -> None:
        """Send bytes. Stops without an error if the peer has stopped reading: it may have answered (401, 413)."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._complete(self.sock.send, view[:_SEND], writing=True) :]
        except ConnectionLostError:
            pass

    def secured(self, context: Any, endpoint: Endpoint, when_silent: Callable[[], None]) -> LimitedSocket:
        """Do the TLS handshake, limited as a whole. Returns the encrypted socket.

        Args:
            when_silent: called if the server does not answer for a while: it may be waiting for plain HTTP.
        """
        wrapped = context.wrap_socket(self.sock, server_hostname=endpoint.host, do_handshake_on_connect=False)
        limited = LimitedSocket(wrapped, self.call, f"a TLS server at {endpoint.text}")
        try:
            self.call.attach(wrapped)
            limited._complete(wrapped.do_handshake, when_silent=when_silent)
        except BaseException:
            limited.close()
            raise
        limited._expected = self._expected
        return limited

    def _complete(
        self,
        operation: Callable[..., T],
        *arguments: Any,
        writing: bool = False,
        when_silent: Optional[Callable[[], None]] = None,
    ) -> T:
        """Repeat a non-blocking operation until it is done, waiting in between.

        Args:
            writing: whether the operation waits for room to write.
            when_silent: called once if the peer sends nothing for `_SILENCE` seconds.

        Raises:
            RequestTimeoutError, CallAborted: see `Call.check`.
            ConnectionLostError: the connection was reset.
            ProtocolError: the peer violates TLS, or its certificate is not trusted.
        """
        began = time.monotonic()
        while True:
            self.call.check(began)
            try:
                return operation(*arguments)
            except BlockingIOError:
                wants_write = writing
            except SSLWantReadError:
                wants_write = False
            except SSLWantWriteError:
                wants_write = True
            except OSError as error:
                if error.errno is None:  # not from the system: a signal handler raised it
                    raise
                raise self._failure(error) from error
            if when_silent and not self.call.wait(self.sock, began, writing=wants_write, most=_SILENCE):
                when_silent()
            when_silent = None
            self.call.wait(self.sock, began, writing=wants_write)

    def _failure(self, error: OSError) -> FlynnError:
        self.call.check()  # an abort is then the reason
        if not isinstance(error, SSLError):
            return ConnectionLostError(f"expected {self._expected}, but the connection was lost: {error.strerror}")
        if isinstance(error, (SSLEOFError, SSLZeroReturnError)):
            return ConnectionLostError(f"expected {self._expected}, but the connection was closed")
        advice = "; $SSL_CERT_FILE may name the certificates to trust" if hasattr(error, "verify_code") else ""
        return ProtocolError(f"expected {self._expected}, got {error}{advice}")

    @property
    def is_dropped(self) -> bool:
        """Whether the peer has closed this idle connection, or sent bytes without a request."""
        try:
            self.sock.recv(1)
        except (BlockingIOError, SSLWantReadError):
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.call.detach()
        self.sock.close()


class _Reader(io.RawIOBase):
    """The socket as a raw stream, for io.BufferedReader."""

    def __init__(self, limited: LimitedSocket) -> None:
        self.limited = limited

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        return self.limited.recv_into(buffer)
