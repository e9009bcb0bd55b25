"""The queue of requests: in which order they are sent, and which are tried again. No I/O.

Times are those of `time.monotonic`. A delay of `math.inf` means: until something else happens.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Dict, List, Optional, Tuple

from ..errors import FlynnError
from .requests import Request

# Requests, and bytes of them, that are read ahead, so that those that begin alike meet.
WINDOW, WINDOW_BYTES = 2048, 4 * 1024 * 1024


class Task:
    """A request, and its place among those of the run.

    Attributes:
        attempts: failed attempts.
        failures: failed attempts that count against the request.
        timeouts: failed attempts that ran out of time.
        mismatches: answers that did not fit the request's schema.
        answered: how many answers the run had when this task was first sent, or failed last.
    """

    def __init__(self, request: Request, place: int = 0) -> None:
        self.request, self.place = request, place
        self.attempts = self.failures = self.timeouts = self.mismatches = self.answered = 0

    def time_limit(self, timeout: Optional[float]) -> Optional[float]:
        """Return the seconds that the next attempt may take: twice as many after each timeout."""
        return None if timeout is None else timeout * 2.0**self.timeouts


class Queue:
    """The tasks that wait to be sent: new ones, and those that have failed.

    A slot of llama-server keeps the prompt that it read last, and a request goes to the slot that knows most of its
    beginning (`get_available_slot` in tools/server/server-context.cpp). So new tasks are collected in a window, sorted,
    and divided among the workers: requests that begin alike go to one worker, one after the other, and one slot reads
    their beginning once.

    Attributes:
        ended: whether no more tasks will be added.
        held: results that wait for an earlier one. While there are many, no window is begun, so that memory is bounded.
    """

    def __init__(self) -> None:
        self.ended = False
        self.held = 0
        self._parts: Dict[int, List[Task]] = {}  # of the window, by worker
        self._next: List[Task] = []  # becomes the next window
        self._next_bytes = 0
        self._failed: List[Tuple[float, int, Task]] = []  # a heap: when due, and a number that keeps the order
        self._count = itertools.count()

    def __bool__(self) -> bool:
        return self.has_untried or bool(self._failed)

    @property
    def has_untried(self) -> bool:
        return bool(self._next) or any(self._parts.values())

    @property
    def is_full(self) -> bool:
        """Whether there are enough tasks to choose from."""
        return len(self._next) >= WINDOW or self._next_bytes >= WINDOW_BYTES

    def add(self, task: Task) -> None:
        self._next.append(task)
        self._next_bytes += len(task.request.body)

    def put_back(self, task: Task, due: float) -> None:
        """Add a task to try again once it is due."""
        heapq.heappush(self._failed, (due, next(self._count), task))

    def take(self, worker: int, now: float, *, untried_first: bool = False) -> Tuple[Optional[Task], float]:
        """Return a task, or None and the seconds until there may be one.

        A task that has failed and is due comes first, unless `untried_first`.
        """
        task = None
        delay = self._failed[0][0] - now if self._failed else math.inf
        if delay > 0 or untried_first:
            task = self._take_untried(worker)
        if task is None and delay <= 0:
            task = heapq.heappop(self._failed)[2]
        return task, delay

    def _take_untried(self, worker: int) -> Optional[Task]:
        if len(self._failed) >= WINDOW:  # so many have failed that memory would not be bounded
            return None
        if not any(self._parts.values()):
            if not self._next or self.held >= WINDOW:
                return None
            self._parts = {worker: sorted(self._next, key=lambda task: (task.request.path, task.request.body))}
            self._next, self._next_bytes = [], 0
        elif not self._parts.get(worker):
            longest = max(self._parts.values(), key=len)
            middle = len(longest) // 2
            self._parts[worker] = longest[middle:]
            del longest[middle:]
        return self._parts[worker].pop(0)


class Outage:
    """The time without an answer, in which one request at a time tries whether the server is back.

    Attributes:
        since: when it began; None while the server answers.
        failures: failed trials, which make the pauses longer.
        error: the last failure.
        trial: the task under way that tries whether the server is back.
    """

    def __init__(self) -> None:
        self.since: Optional[float] = None
        self.failures = 0
        self.error: Optional[FlynnError] = None
        self.trial: Optional[Task] = None
        self._reopens = 0.0

    def failed(self, error: FlynnError, now: float, pause: float) -> None:
        """Record a failed attempt: the next one is due after a pause, in seconds."""
        self.error = error
        if self.since is None:
            self.since = now
        if now >= self._reopens:
            self.failures += 1
            self._reopens = now + pause

    def delay(self, now: float) -> float:
        """Return the seconds until a task may be sent."""
        return math.inf if self.trial else max(0.0, self._reopens - now)
