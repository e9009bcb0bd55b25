"""When there is no server just now: who notices, how long it is waited for, when it is tried again. No I/O."""

from __future__ import annotations

from ..errors import FlynnError, ModelLoadingError, ServerError, ServerNotRunningError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before a request, or the server, is tried again; doubled each time


def is_away(error: FlynnError) -> bool:
    """Whether there is no server just now, be it that a proxy says so."""
    if isinstance(error, (ServerNotRunningError, ModelLoadingError)):
        return True
    return isinstance(error, ServerError) and error.status in (429, 502, 503, 504)


class Outage:
    """The time without a server. Where one server answers all requests, it is away for all of them: then one request at
    a time tries whether it is back, after longer and longer pauses.

    All times are those of `time.monotonic`.

    Attributes:
        since: when it began, None while there is a server.
    """

    def __init__(self) -> None:
        self.since: Optional[float] = None
        self._reopens = self._pause = 0.0
        self._tried = False  # by a request that is under way

    def failed(self, now: float) -> None:
        """A request has found no server."""
        if self.since is None:
            self.since = now
        if now >= self._reopens:
            self._pause = min(2 * self._pause or FIRST_PAUSE, LONGEST_PAUSE)
            self._reopens = now + self._pause

    def end(self) -> bool:
        """A request was answered. Whether there was an outage."""
        was_away = self.since is not None
        self.since, self._pause = None, 0.0
        return was_away

    def attempt(self) -> None:
        """A request is sent."""
        self._tried = self.since is not None

    def attempted(self) -> None:
        """A request has come back, or was stopped."""
        self._tried = False

    def delay(self, now: float) -> Optional[float]:
        """Seconds until a request may be sent; None for when the one that tries has come back."""
        if self.since is None:
            return 0.0
        return None if self._tried else max(0.0, self._reopens - now)
