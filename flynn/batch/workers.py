"""The workers, which send the requests: threads, to one server, or an executor, whose workers may have others.

To hand a task to an executor may cost more than the answer. So a task of it is several requests, as many as are
answered within a second, one after the other, and their answers come back together. A worker that dies costs no more
than that; where answers take longer than a second, each is a task of its own.
"""

from __future__ import annotations

import functools
import mmap
import pickle
import sys
import threading
import time
from typing import TYPE_CHECKING, Dict, List, Optional, Protocol, Sequence, Set, Tuple, Union

from ..errors import FlynnError, ProtocolError, RequestError, ServerError, ServerNotRunningError
from ..http.limits import CallAborted, CancelScope
from ..models.local.llamacpp import LlamaCppClient
from ..threads import start
from .queue import Task
from .results import answer
from .scheduler import Scheduler

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

# Route, body and time limit in seconds of a request.
Job = Tuple[str, bytes, Optional[float]]
# The results of some jobs, in their order, and the seconds that they took.
JobResults = Tuple[List[Union[bytes, FlynnError]], float]

_LOOK = 2.0  # seconds between two looks at the server's slots
# Bytes of address space that must be left for another thread: its stack, and what glibc reserves for what it allocates
# (malloc/arena.c). With less, threads do begin, and then fail anywhere.
_ROOM = (8 + 64) * 1024 * 1024
_UNKNOWN_SLOTS = 4  # the number of slots of a server that does not say
_MOST_SLOTS = 256  # that a server is believed to have
TOGETHER = 1.0  # seconds after which a worker begins no more of the requests of one task
MOST_TOGETHER = 64
_WAIT = 30.0  # seconds that a worker waits for its server before another worker gets the request


class Workers(Protocol):
    """The workers of a run."""

    def begin(self) -> None:
        """Start to send requests. Called once."""

    def abort(self) -> None:
        """Abort the requests under way; the scheduler has been stopped."""


class ThreadWorkers:
    """Threads, as many as `jobs`, or, if that is None, as the server has slots free.

    Args:
        timeout: seconds for one attempt, None for no limit.
    """

    def __init__(
        self, client: LlamaCppClient, scheduler: Scheduler, timeout: Optional[float], jobs: Optional[int]
    ) -> None:
        self._client, self._scheduler, self._timeout, self._jobs = client, scheduler, timeout, jobs
        self._count = 0
        self._others = sys.maxsize  # slots that others used at the last look
        self._scopes: Dict[int, CancelScope] = {}
        self._aborted = threading.Event()

    def begin(self) -> None:
        if self._jobs is not None:
            self._use(self._jobs)
        else:
            start(self._watch_slots, name="flynn-batch-slots")

    def abort(self) -> None:
        self._aborted.set()
        for scope in list(self._scopes.values()):
            scope.abort()

    def _use(self, jobs: int) -> None:
        """Start threads until there are so many, or as many as there is room for, but at least one."""
        self._scheduler.set_limit(jobs)
        try:
            for number in range(self._count + 1, jobs + 1):
                if number > 1:
                    mmap.mmap(-1, _ROOM).close()
                start(self._work, number, name=f"flynn-batch-{number}")
                self._count = number
        except (FlynnError, OSError):
            if not self._count:
                raise
            self._scheduler.set_limit(self._count)

    def _scope(self, worker: int) -> CancelScope:
        scope = self._scopes[worker] = CancelScope()
        if self._aborted.is_set():
            scope.abort()
        return scope

    def _work(self, worker: int) -> None:
        scheduler = self._scheduler
        while tasks := scheduler.take(worker):
            (task,) = tasks
            request = task.request
            try:
                with self._scope(worker):
                    limit = task.time_limit(self._timeout)
                    raw = self._client.transport.fetch("POST", request.path, request.body, limit)
                result = answer(request, raw)
            except CallAborted:
                scheduler.drop(task)
            except FlynnError as error:
                scheduler.fail(task, error)
            except BaseException as error:
                scheduler.stop(error)
                scheduler.drop(task)
            else:
                scheduler.succeed(task, result)

    def _watch_slots(self) -> None:
        """Set the number of threads to that of the slots that nobody else uses, at least one."""
        while self._jobs is None:
            try:
                with self._scope(0):
                    jobs = self._free_slots()
            except FlynnError:  # the requests will fail too, and say it
                jobs = max(1, self._scheduler.limit)
            try:
                self._use(jobs)
            except FlynnError as error:
                return self._scheduler.stop(error)
            if self._aborted.wait(_LOOK) or self._scheduler.stopping:
                return None

    def _free_slots(self) -> int:
        ours = self._scheduler.in_flight
        try:
            slots = self._client.slots(timeout=_LOOK)
        except (ServerError, ProtocolError) as error:
            if isinstance(error, ServerError) and error.status not in (404, 405, 501):
                raise
            self._jobs = self._count_slots()  # a server with --no-slots, or a proxy that does not know the route
            return self._jobs
        ours = max(ours, self._scheduler.in_flight)
        others = max(0, sum(slot.is_processing for slot in slots) - ours)
        # A slot may be busy for a moment after its answer has come: a slot is another's if two looks say so.
        used, self._others = min(others, self._others), others
        return min(max(1, len(slots) - used), _MOST_SLOTS)

    def _count_slots(self) -> int:
        """Return the number of slots by the server's properties."""
        try:
            slots = self._client.props(timeout=_LOOK).total_slots
        except (ServerError, ProtocolError):
            slots = 0
        return min(slots, _MOST_SLOTS) if slots > 0 else _UNKNOWN_SLOTS


