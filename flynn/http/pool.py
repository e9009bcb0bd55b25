"""Connections to one endpoint, kept alive between one-shot calls and shared by threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, List, Mapping, Optional, Tuple

from ..errors import ConnectionLostError
from .connection import Connection
from .endpoint import Endpoint
from .limits import Call
from .response import Response

if TYPE_CHECKING:
    import ssl

# Idle connections beyond this are closed. llama-server closes its end after 5 s anyway.
MAX_IDLE = 32


class ConnectionPool:
    """Sends requests to one endpoint.

    The idle connections are in a list, whose `append`, `insert` and `pop` are atomic, without a lock. A lock could
    deadlock: the garbage collector may end a response, and so return its connection, in the middle of `request`.
    """

    def __init__(self, endpoint: Endpoint, ssl_context: Optional[ssl.SSLContext] = None) -> None:
        self._endpoint = endpoint
        self._ssl_context = ssl_context
        self._idle: List[Connection] = []
        self._pid = os.getpid()
        self._closed = False

    def request(
        self, call: Call, method: str, path: str, body: Optional[bytes], headers: Mapping[str, str]
    ) -> Response:
        """Send a request, on a kept connection if there is one, and return the response, its head read.

        A request is sent a second time only if the connection had been kept alive and was closed by the server before
        any of the response came: then the server had most likely closed it before the request (RFC 9112 section 9.3.1).

        Raises: see `Connection.exchange`.
        """
        kept = self._take()
        if kept is not None:
            kept.release = self._release
            try:
                return kept.exchange(call, method, path, body, headers)
            except ConnectionLostError:
                if kept.answered:
                    raise
        connection = Connection(self._endpoint, self._ssl_context)
        connection.release = self._release
        return connection.exchange(call, method, path, body, headers)

    def _take(self) -> Optional[Connection]:
        if self._pid != os.getpid():
            # After a fork the connections belong to the parent. Closing them here closes this process's descriptors
            # only: nothing is sent, and the parent's stay open.
            self._pid = os.getpid()
            self._close_idle()
        # Only the newest is taken: the oldest would stay open after the peer has closed it.
        if oldest := self._pop(0):
            if oldest.is_dropped:
                oldest.close()
            else:
                self._idle.insert(0, oldest)
        while connection := self._pop():
            if not connection.is_dropped:
                return connection
            connection.close()
        return None

    def _pop(self, place: int = -1) -> Optional[Connection]:
        """Remove and return the newest idle connection, or with 0 the oldest; None if there is none."""
        try:
            return self._idle.pop(place)
        except IndexError:
            return None

    def _release(self, connection: Connection) -> None:
        # An idle connection does not refer to the pool, so that a pool without references is closed at once.
        connection.release = None
        self._idle.append(connection)
        if (len(self._idle) > MAX_IDLE or self._closed) and (oldest := self._pop(0)):
            oldest.close()

    def close(self) -> None:
        """Close the idle connections. Those of calls under way are closed when these end."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while connection := self._pop():
            connection.close()

    def __reduce__(self) -> Tuple[object, ...]:
        """Copy and pickle a pool without its connections: another process may get its client."""
        return ConnectionPool, (self._endpoint, self._ssl_context)

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.close()
