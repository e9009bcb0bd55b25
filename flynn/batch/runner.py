"""`run`: requests in, results out, by threads on one server or by an executor on many."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, AsyncIterator, Dict, Iterable, Iterator, List, Mapping, Optional, Union

from ..errors import RequestError
from ..http.checks import check_timeout
from ..models.local.llamacpp import LlamaCppClient
from ..threads import start
from .requests import AnyRequest, Defaults, Request, id_of, make_request
from .results import Result
from .scheduler import Scheduler
from .workers import ExecutorWorkers, Workers

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..aio import AsyncLlamaCppClient
    from ..thread_iterator import ThreadIterator

DEFAULT_TIMEOUT = 600.0
DEFAULT_WAIT = 600.0
DEFAULT_RETRIES = 2
_EXECUTOR_JOBS = 32


def run(
    requests: Iterable[Union[AnyRequest, Result]],
    client: Union[LlamaCppClient, AsyncLlamaCppClient, None] = None,
    *,
    jobs: Optional[int] = None,
    ordered: bool = False,
    system: Optional[str] = None,
    defaults: Optional[Mapping[str, Any]] = None,
    timeout: Optional[float] = DEFAULT_TIMEOUT,
    wait: Optional[float] = DEFAULT_WAIT,
    max_failures: Optional[int] = None,
    retries: int = DEFAULT_RETRIES,
    executor: Optional[Executor] = None,
) -> Run:
    """Answer many requests, and yield each result as soon as it is there.

    Args:
        requests: prompts, mappings in the form of a batch file's lines (see `flynn.batch.requests`), `ChatRequest`s.
            They are read as they are needed, some thousands ahead, in a thread.
        client: client of the server. With an executor it may be None: then each worker makes its own client, from its
            own environment and configuration.
        jobs: requests under way at a time; by default as many as the server has slots that nobody else uses, looked up
            every 2 seconds. With an executor, 32 by default.
        ordered: yield results in the order of the requests, each as soon as all before it are there.
        system: system prompt of chats that have none.
        defaults: fields of chats and completions that do not have them, such as `max_tokens`.
        timeout: seconds that one answer may take, 600 by default, None for no limit; doubled for a request each time
            that it times out.
        wait: seconds without any answer after which to give up, 600 by default, None for no limit.
        max_failures: failed requests after which to give up, None (the default) for no limit.
        retries: how often to ask again for an answer that does not fit the request's JSON schema, 2 by default.
        executor: any `concurrent.futures.Executor`: its workers send the requests.

    Returns:
        An iterator of `Result`, also an asynchronous one. A request that failed is a result with `error`. A request
        that the server itself refuses (4xx, 501) fails at once. Every other failure is tried again; a request has
        failed after 10 failures while the server answered other requests.

    Raises, from the iterator:
        FlynnError: no request was answered for `wait` seconds: the last failure, such as ServerNotRunningError,
            ModelLoadingError or RequestTimeoutError. Or `max_failures` requests have failed.
        AuthenticationError: the token is missing or wrong.
        ConfigError: the environment's settings for proxies are wrong, or this Python lacks ssl for `https:`.
        Exception: what `requests` raises.

    Example:
        >>> with run(["Why is the sky blue?", {"prompt": "Hi", "max_tokens": 5}], client) as run:   # doctest: +SKIP
        ...     for result in run:
        ...         print(result.custom_id, result.content if result.error is None else result.error)
    """
    if jobs is not None and jobs < 1:
        raise RequestError(f"jobs must be a number above 0, not {jobs!r}")
    check_timeout(timeout)
    plain: Any = getattr(client, "_client", client)
    prepared = prepare(requests, Defaults(system, {**defaults_of(plain), **(defaults or {})}))
    scheduler = Scheduler(
        one_server=executor is None, wait=wait, max_failures=max_failures, retries=retries, ordered=ordered
    )
    if executor is not None:
        workers = ExecutorWorkers(executor, plain, scheduler, timeout, jobs or _EXECUTOR_JOBS, wait)
        return Run(prepared, scheduler, workers)
    if client is None:
        raise RequestError("a batch without an executor needs a client")
    return Run(prepared, scheduler, Workers(plain, scheduler, timeout, jobs))


def prepare(requests: Iterable[Union[AnyRequest, Result]], defaults: Defaults) -> Iterator[Union[Request, Result]]:
    """Yield each request ready to be sent, or the result that says why it is not a request."""
    for number, source in enumerate(requests, 1):
        if isinstance(source, Result) or (isinstance(source, Request) and source.number):  # prepared by the command
            yield source
            continue
        custom_id = id_of(None, number)
        try:
            custom_id = id_of(source, number)
            yield make_request(source, number, defaults)
        except RequestError as error:
            yield Result(custom_id, number, error=error)


def defaults_of(client: Optional[LlamaCppClient]) -> Dict[str, Any]:
    """Return the fields that a client adds to its chats."""
    defaults = dict(client.defaults) if client else {}
    extra = defaults.pop("extra", {})
    return {**defaults, **extra}


class Run:
    """A batch under way: an iterator of results, and an asynchronous one. See `run`.

    It begins when the first result is asked for, and ends with the last one, with `close`, or at the end of `with` or
    `async with`.
    """

    def __init__(self, requests: Iterator[Union[Request, Result]], scheduler: Scheduler, workers: Workers) -> None:
        self._requests = requests
        self._scheduler = scheduler
        self._workers = workers
        self._results = self._iterate()
        self._async: Optional[ThreadIterator[Result]] = None
        self._begun = False

    def poll(self, timeout: Optional[float] = None) -> Optional[List[Result]]:
        """Wait for results, `timeout` seconds at most, and return all that are there; None at the end.

        Raises:
            Exception: see `run`.
        """
        if not self._begun:
            self._begun = True
            start(_read, self._requests, self._scheduler, name="flynn-batch-reader")
            self._scheduler.gather()
            self._workers.begin()
        return self._scheduler.results(timeout)

    def drain(self) -> None:
        """Begin no more requests. Those under way still yield results."""
        self._scheduler.stop()

    def close(self) -> None:
        """Abort the requests under way, and begin no more. Closing twice is fine."""
        self._scheduler.stop()
        self._workers.abort()

    @property
    def in_flight(self) -> int:
        """The number of requests under way."""
        return self._scheduler.in_flight

    @property
    def away(self) -> float:
        """Seconds for which no request was answered; 0 while the server answers."""
        return self._scheduler.away()[0]

    @property
    def trouble(self) -> str:
        """Why no request is answered; empty while the server answers."""
        error = self._scheduler.away()[1]
        return "" if error is None else str(error)

    def _iterate(self) -> Iterator[Result]:
        try:
            while (results := self.poll()) is not None:
                yield from results
        finally:
            self.close()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        return next(self._results)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Result]:
        if self._async is None:
            from ..thread_iterator import ThreadIterator  # imports asyncio, which takes twice as long as all the rest

            self._async = ThreadIterator(self._results, interrupt=self.close)
        return self._async

    def __del__(self) -> None:
        # While the interpreter ends, a thread that holds the lock of the scheduler never releases it.
        if self._begun and not sys.is_finalizing():
            self.close()

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()
        if self._async is not None:
            await self._async.aclose()


def _read(requests: Iterator[Union[Request, Result]], scheduler: Scheduler) -> None:
    """Read the requests, in a thread of their own: a pipe may deliver them slowly."""
    try:
        for item in requests:
            if not scheduler.add(item):
                break
        scheduler.end()
    except BaseException as error:
        scheduler.stop(error)
