"""`ToolRun` and `AsyncToolRun`: what `run_tools` of either client returns."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, AsyncGenerator, AsyncIterator, Generator, Iterator, List, Mapping, Optional, Sequence, Union

from ..models.messages import AnyMessage
from ..models.types import ChatResponse, DoneEvent, StreamEvent, ToolCall
from .loop import ToolLoop, ToolResultEvent

Step = Union[StreamEvent, ToolResultEvent]


class _Run:
    _loop: ToolLoop

    @property
    def messages(self) -> List[AnyMessage]:
        """The conversation so far, in whole rounds. After the run it is complete: append the next message to it."""
        return list(self._loop.messages)

    def _answer(self) -> ChatResponse:
        if self._loop.answer is None:
            raise RuntimeError("the run ended without an answer")
        return self._loop.answer


class ToolRun(_Run, Iterator[Step], AbstractContextManager["ToolRun"]):
    """A run with tools: an iterator of its steps, and a context manager. `LlamaCppClient.run_tools` returns it.

    The first request is sent when iteration begins. The calls of a reply are made only when the step after that reply
    is asked for: leave the loop there to refuse them. Up to 32 calls of one reply are made.

    Each step has a `type`:
        `"done"`: a reply is complete. Its `response` has calls of tools, or is the answer.
        `"tool_result"`: a call was made: `call`, `content` (what is sent to the model), `error`.
        With `stream=True` also the events of `chat_stream`, before each reply is done.

    Raises, while iterating:
        ToolRoundsError: the model still called tools in the last round.
        StructuredOutputError: `tool_choice` forces a call, and the first reply has none.
        FlynnError: as `chat` and `chat_stream` do.

    Example:
        >>> for step in client.run_tools("What is the weather in Paris?", [get_weather]):
        ...     if step.type == "tool_result":
        ...         print(step.call.name, step.call.arguments, step.content)
        get_weather {"city": "Paris"} 22 °C and sunny in Paris
    """

    def __init__(self, client: Any, loop: ToolLoop, stream: bool, **options: Any) -> None:
        for tool in loop.tools.values():
            if tool.asynchronous:
                raise TypeError(f"{tool.name} is asynchronous: only AsyncLlamaCppClient can call it")
        self._loop = loop
        self._steps = _steps(loop, client, stream, options)

    def answer(self) -> ChatResponse:
        """Run to the end and return the reply that asks for no more calls.

        Raises:
            RuntimeError: there is no answer: the run was closed, or ended with an exception.
            FlynnError: as iterating does.
        """
        for _ in self:
            pass
        return self._answer()

    def close(self) -> None:
        """End the run; the server stops generating. Closing twice is fine."""
        self._steps.close()

    def __next__(self) -> Step:
        return next(self._steps)

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncToolRun(_Run, AsyncIterator[Step], AbstractAsyncContextManager["AsyncToolRun"]):
    """`ToolRun` for asyncio: an asynchronous iterator of steps, and an asynchronous context manager.

    The calls of one reply run at the same time: asynchronous functions in the event loop, others in threads of its
    executor. Their results come in the order of the calls. Cancelling the task aborts the request and cancels the
    asynchronous functions; a function in a thread runs on, and nothing waits for it.

    Example:
        >>> async def weather(client):
        ...     async for step in client.run_tools("What is the weather in Paris?", [get_weather]):
        ...         print(step.type)
    """

    def __init__(self, client: Any, loop: ToolLoop, stream: bool, **options: Any) -> None:
        self._loop = loop
        self._steps = _async_steps(loop, client, stream, options)

    async def answer(self) -> ChatResponse:
        """Run to the end and return the reply that asks for no more calls."""
        async for _ in self:
            pass
        return self._answer()

    async def close(self) -> None:
        """End the run; the server stops generating. Closing twice is fine."""
        await self._steps.aclose()

    async def __anext__(self) -> Step:
        return await self._steps.__anext__()

    async def __aexit__(self, *error: object) -> None:
        await self.close()


# Functions, not methods: a generator that refers to its run would keep a forgotten run alive, and its stream open.


def _steps(loop: ToolLoop, client: Any, stream: bool, options: Mapping[str, Any]) -> Generator[Step, None, None]:
    while loop.answer is None:
        request = loop.request()
        calls: Optional[Sequence[ToolCall]] = None
        if stream:
            with client.chat_stream(request, **options) as events:
                for event in events:
                    if event.type == "done":
                        calls = loop.take(event.response)
                    yield event
        else:
            response = client.chat(request, **options)
            calls = loop.take(response)
            yield DoneEvent(response)
        if calls is None:  # the stream was closed
            return
        for call in calls:
            result = loop.execute(call)
            loop.add(result)
            yield result


async def _async_steps(
    loop: ToolLoop, client: Any, stream: bool, options: Mapping[str, Any]
) -> AsyncGenerator[Step, None]:
    import asyncio

    async def execute(call: ToolCall) -> ToolResultEvent:
        if call.name not in loop.tools or not loop.tools[call.name].asynchronous:
            return await asyncio.to_thread(loop.execute, call)
        try:
            return loop.returned(call, await loop.bind(call)())
        except Exception as error:
            return loop.failed(call, error)

    while loop.answer is None:
        request = loop.request()
        calls: Optional[Sequence[ToolCall]] = None
        if stream:
            async with client.chat_stream(request, **options) as events:
                async for event in events:
                    if event.type == "done":
                        calls = loop.take(event.response)
                    yield event
        else:
            response = await client.chat(request, **options)
            calls = loop.take(response)
            yield DoneEvent(response)
        if calls is None:  # the stream was closed
            return
        tasks = [asyncio.ensure_future(execute(call)) for call in calls]
        try:
            for task in tasks:
                result = await task
                loop.add(result)
                yield result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
