"""One call: how long it may take, and how it is ended from outside.

A call outlives the connections that it uses (waiting for a model to load, resuming a stream), so its limits and its
cancelling live here and a connection asks them before every operation on its socket.
"""

from __future__ import annotations

import socket
import time
from _thread import RLock, get_ident  # `threading` takes a millisecond to import, and is not needed for these

from ..errors import ConfigError, FlynnError, RequestTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional


DEFAULT_TIMEOUT = 60.0  # seconds

# Seconds. poll(2) takes milliseconds as a C int, and CPython lets a longer timeout of a socket wrap around unnoticed:
# one of 4,294,967.5 s ends after 0.2 s.
MAX_TIMEOUT = 2_147_483
TIMEOUTS = f"a number of seconds above 0 and up to {MAX_TIMEOUT}, or None for no limit"

_LOOK = 1.0  # seconds
_TICK = 0.05  # seconds after which a pause looks whether it was ended


def check_timeout(value: object) -> Optional[float]:
    """A timeout in seconds, None for no limit.

    Raises:
        ConfigError: it is neither None nor a number above 0 that a socket can wait for.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TIMEOUT:
        # A very large int has no repr: Python limits the digits that it converts.
        got = "a larger one" if isinstance(value, int) and value > MAX_TIMEOUT else repr(value)
        raise ConfigError(f"a timeout is {TIMEOUTS}, not {got}")
    return float(value)


class CallAborted(FlynnError):
    """`Call.abort` was called. Never leaves the library: whoever aborts a call knows that it did."""


class Scope:
    """The calls that a thread makes within a `with` block, to be ended together from outside."""

    def __init__(self) -> None:
        self._calls: List[Call] = []
        self._aborted = False

    def __enter__(self) -> Scope:
        _scopes[get_ident()] = self
        return self

    def __exit__(self, *error: object) -> None:
        _scopes.pop(get_ident(), None)

    def add(self, call: Call) -> None:
        """A call that is made here and now."""
        self._calls.append(call)
        if self._aborted:
            call.abort()

    def abort(self) -> None:
        """End the calls under way, and those that are still to be made."""
        self._aborted = True
        for call in self._calls:
            call.abort()


_scopes: Dict[int, Scope] = {}  # by thread


class Call:
    """The limits of one call and the means to end it.

    Args:
        timeout: seconds, None for no limit.
        whole: True if the limit is for all of the call, False if it is for each silence on the wire.
        scoped: whether the `Scope` around it ends it too.
    """

    __slots__ = ("timeout", "aborted", "_deadline", "_socket", "_lock")

    def __init__(self, timeout: Optional[float], *, whole: bool, scoped: bool = True) -> None:
        self.timeout = timeout
        self.aborted = False
        self._deadline = time.monotonic() + timeout if whole and timeout is not None else None
        self._socket: Optional[socket.socket] = None
        # Reentrant: the collector may find a stream, and so abort its call, while another operation holds the lock.
        self._lock = RLock()
        scope = _scopes.get(get_ident())
        if scope is not None and scoped:
            scope.add(self)

    def limit(self) -> Optional[float]:
        """Seconds that the next operation on the socket may take, None for no limit.

        Raises:
            RequestTimeoutError: the limit of the whole call has passed.
            CallAborted: the call was ended from outside.
        """
        if self.aborted:
            raise CallAborted
        if self._deadline is None:
            return self.timeout
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RequestTimeoutError
        return left

    def patience(self, waited: float) -> float:
        """Seconds to wait for the peer at a time: a signal that comes just before a wait CPython handles only after it.

        Args:
            waited: seconds since something came.

        Raises:
            RequestTimeoutError: that is too long, or the limit of the whole call has passed.
            CallAborted: the call was ended from outside.
        """
        left = self.limit()
        if left is None:
            return _LOOK
        if self._deadline is None:
            left -= waited
            if left <= 0:
                raise RequestTimeoutError
        return min(left, _LOOK)

    def end_within(self, seconds: float) -> None:
        """From now on the limit is `seconds`, for all that is left of the call."""
        self._deadline = time.monotonic() + seconds

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than the limit of the whole call allows, and not on after `abort`.

        Raises:
            RequestTimeoutError, CallAborted: as for `limit`.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.limit()
            time.sleep(min(left, _TICK))
        self.limit()

    def attach(self, sock: socket.socket) -> None:
        """From now on `abort` ends what happens on this socket."""
        with self._lock:
            self._socket = sock
        if self.aborted:
            raise CallAborted

    def detach(self) -> None:
        """The socket is no longer this call's; `abort` leaves it alone, so that another call may have it."""
        with self._lock:
            self._socket = None

    def abort(self) -> None:
        """End the call, from any thread, also while another one is blocked in it."""
        self.aborted = True
        with self._lock:
            if self._socket is not None:
                try:
                    # Not SSLSocket.shutdown: it takes the TLS state away from under a thread that is reading.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    pass
