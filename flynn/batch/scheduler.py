"""The state of a run, shared by threads: requests go in, tasks come out, results come back. No I/O.

This decides how many requests are under way, which are sent again, which have failed, and when the run is over.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple, Union

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
from ..retry import is_temporary, pause
from .queue import Outage, Queue, Task
from .requests import Request
from .results import Result, failure

ATTEMPTS = 10  # failed attempts, by a request's own fault, after which it has failed
REFUSALS = 5  # refusals before any answer that mean that the token is wrong, and not that one request is refused
GATHER = 0.2  # seconds that a run waits for requests to choose from, if they come slowly
_UNCLAIMED = 256  # results; with more of them no request is begun


class Scheduler:
    """The state of a run. Every method may be called from any thread.

    Args:
        one_server: whether one server answers all requests, so that it is away for all when it is away for one.
        wait, max_failures, retries, ordered: see `flynn.batch.run`.
        pause: see `flynn.retry.pause`.

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
        # Its lock is reentrant: the garbage collector may run `Run.__del__` while it is held.
        self._changed = threading.Condition()
        self._one_server, self._wait, self._max_failures, self._retries = one_server, wait, max_failures, retries
        self._ordered, self._pause = ordered, pause
        self.limit = self.in_flight = 0
        self.stopping = False
        self._answered = self._failed = self._refused = 0
        self._error: Optional[BaseException] = None
        self._queue = Queue()
        self._outage = Outage()
        self._results: List[Result] = []
        self._held: Dict[int, Result] = {}  # by place: results of an ordered run that wait for an earlier one
        self._places = itertools.count()
        self._next_place = 0  # of the result that comes next in an ordered run

    # --- called by the reader -----------------------------------------------------------------------------------------

    def add(self, item: Union[Request, Result]) -> bool:
        """Add a request, or the failure of what is not one. Waits while there are many.

        Returns False if no more are wanted.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.stopping or not (self._queue.is_full or len(self._results) >= _UNCLAIMED)
            )
            if isinstance(item, Result):
                self._put(item, next(self._places))
            else:
                self._queue.add(Task(item, next(self._places)))
            self._changed.notify_all()
            return not self.stopping

    def end(self) -> None:
        with self._changed:
            self._queue.ended = True
            self._changed.notify_all()

    def gather(self) -> None:
        """Wait for the first window of requests, or all there are, so that those that begin alike meet."""
        with self._changed:
            self._changed.wait_for(lambda: self.stopping or self._queue.ended or self._queue.is_full, GATHER)

    # --- called by workers --------------------------------------------------------------------------------------------

    def take(self, worker: int) -> Optional[Task]:
        """Wait for a task; None at the end of the run."""
        with self._changed:
            while not self._is_over():
                was_full = self._queue.is_full
                task, delay = self._begin(worker)
                if was_full and not self._queue.is_full:
                    self._changed.notify_all()
                if task:
                    return task
                self._changed.wait(min(delay, threading.TIMEOUT_MAX))
            return None

    def finish(self, task: Task, outcome: Union[Result, FlynnError, None]) -> None:
        """Record the answer to a task, or why an attempt failed, or None if it was not sent or was aborted."""
        with self._changed:
            self.in_flight -= 1
            if self._outage.trial is task:
                self._outage.trial = None
            if isinstance(outcome, Result):
                self._succeed(task, outcome)
            elif outcome is not None:
                self._fail(task, outcome)
            else:
                self._queue.put_back(task, time.monotonic())
            self._changed.notify_all()

    # --- called by the owner ------------------------------------------------------------------------------------------

    def results(self, timeout: Optional[float]) -> Optional[List[Result]]:
        """Wait for results, `timeout` seconds at most, and return all that are there; None at the end of the run.

        After the last result it raises the reason why the run gave up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._results or self._is_done(), timeout)
            if self._is_done():  # an earlier result will not come any more
                self._results += [self._held[place] for place in sorted(self._held)]
                self._held.clear()
            results, self._results = self._results, []
            if len(results) >= _UNCLAIMED:
                self._changed.notify_all()
            if results or not self._is_done():
                return results
            error, self._error = self._error, None
            if error is not None:
                raise error
            return None

    def set_limit(self, limit: int) -> None:
        with self._changed:
            self.limit = limit
            self._changed.notify_all()

    def stop(self, error: Optional[BaseException] = None) -> None:
        """Begin no more requests, and raise `error` at the end."""
        with self._changed:
            self.stopping = True
            self._error = self._error or error
            self._changed.notify_all()

    def away(self) -> Tuple[float, Optional[FlynnError]]:
        """Return the seconds since the last answer, and the last failure; 0 and None while the server answers."""
        with self._changed:
            since = self._outage.since
            return 0.0 if since is None else time.monotonic() - since, self._outage.error

    # --- within the lock ----------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        """Return whether nothing is left to begin."""
        return self.stopping or not (self._queue or not self._queue.ended or self.in_flight)

    def _is_done(self) -> bool:
        """Return whether nothing is left to begin, and nothing is under way."""
        return self._is_over() and not self.in_flight

    def _begin(self, worker: int) -> Tuple[Optional[Task], float]:
        """Return a task, or None and the seconds until there may be one."""
        if self.in_flight >= self.limit or len(self._results) >= _UNCLAIMED:
            return None, math.inf
        now = time.monotonic()
        is_away = self._one_server and self._outage.since is not None
        if is_away and (delay := self._outage.delay(now)) > 0:
            return None, delay
        # The request may be at fault, and not the server: another request shows it.
        task, delay = self._queue.take(worker, now, untried_first=is_away)
        if task:
            self.in_flight += 1
            if is_away:
                self._outage.trial = task
            if not task.attempts:
                task.answered = self._answered
        return task, delay

    def _succeed(self, task: Task, result: Result) -> None:
        self._answered += 1
        if self._outage.since is not None:
            self._outage = Outage()
        if result.error is not None and task.mismatches < self._retries:  # the answer does not fit the schema
            task.mismatches += 1
            self._queue.put_back(task, time.monotonic())
        else:
            self._put(result, task.place)

    def _fail(self, task: Task, error: FlynnError) -> None:
        task.attempts += 1
        task.timeouts += isinstance(error, RequestTimeoutError)
        is_its_own = self._is_its_own(task, error)
        task.failures += is_its_own
        is_refused = is_final(error) or (isinstance(error, AuthenticationError) and self._answered > 0)
        if self._is_for_all(error):
            self.stop(error)
        elif is_refused or task.failures >= ATTEMPTS:
            self._put(failure(task.request, error), task.place)
        else:
            self._try_again(task, error, is_its_own=is_its_own)

    def _is_for_all(self, error: FlynnError) -> bool:
        """Return whether all other requests would fail too. A 401 or 403 is one request's if others are answered."""
        if isinstance(error, AuthenticationError):
            self._refused += 1
            is_llama_server_s = error.status == 401 and error.type == "authentication_error"
            return is_llama_server_s or (not self._answered and self._refused >= REFUSALS)
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
        retry_after = error.retry_after if isinstance(error, ServerError) else None
        task.answered = self._answered
        self._queue.put_back(task, now + self._pause(task.attempts - 1, retry_after))
        if is_temporary(error) or not (is_its_own or isinstance(error, AuthenticationError)):
            self._outage.failed(error, now, self._pause(self._outage.failures, retry_after))
            seconds = now - (self._outage.since or now)
            if self._wait is not None and seconds > self._wait:
                self.stop(error.advise(f"nothing was answered for {seconds:.0f} s; wait= or --wait sets the limit"))

    def _put(self, result: Result, place: int) -> None:
        if result.error is not None:
            self._failed += 1
            if self._max_failures is not None and self._failed >= self._max_failures:
                self.stop(FlynnError(f"gave up after {self._failed} failed requests, the last one: {result.error}"))
        if self._ordered:
            self._held[place] = result
            while self._next_place in self._held:
                self._results.append(self._held.pop(self._next_place))
                self._next_place += 1
            self._queue.held = len(self._held)
        else:
            self._results.append(result)


def is_final(error: FlynnError) -> bool:
    """Return whether the server itself has refused a request, and would again.

    A proxy's 4xx, which does not have llama-server's form, may pass, and so may the refusal of a token.
    """
    if isinstance(error, AuthenticationError) or not isinstance(error, ServerError) or error.status is None:
        return False
    refused = 400 <= error.status < 500 and error.status not in (408, 429) and error.type is not None
    return refused or isinstance(error, NotSupportedError)
