"""`run`: requests in, results out, by threads on one server or by any executor on many."""

from __future__ import annotations

import sys
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Union,
)

from ..errors import RequestError
from ..http.checks import check_timeout
from ..models.local.llamacpp import LlamaCppClient
from ..threads import start
from .requests import AnyRequest, Defaults, Request, make_request
from .results import Result
from .scheduler import Scheduler
from .workers import Executed, Threads

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..aio import AsyncLlamaCppClient

DEFAULT_TIMEOUT = 600.0
DEFAULT_WAIT = 600.0
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
    executor: Optional[Executor] = None,
) -> Run:
    """Answer many requests, and yield each result when it is there.

    Args:
        requests: prompts, mappings in the form of a batch file's lines (see `flynn.batch.requests`), `ChatRequest`s.
            Read as they are needed, some thousands ahead, in a thread.
        client: of the server. With an executor it may be None: each worker then makes its own, from its own
            environment and configuration.
        jobs: requests under way at a time. By default as many as the server has slots that nobody else uses, looked
            up again every 2 seconds. With an executor, how many of its tasks, each a second of requests; 32 by default.
        ordered: yield in the order of the requests, each as soon as all before it are there.
        system: system prompt of chats that have none.
        defaults: fields of chats and completions that do not have them, such as `max_tokens`.
        timeout: seconds that one answer may take, None for no limit; doubled each time that a request is tried again
            because of it.
        wait: seconds without a server after which to give up, None for no limit.
        max_failures: failed requests after which to give up, None for no limit.
        executor: any `concurrent.futures.Executor`, to send requests from there.

    Returns:
        An iterator of `Result`, also an asynchronous one. A request that failed is a result with `error`; what the
        server itself refuses (4xx) fails at once, everything else is tried again, 10 times at most.

    Raises, from the iterator:
        ServerNotRunningError, ModelLoadingError, ServerError: there was no server for `wait` seconds.
        AuthenticationError: the token is missing or wrong.
        ConfigError: what the environment says of proxies is wrong, or this Python lacks ssl for `https:`.
        FlynnError: `max_failures` requests have failed.
        Exception: what `requests` raises.

    Example:
        >>> with run(["Why is the sky blue?", {"prompt": "Hi", "max_tokens": 5}], client) as run:   # doctest: +SKIP
        ...     for result in run:
        ...         print(result.custom_id, result.content if result.error is None else result.error)
    """
    if jobs is not None and jobs < 1:
        raise RequestError(f"jobs is a number above 0, not {jobs!r}")
    check_timeout(timeout)
    plain: Any = getattr(client, "_client", client)
    made = _made(requests, Defaults(system, {**defaults_of(plain), **(defaults or {})}))
    scheduler = Scheduler(one_server=executor is None, wait=wait, max_failures=max_failures)
    if executor is not None:
        return Run(made, scheduler, Executed(executor, plain, scheduler, timeout, jobs or _EXECUTOR_JOBS), ordered)
    if client is None:
        raise RequestError("a batch without an executor needs a client")
    return Run(made, scheduler, Threads(plain, scheduler, timeout, jobs), ordered)


def _made(requests: Iterable[Union[AnyRequest, Result]], defaults: Defaults) -> Iterator[Any]:
    """Each request, or the result that says why it is none."""
    for number, source in enumerate(requests, 1):
        if isinstance(source, Result) or (isinstance(source, Request) and source.number):
            yield source
            continue
        try:
            yield make_request(source, number, defaults)
        except RequestError as error:
            yield Result(None, number, error=error)


def defaults_of(client: Optional[LlamaCppClient]) -> Dict[str, Any]:
    """The fields that a client adds to its chats."""
    defaults = dict(client.defaults) if client else {}
    extra = defaults.pop("extra", {})
    return {**defaults, **extra}


class Run:
    """A batch under way: an iterator of results, and an asynchronous one. See `run`.

    It begins with the first result that is asked for, and ends with the last one, with `close`, or at the end of `with`
    or `async with`.
    """

    def __init__(
        self, requests: Iterator[Any], scheduler: Scheduler, hands: Union[Threads, Executed], ordered: bool
    ) -> None:
        self._requests = requests
        self._scheduler = scheduler
        self._hands = hands
        self._expected: Optional[Deque[int]] = deque() if ordered else None
        self._results = self._in_order(self._expected) if self._expected is not None else self._as_they_come()
        self._async: Any = None
        self._begun = False

    def poll(self, timeout: Optional[float] = None) -> Optional[List[Result]]:
        """Wait for results, `timeout` seconds at most; all there are, as they came. None at the end.

        Raises:
            Exception: as `run` says.
        """
        if not self._begun:
            self._begun = True
            start(_read, self._requests, self._scheduler, self._expected, name="flynn-batch-reader")
            self._hands.begin()
        return self._scheduler.results(timeout)

    def into(self, sink: Callable[[List[Result]], object]) -> None:
        """Give results to a function, in a thread that has one; `poll` then returns empty lists until the end.

        That saves waking another thread for each result. One call at a time; what the function raises ends the run.
        """
        self._scheduler.into(sink)

    def drain(self) -> None:
        """Begin no more requests. Those under way still come."""
        self._scheduler.stop()

    def close(self) -> None:
        """Stop at once, the requests under way too. Closing twice is fine."""
        self._scheduler.stop()
        self._hands.abort()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._scheduler.in_flight

    @property
    def away(self) -> float:
        """Seconds for which there has been no server, 0 if there is one."""
        return self._scheduler.away

    def _as_they_come(self) -> Iterator[Result]:
        try:
            while (results := self.poll()) is not None:
                yield from results
        finally:
            self.close()

    def _in_order(self, expected: Deque[int]) -> Iterator[Result]:
        held: Dict[int, Result] = {}
        for result in self._as_they_come():
            held[result.number] = result
            while expected and expected[0] in held:
                yield held.pop(expected.popleft())
            self._scheduler.hold(len(held))
        for number in sorted(held):  # it was ended early
            yield held[number]

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
            from ..thread_iterator import ThreadIterator

            self._async = ThreadIterator(self._results, interrupt=self.close)
        return self._async  # type: ignore[no-any-return]

    def __del__(self) -> None:
        # At the end of the interpreter a thread that had the lock of `Scheduler` will never give it back.
        if getattr(self, "_begun", False) and not sys.is_finalizing():
            self.close()

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()
        if self._async is not None:
            await self._async.aclose()


def _read(requests: Iterator[Any], scheduler: Scheduler, expected: Optional[Deque[int]]) -> None:
    """In a thread of its own: requests may come from a pipe, slowly."""
    try:
        for item in requests:
            if expected is not None:
                expected.append(item.number)
            if not (scheduler.add_failed(item) if isinstance(item, Result) else scheduler.add(item)):
                break
        scheduler.end()
    except BaseException as error:
        scheduler.stop(error)
