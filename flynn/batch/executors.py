"""Requests handed to an executor: processes, or machines, each of which may have a server of its own."""

from __future__ import annotations

import functools
import pickle
import threading

from ..errors import ConfigError, FlynnError, ServerNotRunningError
from .results import success
from .threads import limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from typing import Optional, Set

    from ..models.local.llamacpp import LlamaCppClient
    from .work import Task, Work

_WAIT = 30.0  # seconds that a worker waits for its server before another one gets the task


class Executed:
    """Tasks in an executor."""

    def __init__(
        self, executor: Executor, client: Optional[LlamaCppClient], work: Work, timeout: Optional[float]
    ) -> None:
        self._executor, self._client, self._work, self._timeout = executor, client, work, timeout
        self._futures: Set[Future[bytes]] = set()

    def begin(self) -> None:
        threading.Thread(target=self._submit, name="flynn-batch-submit", daemon=True).start()

    def abort(self) -> None:
        """Take back what has not begun; an executor cannot be made to stop what has."""
        for future in list(self._futures):
            future.cancel()

    def _submit(self) -> None:
        while (task := self._work.take(0)) is not None:
            request = task.request
            try:
                future = self._executor.submit(
                    answer, self._client, request.path, request.body, limit(self._timeout, task)
                )
            except BaseException as error:  # it was shut down, or is broken
                self._work.stop(error)
                self._work.drop()
                return
            self._futures.add(future)
            future.add_done_callback(functools.partial(self._done, task))

    def _done(self, task: Task, future: Future[bytes]) -> None:
        self._futures.discard(future)
        try:
            result = success(task.request, future.result())
        except FlynnError as error:
            self._work.fail(task, error)
        except (TypeError, pickle.PicklingError) as error:
            self._work.stop(ConfigError(f"the executor cannot take the request: {error}; does it need client=None?"))
            self._work.drop()
        except BaseException as error:  # a worker that died, a task that was cancelled
            if self._work.stopping:
                self._work.drop()
            else:
                self._work.fail(task, FlynnError(f"a worker failed: {error!r}"))
        else:
            self._work.succeed(result)


def answer(client: Optional[LlamaCppClient], path: str, body: bytes, timeout: Optional[float]) -> bytes:
    """In the worker: send a request, and wait a while for a server that is not up.

    Args:
        client: None for the one that this process's environment and configuration describe.
    """
    client = client or _own_client()
    try:
        return client.transport.fetch("POST", path, body, timeout)
    except ServerNotRunningError:
        client.wait_until_ready(_WAIT)
        return client.transport.fetch("POST", path, body, timeout)


@functools.cache
def _own_client() -> LlamaCppClient:
    from ..config import load_config
    from ..models.router import create_client

    return create_client(load_config(), "local")