class ExecutorWorkers:
    """The workers of an executor.

    Args:
        client: sent to the workers; None where each has a client of its own.
        timeout: as for `ThreadWorkers`.
        jobs: tasks that the executor has at a time.
        together: seconds that a task of several requests may take.
    """

    def __init__(
        self,
        executor: Executor,
        client: Optional[LlamaCppClient],
        scheduler: Scheduler,
        timeout: Optional[float],
        jobs: int,
        together: float = TOGETHER,
    ) -> None:
        self._executor, self._client, self._scheduler, self._timeout = executor, client, scheduler, timeout
        self._futures: Set[Future[JobResults]] = set()
        self._free = threading.Semaphore(jobs)
        self._seconds = together
        self._together = 1

    def begin(self) -> None:
        self._scheduler.set_limit(sys.maxsize)
        start(self._submit, name="flynn-batch-submit")

    def abort(self) -> None:
        """Cancel the tasks that have not begun; an executor cannot stop the others."""
        for future in list(self._futures):
            future.cancel()

    def _submit(self) -> None:
        while self._free.acquire() and (tasks := self._scheduler.take(0, self._together)):
            jobs = [(task.request.path, task.request.body, task.time_limit(self._timeout)) for task in tasks]
            try:
                future = self._executor.submit(do, self._client, jobs, self._seconds)
            except BaseException as error:  # it was shut down, or is broken
                self._stop(tasks, error)
                return
            self._futures.add(future)
            future.add_done_callback(functools.partial(self._done, tasks))

    def _done(self, tasks: List[Task], future: Future[JobResults]) -> None:
        self._futures.discard(future)
        try:
            results, seconds = future.result()
        except (TypeError, AttributeError, pickle.PicklingError) as error:  # AttributeError: of a lambda
            self._stop(tasks, RequestError(f"the executor cannot take the request: {error}; give it client=None"))
        except BaseException as error:  # a worker that died, a task that was cancelled
            failed = error if isinstance(error, FlynnError) else FlynnError(f"a worker failed: {error!r}")
            for task in tasks:
                if self._scheduler.stopping:
                    self._scheduler.drop(task)
                else:
                    self._scheduler.fail(task, failed)
        else:
            at_this_rate = int(self._seconds * len(results) / max(seconds, 1e-6))
            self._together = max(1, min(at_this_rate, 2 * len(results), MOST_TOGETHER))
            for task, result in zip(tasks, results):
                self._settle(task, result)
            for task in tasks[len(results) :]:
                self._scheduler.give_back(task)
        self._free.release()

    def _settle(self, task: Task, result: Union[bytes, FlynnError]) -> None:
        try:
            if isinstance(result, FlynnError):
                raise result
            answered = answer(task.request, result)
        except FlynnError as error:
            self._scheduler.fail(task, error)
        else:
            self._scheduler.succeed(task, answered)

    def _stop(self, tasks: List[Task], error: BaseException) -> None:
        self._scheduler.stop(error)
        for task in tasks:
            self._scheduler.drop(task)


def do(client: Optional[LlamaCppClient], jobs: Sequence[Job], seconds: float) -> JobResults:
    """Send requests one after the other, in the worker, and begin no more of them after so many seconds.

    Args:
        client: None for the client that this process's environment and configuration describe.
    """
    client = client or _own_client()
    began = time.monotonic()
    results: List[Union[bytes, FlynnError]] = []
    for path, body, timeout in jobs:
        fetch = functools.partial(client.transport.fetch, "POST", path, body, timeout)
        try:
            try:
                results.append(fetch())
            except ServerNotRunningError:
                client.wait_until_ready(_WAIT)
                results.append(fetch())
        except FlynnError as error:
            results.append(error)
        if time.monotonic() > began + seconds:
            break
    return results, time.monotonic() - began


@functools.cache
def _own_client() -> LlamaCppClient:
    # Only a worker without a client needs the configuration.
    from ..config import load_config
    from ..models.router import create_llamacpp_client

    return create_llamacpp_client(load_config())
