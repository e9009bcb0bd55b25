"""The workers: threads that send the requests to one server, or through an executor to the servers of its workers."""

from __future__ import annotations

import functools
import mmap
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Union

from ..errors import FlynnError, ProtocolError, RequestError, ServerError, ServerNotRunningError
from ..http.limits import CallAborted, CancelScope
from ..models.local.llamacpp import LlamaCppClient
from ..threads import start
from .results import Result, answer
from .scheduler import Scheduler

if TYPE_CHECKING:
    from concurrent.futures import Executor

Reply = Union[bytes, FlynnError]

_LOOK = 2.0  # seconds between two looks at the server's slots
# Bytes of address space that another thread needs: its stack, and what glibc reserves for its allocations
# (malloc/arena.c). With less, threads start, and then fail anywhere.
_ROOM = (8 + 64) * 1024 * 1024
_UNKNOWN_SLOTS = 4  # slots of a server that does not say how many it has
_MOST_SLOTS = 256  # if a server reports more, they are not used
_LONGEST_WAIT = 30.0  # seconds that a worker of an executor waits for its server before another gets the request


class Workers:
    """Threads that take tasks from the scheduler, send them to the server, and report the replies.

    There are `jobs` threads, or, if that is None, as many as the server has free slots.
    """

    def __init__(
        self, client: Optional[LlamaCppClient], scheduler: Scheduler, timeout: Optional[float], jobs: Optional[int]
    ) -> None:
        self._client: Any = client  # None only for an executor
        self._scheduler, self._timeout, self._jobs = scheduler, timeout, jobs
        self._threads = 0
        self._others = sys.maxsize  # slots that others used at the last look
        self._aborted = threading.Event()
        self._aborts: Dict[int, Callable[[], object]] = {}  # by thread: what aborts the call that it waits for

    def begin(self) -> None:
        if self._jobs is not None:
            self._use(self._jobs)
        else:
            start(self._watch_slots, name="flynn-batch-slots")

    def abort(self) -> None:
        """Abort the requests under way; the scheduler has been stopped."""
        self._aborted.set()
        for abort in list(self._aborts.values()):
            abort()

    def _on_abort(self, thread: int, abort: Callable[[], object]) -> None:
        self._aborts[thread] = abort
        if self._aborted.is_set():
            abort()

    def _use(self, threads: int) -> None:
        """Start threads until there are this many, or as many as there is room for; without any the run ends."""
        self._scheduler.set_limit(threads)
        try:
            for number in range(self._threads + 1, threads + 1):
                if number > 1:
                    mmap.mmap(-1, _ROOM).close()
                start(self._work, number, name=f"flynn-batch-{number}")
                self._threads = number
        except (FlynnError, OSError) as error:
            if not self._threads:
                self._scheduler.stop(error)

    def _work(self, thread: int) -> None:
        while task := self._scheduler.take(thread):
            outcome: Union[Result, FlynnError, None] = None
            try:
                reply = self._send(thread, task.request.path, task.request.body, task.time_limit(self._timeout))
                outcome = answer(task.request, reply) if isinstance(reply, bytes) else reply
            except FlynnError as error:
                outcome = error
            except BaseException as error:
                self._scheduler.stop(error)
            self._scheduler.finish(task, outcome)

    def _send(self, thread: int, path: str, body: bytes, timeout: Optional[float]) -> Optional[Reply]:
        """Send a request. Returns the reply, or why there is none; None if it was not sent, or aborted."""
        try:
            with self._scope(thread):
                reply: bytes = self._client.transport.fetch("POST", path, body, timeout, decode=bytes)
                return reply
        except CallAborted:
            return None
        except FlynnError as error:
            return error

    def _scope(self, thread: int) -> CancelScope:
        scope = CancelScope()
        self._on_abort(thread, scope.abort)
        return scope

    def _watch_slots(self) -> None:
        """Use as many threads as the server has slots that nobody else uses, at least one."""
        while self._jobs is None:
            try:
                with self._scope(0):
                    jobs = self._free_slots()
            except FlynnError:  # the requests will fail too, and say it
                jobs = max(1, self._scheduler.limit)
            self._use(jobs)
            if self._aborted.wait(_LOOK) or self._scheduler.stopping:
                return

    def _free_slots(self) -> int:
        ours = self._scheduler.in_flight
        try:
            slots = self._client.slots(timeout=_LOOK)
        except (ServerError, ProtocolError) as error:
            if isinstance(error, ServerError) and error.status not in (404, 405, 501):
                raise
            self._jobs = self._total_slots()  # a server with --no-slots, or a proxy that does not know the route
            return self._jobs
        ours = max(ours, self._scheduler.in_flight)
        others: int = max(0, sum(slot.is_processing for slot in slots) - ours)
        # A slot may be busy for a moment after its answer has come: a slot is another's if two looks say so.
        used, self._others = min(others, self._others), others
        return min(max(1, len(slots) - used), _MOST_SLOTS)

    def _total_slots(self) -> int:
        try:
            slots: int = self._client.props(timeout=_LOOK).total_slots
        except (ServerError, ProtocolError):
            slots = 0
        return min(slots, _MOST_SLOTS) if slots > 0 else _UNKNOWN_SLOTS


class ExecutorWorkers(Workers):
    """Threads that each hand a request to an executor, and wait for its reply.

    The client is sent along; where it is None, each worker of the executor makes its own.
    """

    def __init__(
        self,
        executor: Executor,
        client: Optional[LlamaCppClient],
        scheduler: Scheduler,
        timeout: Optional[float],
        jobs: int,
        wait: Optional[float] = None,
    ) -> None:
        super().__init__(client, scheduler, timeout, jobs)
        self._executor = executor
        self._wait = _LONGEST_WAIT if wait is None else min(wait, _LONGEST_WAIT)

    def _send(self, thread: int, path: str, body: bytes, timeout: Optional[float]) -> Optional[Reply]:
        future = self._executor.submit(fetch, self._client, path, body, timeout, self._wait)
        self._on_abort(thread, future.cancel)  # only a task that has not begun: an executor cannot stop the others
        try:
            return future.result()
        except (TypeError, AttributeError, pickle.PicklingError) as error:  # AttributeError: of a lambda
            self._scheduler.stop(RequestError(f"the executor cannot take the request: {error}; give it client=None"))
            return None
        except BaseException as error:  # a worker that died, a task that was cancelled
            failed = error if isinstance(error, FlynnError) else FlynnError(f"a worker failed: {error!r}")
            return None if self._scheduler.stopping else failed


def fetch(client: Optional[LlamaCppClient], path: str, body: bytes, timeout: Optional[float], wait: float) -> Reply:
    """Send a request in a worker of an executor, and wait so many seconds if the server is not running.

    Returns the reply, or why there is none. Without a client it makes the one that the environment and the
    configuration of this process describe.
    """
    client = client or _own_client()
    send = functools.partial(client.transport.fetch, "POST", path, body, timeout, decode=bytes)
    try:
        try:
            return send()
        except ServerNotRunningError:
            client.wait_until_ready(wait)
            return send()
    except FlynnError as error:
        return error


@functools.cache
def _own_client() -> LlamaCppClient:
    # Only a worker without a client needs the configuration.
    from ..config import load_config
    from ..models.router import create_llamacpp_client

    return create_llamacpp_client(load_config())
