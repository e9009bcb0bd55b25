"""What is left to do, shared by threads: requests go in, tasks come out, results come back. No I/O.

Here is decided in which order requests are sent, how many at a time, and which are sent again, and when.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque

from ..errors import (
    AuthenticationError,
    ConfigError,
    FlynnError,
    ModelLoadingError,
    NotSupportedError,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
)
from .results import Result, failure
from .window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Deque, List, Optional, Tuple

    from .requests import Request

ATTEMPTS = 10  # of one request, while the server answers others
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds before a request, or the server, is tried again; doubled each time
# How many requests are read ahead at most, so that those that begin alike meet: number and bytes, each of them twice.
WINDOW, WINDOW_BYTES = 2048, 4 * 1024 * 1024
GATHER = 0.05  # seconds that a worker waits for more to choose from
_UNCLAIMED = 256  # results; with more of them nothing new is begun


class Task:
    """A request on its way.

    Attributes:
        failures: attempts that count against it.
        timeouts: those of them that took too long.
        seen: how many requests had succeeded at the last attempt.
    """

    __slots__ = ("request", "failures", "timeouts", "seen")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.failures = self.timeouts = 0
        self.seen = -1


class Work:
    """The state of a run. Every method may be called from any thread.

    Args:
        one_server: if it is away, it is away for all: one request at a time tries whether it is back.
        wait: seconds without the server after which the run gives up; None for no limit.
        max_failures: requests that may fail before it gives up; None for no limit.

    Attributes:
        limit: how many requests may be under way.
        in_flight: how many are.
        stopping: True once nothing new is begun.
        away: seconds for which the server has been away, 0 if it is not.
    """

    def __init__(self, *, limit: int, one_server: bool, wait: Optional[float], max_failures: Optional[int]) -> None:
        self._lock = threading.RLock()  # the collector may run `Run.__del__` while it is held
        self._tasks = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._one_server, self._wait, self._max_failures = one_server, wait, max_failures
        self.limit = limit
        self.in_flight = self.succeeded = self.failed = 0
        self.stopping = False
        self._error: Optional[BaseException] = None
        self._window, self._next, self._next_bytes, self._next_since = Window([]), [], 0, 0.0  # type: ignore[var-annotated]
        self._all_read = False
        self._again: List[Tuple[float, int, Task]] = []
        self._count = itertools.count()
        self._results: Deque[Result] = deque()
        self._away_since: Optional[float] = None
        self._reopens = self._pause = 0.0
        self._probing = False
        self._held = 0
        self._sink: Optional[Callable[[List[Result]], object]] = None
        self._handed: Deque[Result] = deque()
        self._sink_lock = threading.Lock()

    # --- what the reader says -----------------------------------------------------------------------------------------

    def add(self, request: Request) -> bool:
        """One more to do. Waits while there is much already. False if no more are wanted."""
        with self._lock:
            while not self.stopping and (len(self._next) >= WINDOW or self._next_bytes >= WINDOW_BYTES):
                self._tasks.notify()
                self._room.wait()
            if not self._next:
                self._next_since = time.monotonic()
                self._tasks.notify()
            self._next.append(Task(request))
            self._next_bytes += len(request.body)
            return not self.stopping

    def add_failed(self, result: Result) -> bool:
        """What should have been a request is none."""
        self._hand_over(result)
        with self._lock:
            while not self.stopping and len(self._results) >= _UNCLAIMED:
                self._room.wait()
            self._put(result)
            return not self.stopping

    def end(self) -> None:
        """There are no more requests."""
        with self._lock:
            self._all_read = True
            self._wake_all()

    # --- what workers do ----------------------------------------------------------------------------------------------

    def take(self, worker: int, most: int = 1) -> List[Task]:
        """The next tasks, as soon as one may be begun; none if there will be none.

        Args:
            most: how many. A task that has failed before comes alone, or last: it may do so again, for all with it.
        """
        with self._lock:
            tasks: List[Task] = []
            while not self._is_over():
                delay: Optional[float] = None
                while len(tasks) < most and self.in_flight < self.limit and len(self._results) < _UNCLAIMED:
                    task, delay = self._choose(worker)
                    if task is None:
                        break
                    tasks.append(task)
                    self.in_flight += 1
                    if task.failures:
                        break
                if tasks:
                    break
                self._tasks.wait(delay)
            return tasks

    def succeed(self, result: Result) -> None:
        """A task is done."""
        self._hand_over(result)
        with self._lock:
            self.in_flight -= 1
            if self._away_since is not None:
                self._away_since, self._pause, self._probing = None, 0.0, False
                self._tasks.notify_all()
            self._tasks.notify()
            self._put(result)

    def fail(self, task: Task, error: FlynnError) -> None:
        """An attempt failed: the task is tried again, or has failed for good."""
        away = is_away(error)
        with self._lock:
            self._probing = False
            final = is_final(error) or self._counts(task, error, away) >= ATTEMPTS
        result = failure(task.request, error)
        for_all = isinstance(error, (AuthenticationError, ConfigError))  # so would all others fail
        if final and not for_all:
            self._hand_over(result)
        with self._lock:
            self.in_flight -= 1
            if for_all:
                self._give_up(error)
            elif final:
                self._put(result)
            else:
                self._try_again(task, error, away)
            self._wake_all()

    def give_back(self, task: Task) -> None:
        """A task was not begun."""
        with self._lock:
            self.in_flight -= 1
            heapq.heappush(self._again, (time.monotonic(), next(self._count), task))
            self._wake_all()

    def drop(self) -> None:
        """A task was stopped."""
        with self._lock:
            self.in_flight -= 1
            self._wake_all()

    # --- what the owner does ------------------------------------------------------------------------------------------

    def results(self, timeout: Optional[float]) -> Optional[List[Result]]:
        """Wait for results, `timeout` seconds at most; all there are. None at the end of the run.

        Raises:
            BaseException: what made the run give up, after the last result.
        """
        with self._lock:
            if not self._results and not self._is_over(done=True):
                self._news.wait(timeout)
            if self._results:
                results = list(self._results)
                self._results.clear()
                if len(results) >= _UNCLAIMED:
                    self._wake_all()
                return results
            if not self._is_over(done=True):
                return []
            error, self._error = self._error, None
            if error is not None:
                raise error
            return None

    def set_limit(self, limit: int) -> None:
        with self._lock:
            self.limit = limit
            self._tasks.notify_all()

    def hold(self, count: int) -> None:
        """So many results wait for an earlier one: with many of them, no others are begun before that is there."""
        with self._lock:
            if self._held >= WINDOW > count:
                self._tasks.notify_all()
            self._held = count

    def stop(self, error: Optional[BaseException] = None) -> None:
        """Begin nothing new; `error` is raised at the end."""
        with self._lock:
            self._give_up(error)

    @property
    def away(self) -> float:
        since = self._away_since
        return 0.0 if since is None else time.monotonic() - since

    def into(self, sink: Callable[[List[Result]], object]) -> None:
        """Give results to a function, in a thread that has one of them; `results` then has none. One call at a time:
        a thread that comes meanwhile leaves its result to the one that is there, and goes on."""
        self._sink = sink

    def _hand_over(self, result: Result) -> None:
        if self._sink is None:
            return
        self._handed.append(result)
        while self._handed and self._sink_lock.acquire(blocking=False):
            try:
                self._sink([self._handed.popleft() for _ in range(len(self._handed))])
            except BaseException as error:
                self.stop(error)
            finally:
                self._sink_lock.release()

    # --- within the lock ----------------------------------------------------------------------------------------------

    def _is_over(self, *, done: bool = False) -> bool:
        """Whether there is nothing more to begin, and, if `done`, nothing under way."""
        left = self._again or self._next or not self._all_read
        if done:
            return not self.in_flight and (self.stopping or not (left or self._window.left))
        return self.stopping or not (left or self._window.left or self.in_flight)

    def _choose(self, worker: int) -> Tuple[Optional[Task], Optional[float]]:
        """A task, or the seconds after which there may be one."""
        now = time.monotonic()
        closed = self._one_server and self._away_since is not None
        if closed:
            if self._probing:
                return None, None
            if now < self._reopens:
                return None, self._reopens - now
        task: Optional[Task] = None
        delay: Optional[float] = None
        if self._again and self._again[0][0] <= now:
            task = heapq.heappop(self._again)[2]
        else:
            task = self._window.take(worker)
            if task is None and self._next and self._held < WINDOW:
                gathered = self._all_read or len(self._next) >= WINDOW or self._next_bytes >= WINDOW_BYTES
                delay = 0.0 if gathered else self._next_since + GATHER - now
                if delay <= 0:
                    self._window, self._next, self._next_bytes = Window(self._next), [], 0
                    self._room.notify()
                    self._tasks.notify_all()
                    task = self._window.take(worker)
        if task is None:
            if self._again:
                delay = min(delay or LONGEST_PAUSE, self._again[0][0] - now)
            return None, delay
        self._probing = closed
        return task, None

    def _counts(self, task: Task, error: FlynnError, away: bool) -> int:
        """Failures of a task. While the server fails everybody, it is not the task's fault."""
        sent = not isinstance(error, (ServerNotRunningError, ModelLoadingError))
        if sent and not (away and task.seen == self.succeeded):
            task.failures += 1
        task.timeouts += isinstance(error, RequestTimeoutError)
        task.seen = self.succeeded
        return task.failures

    def _try_again(self, task: Task, error: FlynnError, away: bool) -> None:
        now = time.monotonic()
        due = now
        if away:
            if self._away_since is None:
                self._away_since = now
            if now >= self._reopens:
                self._pause = min(2 * self._pause or FIRST_PAUSE, LONGEST_PAUSE)
                self._reopens = now + self._pause
            if self._wait is not None and now - self._away_since > self._wait:
                self._give_up(error)
        if not (away and self._one_server):
            due += min(FIRST_PAUSE * 2 ** max(task.failures - 1, 0), LONGEST_PAUSE)
        heapq.heappush(self._again, (due, next(self._count), task))

    def _put(self, result: Result) -> None:
        if result.error is None:
            self.succeeded += 1
        else:
            self.failed += 1
            if self._max_failures is not None and self.failed >= self._max_failures:
                self._give_up(FlynnError(f"gave up after {self.failed} failed requests, the last one: {result.error}"))
        if self._sink is None:
            self._results.append(result)
            self._news.notify()
        if not self.in_flight and self._is_over():
            self._wake_all()

    def _give_up(self, error: Optional[BaseException]) -> None:
        self.stopping = True
        self._error = self._error or error
        self._wake_all()

    def _wake_all(self) -> None:
        for condition in (self._tasks, self._room, self._news):
            condition.notify_all()


def is_final(error: FlynnError) -> bool:
    """Whether the server itself has said no, and would again. A proxy's 4xx, which is not in its form, may pass."""
    if not isinstance(error, ServerError) or error.status is None:
        return False
    refused = 400 <= error.status < 500 and error.status not in (408, 429) and error.type is not None
    return refused or isinstance(error, NotSupportedError)


def is_away(error: FlynnError) -> bool:
    """Whether there is no server just now, be it that a proxy says so."""
    if isinstance(error, (ServerNotRunningError, ModelLoadingError)):
        return True
    return isinstance(error, ServerError) and error.status in (429, 502, 503, 504)
