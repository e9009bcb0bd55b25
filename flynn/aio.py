"""`AsyncLlamaCppClient`: the synchronous client, awaited. No logic of its own: each call runs in a thread."""

from __future__ import annotations

import functools
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Coroutine,
    Generic,
    Iterable,
    Iterator,
    Mapping,
    Optional,
    Type,
    TypeVar,
    Union,
    overload,
)

from .http.endpoint import DEFAULT_ENDPOINT
from .http.limits import CancelScope
from .models.local.llamacpp import LlamaCppClient
from .models.local.models import ModelEvent
from .models.local.text import CompletionEvent, CompletionResponse
from .models.local.transport import OWN
from .models.local.typed import DEFAULT_RESULT, DEFAULT_ROUNDS
from .models.types import ChatResponse, Prompt, StreamEvent
from .thread_iterator import ThreadIterator

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec, Unpack

    from .models.options import CallOptions, RunOptions, StreamOptions
    from .structured.answer import AsyncJSONStream
    from .tools import Tool
    from .tools.run import AsyncToolRun

    P = ParamSpec("P")

T = TypeVar("T")
Event = TypeVar("Event")
Response = TypeVar("Response")


class AsyncServerStream(ThreadIterator[Event], Generic[Event, Response]):
    """`ServerStream` for asyncio: an asynchronous iterator of events, and an asynchronous context manager.

    The server stops generating as soon as the stream is closed, its task is cancelled, or the last reference to it is
    gone.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, interrupt=stream.abort)
        self._stream = stream

    @property
    def response(self) -> Response:
        """The response assembled so far; complete once the stream is exhausted."""
        return self._stream.response  # type: ignore[no-any-return]

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._stream.resumes  # type: ignore[no-any-return]

    async def close(self) -> None:
        """End the stream. Closing twice is fine."""
        await self.aclose()


class AsyncTextStream(AsyncServerStream[Event, Response]):
    """`TextStream` for asyncio."""

    async def text(self) -> AsyncIterator[str]:
        """Yield only the text of the first choice, piece by piece."""
        event: Any
        async with self:
            async for event in self:
                if event.type == "content" and event.choice == 0:
                    yield event.text


class AsyncChatStream(AsyncTextStream[StreamEvent, ChatResponse]):
    """`ChatStream` for asyncio."""


class AsyncCompletionStream(AsyncTextStream[CompletionEvent, CompletionResponse]):
    """`CompletionStream` for asyncio."""


class AsyncModelEvents(AsyncServerStream[ModelEvent, None]):
    """`ModelEvents` for asyncio."""


async def in_thread(call: Callable[[], T]) -> T:
    """Call a function in a thread of its own. Cancelling aborts the requests that it makes."""
    scope = CancelScope()

    def results() -> Iterator[T]:
        with scope:
            yield call()

    async with ThreadIterator(results(), interrupt=scope.abort) as iterator:
        return await iterator.__anext__()


def awaited(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return an asynchronous method that calls `method` of `self._client` in a thread."""

    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_thread(lambda: method(self._client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def streamed(
    method: Callable[Concatenate[Any, P], object], stream_type: Callable[[Any], T]
) -> Callable[Concatenate[Any, P], T]:
    """Return a method that wraps the stream of `method` of `self._client` in an asynchronous one."""

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return stream_type(method(self._client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


class AsyncLlamaCppClient:
    """`LlamaCppClient` for asyncio: the same names, awaited.

    Args:
        endpoint, options: as for `LlamaCppClient`.

    Any number of tasks, event loops and threads may share a client. Each call under way has its own thread; none comes
    from the event loop's executor.

    Example:
        >>> async def main():
        ...     async with AsyncLlamaCppClient("http://localhost:8080") as client:
        ...         print((await client.chat("Hi")).content)
        ...         async with client.chat_stream("Hi") as stream:
        ...             async for event in stream:
        ...                 print(event)
    """

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, **options: Any) -> None:
        self._client = LlamaCppClient(endpoint, **options)

    chat = awaited(LlamaCppClient.chat)
    chat_stream = streamed(LlamaCppClient.chat_stream, AsyncChatStream)
    count_tokens = awaited(LlamaCppClient.count_tokens)
    apply_template = awaited(LlamaCppClient.apply_template)
    end_reasoning = awaited(LlamaCppClient.end_reasoning)
    complete = awaited(LlamaCppClient.complete)
    complete_stream = streamed(LlamaCppClient.complete_stream, AsyncCompletionStream)
    infill = awaited(LlamaCppClient.infill)
    embed = awaited(LlamaCppClient.embed)
    embed_tokens = awaited(LlamaCppClient.embed_tokens)
    rerank = awaited(LlamaCppClient.rerank)
    tokenize = awaited(LlamaCppClient.tokenize)
    detokenize = awaited(LlamaCppClient.detokenize)
    health = awaited(LlamaCppClient.health)
    wait_until_ready = awaited(LlamaCppClient.wait_until_ready)
    props = awaited(LlamaCppClient.props)
    models = awaited(LlamaCppClient.models)
    load_model = awaited(LlamaCppClient.load_model)
    unload_model = awaited(LlamaCppClient.unload_model)
    download_model = awaited(LlamaCppClient.download_model)
    delete_model = awaited(LlamaCppClient.delete_model)
    model_events = streamed(LlamaCppClient.model_events, AsyncModelEvents)
    slots = awaited(LlamaCppClient.slots)
    save_slot = awaited(LlamaCppClient.save_slot)
    restore_slot = awaited(LlamaCppClient.restore_slot)
    erase_slot = awaited(LlamaCppClient.erase_slot)
    lora_adapters = awaited(LlamaCppClient.lora_adapters)
    set_lora_adapters = awaited(LlamaCppClient.set_lora_adapters)
    metrics = awaited(LlamaCppClient.metrics)
    request = awaited(LlamaCppClient.request)

    @overload
    async def chat_json(
        self, request: Prompt, schema: Type[T], *, retries: int = 0, **options: Unpack[CallOptions]
    ) -> T: ...
    @overload
    async def chat_json(
        self, request: Prompt, schema: object, *, retries: int = 0, **options: Unpack[CallOptions]
    ) -> Any: ...

    async def chat_json(self, request: Prompt, schema: object, **options: Any) -> Any:
        """Answer a request with an instance of a type; see `LlamaCppClient.chat_json`."""
        return await in_thread(lambda: self._client.chat_json(request, schema, **options))

    @overload
    def chat_json_stream(
        self, request: Prompt, schema: Type[T], **options: Unpack[StreamOptions]
    ) -> AsyncJSONStream[T]: ...
    @overload
    def chat_json_stream(
        self, request: Prompt, schema: object, **options: Unpack[StreamOptions]
    ) -> AsyncJSONStream[Any]: ...

    def chat_json_stream(self, request: Prompt, schema: object, **options: Any) -> AsyncJSONStream[Any]:
        """`chat_json`, streamed: the answer as it grows; see `LlamaCppClient.chat_json_stream`."""
        from .structured.answer import AsyncJSONStream, TypedAnswer

        answer: TypedAnswer[Any] = TypedAnswer(schema)
        return AsyncJSONStream(self.chat_stream(request, **answer.options(request, options)), answer)

    def run_tools(
        self,
        request: Prompt,
        tools: Iterable[Union[Callable[..., Any], Tool]],
        *,
        max_rounds: int = DEFAULT_ROUNDS,
        max_result: int = DEFAULT_RESULT,
        stream: bool = False,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
        **options: Unpack[RunOptions],
    ) -> AsyncToolRun:
        """Answer a request with the help of functions, asynchronous ones too; see `LlamaCppClient.run_tools`."""
        from .tools.loop import ToolLoop
        from .tools.run import AsyncToolRun

        loop = ToolLoop(self._client._given(request, options), tools, max_rounds, max_result)
        return AsyncToolRun(self, loop, stream, timeout=timeout, headers=headers)

    @property
    def synchronous(self) -> LlamaCppClient:
        """The synchronous client that this one uses; you may use it too."""
        return self._client

    async def close(self) -> None:
        """Close the idle connections. Streams under way go on."""
        self._client.close()

    async def __aenter__(self) -> AsyncLlamaCppClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._client.close()

    def __repr__(self) -> str:
        return f"AsyncLlamaCppClient({self._client.endpoint!r})"
