"""The state of a run, shared by threads: requests go in, tasks come out, results come back. No I/O.

This decides how many requests are under way, which are sent again, which have failed, and when the run is over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Tuple

from ..errors import (
    AuthenticationError,
    ConfigError,
    FlynnError,
    ModelLoadingError,
    NotSupportedError,
    ServerError,
    ServerNotRunningError,
)
from ..retry import is_temporary, pause
from .queue import WINDOW, Outage, Queue, Task
from .requests import Request
from .results import Result, failure

ATTEMPTS = 10  # that fail by a request's own fault
REFUSALS = 5  # refusals before any answer that mean that the token is wrong, and not that one request is refused
_UNCLAIMED = 256  # results; with more of them no request is begun


class Scheduler:
    """The state of a run. Every method may be called from any thread.

    Args:
        one_server: whether one server answers all requests, so that it is away for all when it is away for one.
        wait: seconds without an answer after which the run gives up; None for no limit.
        max_failures: failed requests after which the run gives up; None for no limit.
        retries: how often a request is asked again whose answer did not fit its schema.
        ordered: whether results come in the order of the requests.
        pause: returns the seconds before the next attempt, given how many have failed before the last one and what the
            server asked for.

    Attributes:
        limit: how many requests may be under way.
        in_flight: how many requests are under way.
        stopping: whether no more requests are begun.
    """

    def __init__(
        self,
        *,
        one_server: bool = True,
        wait: Optional[float] = None,
        max_failures: Optional[int] = None,
        retries: int = 0,
        ordered: bool = False,
        pause: Callable[[int, Optional[float]], float] = pause,
    ) -> None:
        self._lock = threading.RLock()  # reentrant: the garbage collector may run `Run.__del__` while it is held
        self._tasks = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._one_server, self._wait, self._max_failures, self._retries = one_server, wait, max_failures, retries
        self._pause = pause
        self.limit = self.in_flight = 0
        self.stopping = False
        self._answered = self._failed = self._refused = 0
        self._error: Optional[BaseException] = None
        self._queue = Queue()
        self._outage = Outage()
        self._results: Deque[Result] = deque()
        self._places = 0  # of the requests that were added
        self._held: Optional[Dict[int, Result]] = {} if ordered else None  # results by place, before their turn
        self._next_place = 0

    # --- called by the reader -----------------------------------------------------------------------------------------

    def add(self, request: Request) -> bool:
        """Add a request. Waits while there are many. Returns False if no more are wanted."""
        with self._lock:
            while not self.stopping and self._queue.is_full:
                self._tasks.notify()
                self._room.wait()
            if self._queue.add(Task(request, self._new_place()), time.monotonic()):
                self._tasks.notify()
            return not self.stopping

    def add_failed(self, result: Result) -> bool:
        """Add the failure of a line that is not a request. Waits and returns as `add`."""
        with self._lock:
            while not self.stopping and len(self._results) >= _UNCLAIMED:
                self._room.wait()
            self._put(result, self._new_place())
            return not self.stopping

    def end(self) -> None:
        """Record that there are no more requests."""
        with self._lock:
            self._queue.ended = True
            self._wake_all()

    # --- called by workers --------------------------------------------------------------------------------------------

    def take(self, worker: int, most: int = 1) -> List[Task]:
        """Wait for tasks and return them; none if there will be none.

        Args:
            most: how many tasks. One that has failed before comes alone, or last: it may fail again, and all with it.
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

    def succeed(self, task: Task, result: Result) -> None:
        """Record the answer of a task. An answer that does not fit the request's schema is asked for again."""
        with self._lock:
            self._finish(task)
            self._answered += 1
            if self._outage.end():
                self._tasks.notify_all()
            self._tasks.notify()
            if result.error is not None and task.mismatches < self._retries:
                task.mismatches += 1
                self._queue.put_back(task, time.monotonic())
            else:
                self._put(result, task.place)

    def fail(self, task: Task, error: FlynnError) -> None:
        """Record a failed attempt: the task is tried again, or has failed for good, or the run gives up."""
        with self._lock:
            self._finish(task)
            task.failed(error)
            if self._is_for_all(error):
                self._give_up(error)
            else:
                is_its_own = self._is_its_own(task, error)
                task.failures += is_its_own
                refused = is_final(error) or (isinstance(error, AuthenticationError) and self._answered > 0)
                if refused or task.failures >= ATTEMPTS:
                    self._put(failure(task.request, error), task.place)
                else:
                    self._try_again(task, error, is_its_own=is_its_own)
            self._wake_all()

    def give_back(self, task: Task) -> None:
        """Take back a task that was not begun."""
        with self._lock:
            self._finish(task)
            self._queue.put_back(task, time.monotonic())
            self._wake_all()

    def drop(self, task: Task) -> None:
        """Record that a task was stopped."""
        with self._lock:
            self._finish(task)
            self._wake_all()

    # --- called by the owner ------------------------------------------------------------------------------------------

    def results(self, timeout: Optional[float]) -> Optional[List[Result]]:
        """Wait for results, `timeout` seconds at most, and return all that are there; None at the end of the run.

        Raises:
            BaseException: the reason why the run gave up, after the last result.
        """
        with self._lock:
            if not self._results and not self._is_over(done=True):
                self._news.wait(timeout)
            if self._held and self._is_over(done=True):  # an earlier one will not come any more
                self._results.extend(self._held.pop(place) for place in sorted(self._held))
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

    def stop(self, error: Optional[BaseException] = None) -> None:
        """Begin no more requests, and raise `error` at the end."""
        with self._lock:
            self._give_up(error)

    @property
    def away(self) -> Optional[Tuple[float, Optional[FlynnError]]]:
        """The seconds since the last answer, and the last failure; None while the server answers."""
        with self._lock:
            since = self._outage.since
            return None if since is None else (time.monotonic() - since, self._outage.error)

    # --- within the lock ----------------------------------------------------------------------------------------------

    def _new_place(self) -> int:
        self._places += 1
        return self._places - 1

    def _is_over(self, *, done: bool = False) -> bool:
        """Return whether nothing is left to begin, and, if `done`, nothing is under way."""
        left = self._queue or not self._queue.ended
        if done:
            return not self.in_flight and (self.stopping or not left)
        return self.stopping or not (left or self.in_flight)

    def _begin(self, worker: int, most: int) -> Tuple[List[Task], Optional[float]]:
        """Return tasks, or the seconds after which there may be one."""
        tasks: List[Task] = []
        delay: Optional[float] = None
        while len(tasks) < most and self.in_flight < self.limit and len(self._results) < _UNCLAIMED:
            now = time.monotonic()
            if self._one_server and (delay := self._outage.delay(now)) != 0:
                break
            # The request may be at fault, and not the server: another request shows it.
            untried_first = self._one_server and self._outage.since is not None
            task, delay = self._queue.take(worker, now, untried_first=untried_first)
            if task is None:
                break
            self.in_flight += 1
            self._outage.begin(task)
            if not task.attempts:
                task.answered = self._answered
            tasks.append(task)
            if task.attempts:
                break
        return tasks, delay

    def _finish(self, task: Task) -> None:
        self.in_flight -= 1
        self._outage.finish(task)

    def _is_for_all(self, error: FlynnError) -> bool:
        """Return whether all other requests would fail too. A 401 or 403 is one request's if others are answered."""
        if isinstance(error, AuthenticationError):
            self._refused += 1
            its_own_words = error.status == 401 and error.type == "authentication_error"  # llama-server's
            return its_own_words or (not self._answered and self._refused >= REFUSALS)
        return isinstance(error, ConfigError)

    def _is_its_own(self, task: Task, error: FlynnError) -> bool:
        """Return whether a failure counts against a request: not if the server has answered nothing since the last one.

        Once all other requests are done there is nothing to compare with.
        """
        if isinstance(error, (ServerNotRunningError, ModelLoadingError, AuthenticationError)):
            return False
        return self._answered > task.answered or (self._answered > 0 and not self._queue.has_untried)

    def _try_again(self, task: Task, error: FlynnError, *, is_its_own: bool) -> None:
        now = time.monotonic()
        asked = error.retry_after if isinstance(error, ServerError) else None
        task.answered = self._answered
        self._queue.put_back(task, now + self._pause(task.attempts - 1, asked))
        if is_temporary(error) or not (is_its_own or isinstance(error, AuthenticationError)):
            self._outage.failed(error, now, self._pause(self._outage.failures, asked))
            seconds = now - (self._outage.since or now)
            if self._wait is not None and seconds > self._wait:
                self._give_up(error.advise(f"nothing was answered for {seconds:.0f} s; wait= or --wait sets the limit"))

    def _put(self, result: Result, place: int) -> None:
        if result.error is not None:
            self._failed += 1
            if self._max_failures is not None and self._failed >= self._max_failures:
                self._give_up(FlynnError(f"gave up after {self._failed} failed requests, the last one: {result.error}"))
        if self._held is None:
            self._results.append(result)
        else:
            self._held[place] = result
            while self._next_place in self._held:
                self._results.append(self._held.pop(self._next_place))
                self._next_place += 1
            self._queue.held = len(self._held)
            if self._queue.held < WINDOW:
                self._tasks.notify()
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
    """Return whether the server itself has refused a request, and would again.

    A proxy's 4xx, which does not have llama-server's form, may pass, and so may the refusal of a token.
    """
    if isinstance(error, AuthenticationError) or not isinstance(error, ServerError) or error.status is None:
        return False
    refused = 400 <= error.status < 500 and error.status not in (408, 429) and error.type is not None
    return refused or isinstance(error, NotSupportedError)
