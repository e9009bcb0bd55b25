"""The requests that wait: in which order they are sent, which are tried again, and when there is no server. No I/O.

All times are those of `time.monotonic`.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Dict, List, Optional, Sequence, Tuple

from ..errors import FlynnError, ModelLoadingError, RequestTimeoutError, ServerError, ServerNotRunningError
from .requests import Request

# How many requests are read ahead at most, so that those that begin alike meet: number and bytes, each of them twice.
WINDOW, WINDOW_BYTES = 2048, 4 * 1024 * 1024
GATHER = 0.05  # seconds that a worker waits for more to choose from
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before a request, or the server, is tried again; doubled each time


def is_away(error: FlynnError) -> bool:
    """Whether there is no server just now, be it that a proxy says so."""
    if isinstance(error, ServerError) and error.status in (429, 502, 503, 504):
        return True
    return isinstance(error, (ServerNotRunningError, ModelLoadingError))


class Task:
    """A request on its way.

    Attributes:
        failures: attempts that count against it.
    """

    __slots__ = ("request", "failures", "_timeouts", "_seen")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.failures = self._timeouts = 0
        self._seen = -1  # how many requests had succeeded at the last attempt

    def failed(self, error: FlynnError, succeeded: int) -> None:
        """An attempt failed, when so many requests had succeeded. If the server fails all, that is not its fault."""
        was_sent = not isinstance(error, (ServerNotRunningError, ModelLoadingError))
        if was_sent and not (is_away(error) and self._seen == succeeded):
            self.failures += 1
        self._timeouts += isinstance(error, RequestTimeoutError)
        self._seen = succeeded

    @property
    def pause(self) -> float:
        """Seconds until it is tried again."""
        return min(FIRST_PAUSE * 2.0 ** max(self.failures - 1, 0), LONGEST_PAUSE)

    def limit(self, timeout: Optional[float]) -> Optional[float]:
        """Seconds that it may take: a server that is too slow for it gets more time each time."""
        return None if timeout is None else timeout * 2.0**self._timeouts


class Window:
    """Some tasks, sorted and divided among workers: what begins alike goes to the same one, one after the other.

    A slot of llama-server keeps the prompt that it read last, and a request is given to the slot that knows most of its
    beginning (`get_available_slot` in tools/server/server-context.cpp). So a long text that many prompts begin with is
    read by one slot, once. Who comes, or is done with his part, gets half of the longest one.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        ordered = sorted(tasks, key=lambda task: (task.request.path, task.request.body))
        self._tasks: List[Optional[Task]] = [*ordered]
        self._parts: Dict[int, List[int]] = {}
        self.left = len(self._tasks)

    def take(self, worker: int) -> Optional[Task]:
        """The next one for a worker; None if there are no more."""
        part = self._parts.get(worker)
        if part is None or part[0] == part[1]:
            part = self._parts[worker] = self._half()
        place, end = part
        if place == end:
            return None
        part[0] += 1
        self.left -= 1
        task, self._tasks[place] = self._tasks[place], None
        return task

    def _half(self) -> List[int]:
        """Half of the longest part, cut where two neighbours have the least in common, in its middle half."""
        if not self._parts:
            return [0, len(self._tasks)]
        longest = max(self._parts.values(), key=lambda part: part[1] - part[0])
        start, end = longest
        cut = (start + end) // 2
        if quarter := (end - start) // 4:
            bodies = [task.request.body for task in self._tasks[start + quarter - 1 : end - quarter] if task]
            shared = [_common(one, other) for one, other in zip(bodies, bodies[1:])]
            middle = len(shared) // 2
            cut = start + quarter + min(range(len(shared)), key=lambda i: (shared[i], abs(i - middle)))
        longest[1] = cut
        return [cut, end]


def _common(one: bytes, other: bytes) -> int:
    """Bytes that two begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Queue:
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


class Outage:
    """The time without a server. Where one server answers all requests, it is away for all of them: then one request at
    a time tries whether it is back, after longer and longer pauses.

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
