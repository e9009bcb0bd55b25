"""The queue of requests: in which order they are sent, and which are tried again. No I/O.

All times are those of `time.monotonic`.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Dict, List, Optional, Sequence, Tuple

from ..errors import FlynnError, RequestTimeoutError
from .requests import Request

# Requests that are read ahead, so that those that begin alike meet: their number and their bytes.
WINDOW, WINDOW_BYTES = 2048, 4 * 1024 * 1024
GATHER = 0.05  # seconds that a worker waits for more requests to choose from


class Task:
    """A request of a run, with its attempts.

    Attributes:
        request: the request.
        place: its place among the requests of the run.
        attempts: how many have failed.
        failures: those of them that count against the request.
        mismatches: answers that did not fit the request's schema.
        answered: how many answers the run had when this task was first sent, or failed last.
    """

    __slots__ = ("request", "place", "attempts", "failures", "mismatches", "answered", "_timeouts")

    def __init__(self, request: Request, place: int = 0) -> None:
        self.request, self.place = request, place
        self.attempts = self.failures = self.mismatches = self.answered = self._timeouts = 0

    def failed(self, error: FlynnError) -> None:
        """Record a failed attempt."""
        self.attempts += 1
        self._timeouts += isinstance(error, RequestTimeoutError)

    def time_limit(self, timeout: Optional[float]) -> Optional[float]:
        """Return the seconds that the next attempt may take: twice as many after each timeout."""
        return None if timeout is None else timeout * 2.0**self._timeouts


class Window:
    """Tasks, sorted and divided among workers: requests that begin alike go to one worker, one after the other.

    A slot of llama-server keeps the prompt that it read last, and a request is given to the slot that knows most of its
    beginning (`get_available_slot` in tools/server/server-context.cpp). So one slot reads, once, a long text that many
    prompts begin with. A worker that has no part, or has finished its part, gets half of the longest one.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        ordered = sorted(tasks, key=lambda task: (task.request.path, task.request.body))
        self._tasks: List[Optional[Task]] = [*ordered]
        self._parts: Dict[int, List[int]] = {}
        self.left = len(self._tasks)

    def take(self, worker: int) -> Optional[Task]:
        """Return the next task of a worker; None if there are no more."""
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
        """Cut off half of the longest part, where two neighbours have the least in common, in its middle half."""
        if not self._parts:
            return [0, len(self._tasks)]
        longest = max(self._parts.values(), key=lambda part: part[1] - part[0])
        start, end = longest
        cut = (start + end) // 2
        if quarter := (end - start) // 4:
            bodies = [task.request.body for task in self._tasks[start + quarter - 1 : end - quarter] if task]
            shared = [_common_prefix(one, other) for one, other in zip(bodies, bodies[1:])]
            middle = len(shared) // 2
            cut = start + quarter + min(range(len(shared)), key=lambda i: (shared[i], abs(i - middle)))
        longest[1] = cut
        return [cut, end]


def _common_prefix(one: bytes, other: bytes) -> int:
    """Return the length of the common beginning, in bytes."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Queue:
    """The queue of tasks.

    Attributes:
        ended: whether no more will be added.
        held: results that wait for an earlier one. While there are many, no window is begun, so that memory is bounded.
    """

    def __init__(self) -> None:
        self.ended = False
        self.held = 0
        self._window = Window([])
        self._next: List[Task] = []  # becomes the next window
        self._next_bytes = 0
        self._next_since = 0.0
        self._again: List[Tuple[float, int, Task]] = []  # a heap: when, and a number for those that wait as long
        self._count = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._window.left or self._next or self._again)

    @property
    def has_untried(self) -> bool:
        """Whether there is a task that was not tried yet."""
        return bool(self._window.left or self._next)

    @property
    def is_full(self) -> bool:
        """Whether there are enough tasks to choose from."""
        return len(self._next) >= WINDOW or self._next_bytes >= WINDOW_BYTES

    def add(self, task: Task, now: float) -> bool:
        """Add a new task. Returns whether it is the first of a window."""
        if not self._next:
            self._next_since = now
        self._next.append(task)
        self._next_bytes += len(task.request.body)
        return len(self._next) == 1

    def put_back(self, task: Task, due: float) -> None:
        """Add a task that is to be tried again, not before a moment."""
        heapq.heappush(self._again, (due, next(self._count), task))

    def take(self, worker: int, now: float, *, untried_first: bool = False) -> Tuple[Optional[Task], Optional[float]]:
        """Return a task, or the seconds after which there may be one; neither if more has to be added for that.

        Args:
            untried_first: prefer a task that was not tried yet to one that has failed.
        """
        is_due = bool(self._again) and self._again[0][0] <= now
        if is_due and not untried_first:
            return heapq.heappop(self._again)[2], None
        task, delay = self._take_untried(worker, now)
        if task is None and is_due:
            return heapq.heappop(self._again)[2], None
        if task is None and self._again:
            due = self._again[0][0] - now
            delay = due if delay is None else min(delay, due)
        return task, delay

    def _take_untried(self, worker: int, now: float) -> Tuple[Optional[Task], Optional[float]]:
        if len(self._again) >= WINDOW:  # so many have failed that memory would not be bounded
            return None, None
        task = self._window.take(worker)
        delay: Optional[float] = None
        if task is None and self._next and self.held < WINDOW:
            delay = 0.0 if self.ended or self.is_full else self._next_since + GATHER - now
            if delay <= 0:
                self._window, self._next, self._next_bytes = Window(self._next), [], 0
                task = self._window.take(worker)
        return task, delay


class Outage:
    """The time without an answer. One server for all requests is away for all of them: then one request at a time tries
    whether it is back, after longer and longer pauses.

    Attributes:
        since: when it began; None while the server answers.
        failures: how many attempts have failed since.
        error: the last failure.
    """

    def __init__(self) -> None:
        self.since: Optional[float] = None
        self.failures = 0
        self.error: Optional[FlynnError] = None
        self._reopens = 0.0
        self._trial: Optional[Task] = None  # the task that tries whether the server is back

    def failed(self, error: FlynnError, now: float, pause: float) -> None:
        """Record a failed attempt: the next one is due after a pause, in seconds."""
        self.error = error
        if self.since is None:
            self.since = now
        if now >= self._reopens:
            self.failures += 1
            self._reopens = now + pause

    def end(self) -> bool:
        """Record an answer. Returns whether there was an outage."""
        was_away = self.since is not None
        self.since, self.error, self.failures, self._reopens = None, None, 0, 0.0
        return was_away

    def begin(self, task: Task) -> None:
        """Record that a task is sent."""
        if self.since is not None:
            self._trial = task

    def finish(self, task: Task) -> None:
        """Record that a task has ended, or was stopped."""
        if task is self._trial:
            self._trial = None

    def delay(self, now: float) -> Optional[float]:
        """Return the seconds until a task may be sent; None while one is under way that tries."""
        if self.since is None:
            return 0.0
        return None if self._trial else max(0.0, self._reopens - now)
