"""Requests sent to one server: a thread for each that is under way."""

from __future__ import annotations

import mmap
import sys
import threading

from ..errors import FlynnError, NotSupportedError
from ..http.call import CallAborted, Scope
from ..pump import start
from .results import success

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional

    from ..models.local.llamacpp import LlamaCppClient
    from .work import Work

_LOOK = 2.0  # seconds between two looks at the server's slots
# Bytes of address space that must be left for another thread: its stack, and what glibc reserves for what it allocates
# (malloc/arena.c). With less, threads do begin, and then fail anywhere.
_ROOM = (8 + 64) * 1024 * 1024
_UNKNOWN_SLOTS = 4  # how many a server has that does not tell


class Threads:
    """The threads: as many as `jobs`, or, if that is None, as the server has slots free.

    Args:
        timeout: seconds for one attempt.
    """

    def __init__(self, client: LlamaCppClient, work: Work, timeout: Optional[float], jobs: Optional[int]) -> None:
        self._client, self._work, self._timeout, self._jobs = client, work, timeout, jobs
        self._count = 0
        self._others = sys.maxsize  # slots that others used at the last look
        self._scopes: Dict[int, Scope] = {}
        self._aborted = threading.Event()

    def begin(self) -> None:
        if self._jobs is not None:
            self._use(self._jobs)
        else:
            start(self._watch, name="flynn-batch-slots")

    def abort(self) -> None:
        """End what is under way; `Work` has been stopped."""
        self._aborted.set()
        for scope in list(self._scopes.values()):
            scope.abort()

    def _use(self, jobs: int) -> None:
        """Have so many threads, or as many as there is room for, but at least one."""
        self._work.set_limit(jobs)
        try:
            for number in range(self._count + 1, jobs + 1):
                if number > 1:
                    mmap.mmap(-1, _ROOM).close()
                start(self._answer, number, name=f"flynn-batch-{number}")
                self._count = number
        except (FlynnError, OSError):
            if not self._count:
                raise
            self._work.set_limit(self._count)

    def _scope(self, worker: int) -> Scope:
        scope = self._scopes[worker] = Scope()
        if self._aborted.is_set():
            scope.abort()
        return scope

    def _answer(self, worker: int) -> None:
        work = self._work
        while tasks := work.take(worker):
            (task,) = tasks
            request = task.request
            try:
                with self._scope(worker):
                    raw = self._client.transport.fetch("POST", request.path, request.body, task.limit(self._timeout))
                result = success(request, raw)
            except CallAborted:
                work.drop()
            except FlynnError as error:
                work.fail(task, error)
            except BaseException as error:
                work.stop(error)
                work.drop()
            else:
                work.succeed(result)

    def _watch(self) -> None:
        """Keep to the slots that nobody else uses, and at least to one."""
        while self._jobs is None:
            try:
                with self._scope(0):
                    jobs = self._free_slots()
            except FlynnError:  # those who work will say it
                jobs = max(1, self._work.limit)
            try:
                self._use(jobs)
            except FlynnError as error:
                return self._work.stop(error)
            if self._aborted.wait(_LOOK) or self._work.stopping:
                return None

    def _free_slots(self) -> int:
        ours = self._work.in_flight
        try:
            slots = self._client.slots(timeout=_LOOK)
        except NotSupportedError:
            self._jobs = self._client.props(timeout=_LOOK).total_slots or _UNKNOWN_SLOTS
            return self._jobs
        ours = max(ours, self._work.in_flight)
        others = max(0, sum(slot.is_processing for slot in slots) - ours)
        # A slot may be busy for a moment more after its answer has come. What others use, they use at two looks.
        used, self._others = min(others, self._others), others
        return max(1, len(slots) - used)
