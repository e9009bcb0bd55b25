"""`AsyncLlamaCppClient`: the synchronous client, awaited. No logic of its own: each call runs in a thread."""

from __future__ import annotations

import functools
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Coroutine,
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
from .models.local.text import CompletionEvent, CompletionResponse, Prompts
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

R = TypeVar("R")
T = TypeVar("T")


def awaited(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return an asynchronous method that calls `method` of `self._client` in a thread. Cancelling aborts the call."""

    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        scope = CancelScope()

        def results() -> Iterator[R]:
            with scope:
                yield method(self._client, *args, **kwargs)

        async with ThreadIterator(results(), interrupt=scope.abort) as iterator:
            return await iterator.__anext__()

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
    count_tokens = awaited(LlamaCppClient.count_tokens)
    apply_template = awaited(LlamaCppClient.apply_template)
    end_reasoning = awaited(LlamaCppClient.end_reasoning)
    complete = awaited(LlamaCppClient.complete)
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
    slots = awaited(LlamaCppClient.slots)
    save_slot = awaited(LlamaCppClient.save_slot)
    restore_slot = awaited(LlamaCppClient.restore_slot)
    erase_slot = awaited(LlamaCppClient.erase_slot)
    lora_adapters = awaited(LlamaCppClient.lora_adapters)
    set_lora_adapters = awaited(LlamaCppClient.set_lora_adapters)
    metrics = awaited(LlamaCppClient.metrics)
    request = awaited(LlamaCppClient.request)

    def chat_stream(self, request: Prompt, **options: Unpack[StreamOptions]) -> AsyncChatStream:
        """Stream the answer to a request while it is generated; see `LlamaCppClient.chat_stream`."""
        return AsyncChatStream(self._client.chat_stream(request, **options))

    if TYPE_CHECKING:  # what `awaited` makes of overloads of one type variable, mypy does not understand

        @overload
        async def chat_json(
            self, request: Prompt, schema: Type[T], *, retries: int = 0, **options: Unpack[CallOptions]
        ) -> T: ...
        @overload
        async def chat_json(
            self, request: Prompt, schema: object, *, retries: int = 0, **options: Unpack[CallOptions]
        ) -> Any: ...
        async def chat_json(self, request: Prompt, schema: object, **options: Any) -> Any: ...

    else:
        chat_json = awaited(LlamaCppClient.chat_json)

    if TYPE_CHECKING:

        @overload
        def chat_json_stream(
            self, request: Prompt, schema: Type[T], **options: Unpack[StreamOptions]
        ) -> AsyncJSONStream[T]: ...
        @overload
        def chat_json_stream(
            self, request: Prompt, schema: object, **options: Unpack[StreamOptions]
        ) -> AsyncJSONStream[Any]: ...

    def chat_json_stream(
        self, request: Prompt, schema: object, **options: Unpack[StreamOptions]
    ) -> AsyncJSONStream[Any]:
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

    def complete_stream(self, /, prompt: Prompts, **options: Any) -> AsyncCompletionStream:
        """Stream the completion of a text while it is generated; see `LlamaCppClient.complete_stream`."""
        return AsyncCompletionStream(self._client.complete_stream(prompt, **options))

    def model_events(self, **options: Any) -> AsyncModelEvents:
        """Stream the events of a server with several models; see `LlamaCppClient.model_events`."""
        return AsyncModelEvents(self._client.model_events(**options))

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


class AsyncServerStream(ThreadIterator["Any"]):
    """`ServerStream` for asyncio: an asynchronous iterator of events, and an asynchronous context manager.

    The server stops generating as soon as the stream is closed, its task is cancelled, or the last reference to it is
    gone.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, interrupt=stream.abort)
        self._stream = stream

    @property
    def response(self) -> Any:
        """The response assembled so far; complete once the stream is exhausted."""
        return self._stream.response

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        resumes: int = self._stream.resumes
        return resumes

    async def close(self) -> None:
        """End the stream. Closing twice is fine."""
        await self.aclose()


class AsyncTextStream(AsyncServerStream):
    """`TextStream` for asyncio."""

    async def text(self) -> AsyncIterator[str]:
        """Yield only the text of the first choice, piece by piece."""
        async with self:
            async for event in self:
                if event.type == "content" and event.choice == 0:
                    yield event.text


class AsyncChatStream(AsyncTextStream):
    """`ChatStream` for asyncio."""

    if TYPE_CHECKING:

        @property
        def response(self) -> ChatResponse: ...

        async def __anext__(self) -> StreamEvent: ...


class AsyncCompletionStream(AsyncTextStream):
    """`CompletionStream` for asyncio."""

    if TYPE_CHECKING:

        @property
        def response(self) -> CompletionResponse: ...

        async def __anext__(self) -> CompletionEvent: ...


class AsyncModelEvents(AsyncServerStream):
    """`ModelEvents` for asyncio."""

    if TYPE_CHECKING:

        async def __anext__(self) -> ModelEvent: ...
