"""The requests that wait to be sent: those that are new, window by window, and those that are tried again. No I/O."""

from __future__ import annotations

import heapq
import itertools

from ..errors import ModelLoadingError, RequestTimeoutError, ServerNotRunningError
from .outage import FIRST_PAUSE, LONGEST_PAUSE, is_away
from .window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

    from ..errors import FlynnError
    from .requests import Request

# How many requests are read ahead at most, so that those that begin alike meet: number and bytes, each of them twice.
WINDOW, WINDOW_BYTES = 2048, 4 * 1024 * 1024
GATHER = 0.05  # seconds that a worker waits for more to choose from


class Task:
    """A request on its way.

    Attributes:
        failures: attempts that count against it.
        timeouts: those of them that took too long.
    """

    __slots__ = ("request", "failures", "timeouts", "_seen")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.failures = self.timeouts = 0
        self._seen = -1  # how many requests had succeeded at the last attempt

    def failed(self, error: FlynnError, succeeded: int) -> None:
        """An attempt failed. While the server fails everybody, that is not the task's fault.

        Args:
            succeeded: how many requests have, so far.
        """
        was_sent = not isinstance(error, (ServerNotRunningError, ModelLoadingError))
        if was_sent and not (is_away(error) and self._seen == succeeded):
            self.failures += 1
        self.timeouts += isinstance(error, RequestTimeoutError)
        self._seen = succeeded

    @property
    def pause(self) -> float:
        """Seconds until it is tried again."""
        return min(FIRST_PAUSE * 2.0 ** max(self.failures - 1, 0), LONGEST_PAUSE)


class Waiting:
    """The tasks that wait.

    Attributes:
        ended: no more will be added.
        held: results that wait for an earlier one. With many of them, no window is begun before that one is there.
    """

    def __init__(self) -> None:
        self.ended = False
        self.held = 0
        self._window = Window([])
        self._next: List[Task] = []  # of which the next window is made
        self._next_bytes = 0
        self._next_since = 0.0
        self._again: List[Tuple[float, int, Task]] = []  # a heap: when, and who is first of those that wait as long
        self._count = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._window.left or self._next or self._again)

    @property
    def is_full(self) -> bool:
        """Whether there is enough to choose from."""
        return len(self._next) >= WINDOW or self._next_bytes >= WINDOW_BYTES

    def add(self, request: Request, now: float) -> bool:
        """A new request. Whether it is the first of a window."""
        if not self._next:
            self._next_since = now
        self._next.append(Task(request))
        self._next_bytes += len(request.body)
        return len(self._next) == 1

    def put_back(self, task: Task, due: float) -> None:
        """A task that is not done, to be taken from a moment on."""
        heapq.heappush(self._again, (due, next(self._count), task))

    def take(self, worker: int, now: float) -> Tuple[Optional[Task], Optional[float]]:
        """A task, or the seconds after which there may be one; neither if more has to be added for that."""
        if self._again and self._again[0][0] <= now:
            return heapq.heappop(self._again)[2], None
        task = self._window.take(worker)
        delay: Optional[float] = None
        if task is None and self._next and self.held < WINDOW:
            delay = 0.0 if self.ended or self.is_full else self._next_since + GATHER - now
            if delay <= 0:
                self._window, self._next, self._next_bytes = Window(self._next), [], 0
                task = self._window.take(worker)
        if task is None and self._again:
            delay = min(LONGEST_PAUSE if delay is None else delay, self._again[0][0] - now)
        return task, delay
