"""What is left to do, shared by threads: requests go in, tasks come out, results come back. No I/O.

Here is decided how many requests are under way, which are sent again, and when the run is over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Deque, List, Optional, Tuple

from ..errors import AuthenticationError, ConfigError, FlynnError, NotSupportedError, ServerError
from .queue import WINDOW, Outage, Queue, Task, is_away
from .requests import Request
from .results import Result, failure

ATTEMPTS = 10  # of one request, while the server answers others
_UNCLAIMED = 256  # results; with more of them nothing new is begun


class Scheduler:
    """The state of a run. Every method may be called from any thread.

    Args:
        one_server: if it is away, it is away for all.
        wait: seconds without a server after which the run gives up; None for no limit.
        max_failures: requests that may fail before it gives up; None for no limit.

    Attributes:
        limit: how many requests may be under way.
        in_flight: how many are.
        stopping: True once nothing new is begun.
    """

    def __init__(self, *, one_server: bool, wait: Optional[float], max_failures: Optional[int]) -> None:
        self._lock = threading.RLock()  # the collector may run `Run.__del__` while it is held
        self._tasks = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._one_server, self._wait, self._max_failures = one_server, wait, max_failures
        self.limit = self.in_flight = self.succeeded = self.failed = 0
        self.stopping = False
        self._error: Optional[BaseException] = None
        self._queue = Queue()
        self._outage = Outage()
        self._results: Deque[Result] = deque()
        self._sink: Optional[Callable[[List[Result]], object]] = None
        self._handed: Deque[Result] = deque()
        self._sink_lock = threading.Lock()

    # --- what the reader says -----------------------------------------------------------------------------------------

    def add(self, request: Request) -> bool:
        """One more to do. Waits while there is much already. False if no more are wanted."""
        with self._lock:
            while not self.stopping and self._queue.is_full:
                self._tasks.notify()
                self._room.wait()
            if self._queue.add(request, time.monotonic()):
                self._tasks.notify()
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
            self._queue.ended = True
            self._wake_all()

    # --- what workers do ----------------------------------------------------------------------------------------------

    def take(self, worker: int, most: int = 1) -> List[Task]:
        """The next tasks, as soon as one may be begun; none if there will be none.

        Args:
            most: how many. A task that has failed before comes alone, or last: it may do so again, for all with it.
        """
        with self._lock:
            while not self._is_over():
                tasks, delay = self._begin(worker, most)
                if tasks:
                    if self._queue and self.in_flight < self.limit:
                        self._tasks.notify()
                    if not self._queue.is_full:
                        self._room.notify()
                    return tasks
                self._tasks.wait(delay)
            return []

    def succeed(self, result: Result) -> None:
        """A task is done."""
        self._hand_over(result)
        with self._lock:
            self._ended()
            if self._outage.end():
                self._tasks.notify_all()
            self._tasks.notify()
            self._put(result)

    def fail(self, task: Task, error: FlynnError) -> None:
        """An attempt failed: the task is tried again, or has failed for good."""
        with self._lock:
            task.failed(error, self.succeeded)
        for_all = isinstance(error, (AuthenticationError, ConfigError))  # so would all others fail
        final = not for_all and (is_final(error) or task.failures >= ATTEMPTS)
        result = failure(task.request, error)
        if final:
            self._hand_over(result)
        with self._lock:
            self._ended()
            if for_all:
                self._give_up(error)
            elif final:
                self._put(result)
            else:
                self._try_again(task, error)
            self._wake_all()

    def give_back(self, task: Task) -> None:
        """A task was not begun."""
        with self._lock:
            self._ended()
            self._queue.put_back(task, time.monotonic())
            self._wake_all()

    def drop(self) -> None:
        """A task was stopped."""
        with self._lock:
            self._ended()
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
        """So many results wait for an earlier one; see `Queue.held`."""
        with self._lock:
            before, self._queue.held = self._queue.held, count
            if before >= WINDOW > count:
                self._tasks.notify()

    def stop(self, error: Optional[BaseException] = None) -> None:
        """Begin nothing new; `error` is raised at the end."""
        with self._lock:
            self._give_up(error)

    @property
    def away(self) -> float:
        """Seconds for which there has been no server, 0 if there is one."""
        since = self._outage.since
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
        left = self._queue or not self._queue.ended
        if done:
            return not self.in_flight and (self.stopping or not left)
        return self.stopping or not (left or self.in_flight)

    def _begin(self, worker: int, most: int) -> Tuple[List[Task], Optional[float]]:
        """Tasks, or the seconds after which there may be one."""
        tasks: List[Task] = []
        delay: Optional[float] = None
        while len(tasks) < most and self.in_flight < self.limit and len(self._results) < _UNCLAIMED:
            now = time.monotonic()
            if self._one_server and (delay := self._outage.delay(now)) != 0:
                break
            task, delay = self._queue.take(worker, now)
            if task is None:
                break
            self.in_flight += 1
            self._outage.attempt()
            tasks.append(task)
            if task.failures:
                break
        return tasks, delay

    def _ended(self) -> None:
        self.in_flight -= 1
        self._outage.attempted()

    def _try_again(self, task: Task, error: FlynnError) -> None:
        due = now = time.monotonic()
        away = is_away(error)
        if away:
            self._outage.failed(now)
            if self._wait is not None and self.away > self._wait:
                self._give_up(error)
        if not (away and self._one_server):
            due += task.pause
        self._queue.put_back(task, due)

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
