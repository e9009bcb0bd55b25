"""Requests handed to an executor: processes, or machines, each of which may have a server of its own.

To hand something over may cost more than to answer it. So a task of the executor is several requests, as many as are
answered within a second, one after the other, and their answers come back together. A worker that dies costs no more
than that, and while answers take longer than a second, each is a task of its own.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
import threading
import time

from ..errors import ConfigError, FlynnError, ServerNotRunningError
from ..pump import start
from .results import success

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from typing import Iterator, List, Optional, Sequence, Set, Tuple, Union

    from ..models.local.llamacpp import LlamaCppClient
    from .waiting import Task
    from .work import Work

    # Route, body and the seconds that it may take.
    Asked = Tuple[str, bytes, Optional[float]]
    # The answers, and the seconds that they took.
    Answered = Tuple[List[Union[bytes, FlynnError]], float]

TOGETHER = 1.0  # seconds after which a worker begins no more of the requests that it was given
MOST_TOGETHER = 64
_WAIT = 30.0  # seconds that a worker waits for its server before another one gets the request
_DASK_TIMEOUT = 30  # seconds to reach the scheduler


class Executed:
    """Requests in an executor, which has so many `jobs` at a time; `timeout` is as for `Threads`."""

    def __init__(
        self, executor: Executor, client: Optional[LlamaCppClient], work: Work, timeout: Optional[float], jobs: int
    ) -> None:
        self._executor, self._client, self._work, self._timeout = executor, client, work, timeout
        self._futures: Set[Future[Answered]] = set()
        self._free = threading.Semaphore(jobs)
        self._together = 1

    def begin(self) -> None:
        self._work.set_limit(sys.maxsize)
        start(self._submit, name="flynn-batch-submit")

    def abort(self) -> None:
        """Take back what has not begun; an executor cannot be made to stop what has."""
        for future in list(self._futures):
            future.cancel()

    def _submit(self) -> None:
        while self._free.acquire() and (tasks := self._work.take(0, self._together)):
            asked = [(task.request.path, task.request.body, task.limit(self._timeout)) for task in tasks]
            try:
                future = self._executor.submit(answer, self._client, asked)
            except BaseException as error:  # it was shut down, or is broken
                self._stop(tasks, error)
                return
            self._futures.add(future)
            future.add_done_callback(functools.partial(self._done, tasks))

    def _done(self, tasks: List[Task], future: Future[Answered]) -> None:
        self._futures.discard(future)
        try:
            answers, seconds = future.result()
        except (TypeError, pickle.PicklingError) as error:
            self._stop(tasks, ConfigError(f"the executor cannot take the request: {error}; does it need client=None?"))
        except BaseException as error:  # a worker that died, a task that was cancelled
            failed = error if isinstance(error, FlynnError) else FlynnError(f"a worker failed: {error!r}")
            for task in tasks:
                if self._work.stopping:
                    self._work.drop()
                else:
                    self._work.fail(task, failed)
        else:
            at_this_rate = int(TOGETHER * len(answers) / max(seconds, 1e-6))
            self._together = max(1, min(at_this_rate, 2 * len(answers), MOST_TOGETHER))
            for task, answered in zip(tasks, answers):
                try:
                    if isinstance(answered, FlynnError):
                        raise answered
                    result = success(task.request, answered)
                except FlynnError as error:
                    self._work.fail(task, error)
                else:
                    self._work.succeed(result)
            for task in tasks[len(answers) :]:
                self._work.give_back(task)
        self._free.release()

    def _stop(self, tasks: List[Task], error: BaseException) -> None:
        self._work.stop(error)
        for _ in tasks:
            self._work.drop()


def answer(client: Optional[LlamaCppClient], asked: Sequence[Asked]) -> Answered:
    """In the worker: send requests one after the other, and begin no more of them after `TOGETHER` seconds.

    Args:
        client: None for the one that this process's environment and configuration describe.
    """
    client = client or _own_client()
    began = time.monotonic()
    answers: List[Union[bytes, FlynnError]] = []
    for path, body, timeout in asked:
        fetch = functools.partial(client.transport.fetch, "POST", path, body, timeout)
        try:
            try:
                answers.append(fetch())
            except ServerNotRunningError:
                client.wait_until_ready(_WAIT)
                answers.append(fetch())
        except FlynnError as error:
            answers.append(error)
        if time.monotonic() > began + TOGETHER:
            break
    return answers, time.monotonic() - began


@functools.cache
def _own_client() -> LlamaCppClient:
    from ..config import load_config
    from ..models.router import create_client

    return create_client(load_config(), "local")


@contextlib.contextmanager
def dask(address: str, jobs: Optional[int]) -> Iterator[Tuple[Executor, int]]:
    """The workers of a Dask scheduler, e.g. at `tcp://host:8786`, as an executor, and the jobs that it shall have.

    Raises:
        ConfigError: the package `distributed` (`pip install flynn[dask]`) is not installed, or there is no scheduler.
    """
    try:
        from distributed import Client  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ConfigError("--dask needs the package distributed: pip install flynn[dask]") from None
    try:
        client = Client(address, timeout=_DASK_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler at {address}: {error}") from None
    with client, client.get_executor(pure=False, retries=0) as workers:
        yield workers, jobs or 2 * max(1, sum(client.nthreads().values()))
