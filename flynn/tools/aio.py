"""`AsyncToolRun`: what `AsyncLlamaCppClient.run_tools` returns."""

from __future__ import annotations

import asyncio

from ..models.types import DoneEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AsyncGenerator, List, Mapping, Optional, Union

    from ..aio import AsyncLlamaCppClient
    from ..models.types import ChatResponse, Message
    from .rounds import Invocation, Rounds, ToolResultEvent
    from .run import Step


class AsyncToolRun:
    """`ToolRun` for asyncio: an asynchronous iterator of steps, and an asynchronous context manager.

    The calls of one reply are made at the same time: asynchronous functions in the event loop, others in threads of its
    executor. Their results come in the order of the calls. Cancelling the task ends the request under way and the
    asynchronous functions; one that runs in a thread runs on, and nobody waits for it.

    Example:
        >>> async def weather(client):
        ...     async for step in client.run_tools("What is the weather in Paris?", [get_weather]):
        ...         print(step.type)
    """

    def __init__(self, client: AsyncLlamaCppClient, rounds: Rounds, stream: bool, timeout: Optional[float]) -> None:
        self._rounds = rounds
        self._steps = _steps(rounds, client, stream, timeout)

    @property
    def messages(self) -> List[Union[Message, Mapping[str, Any]]]:
        """The conversation so far, in whole rounds; of a run that has ended all of it, to go on with."""
        return list(self._rounds.messages)

    async def answer(self) -> ChatResponse:
        """Run to the end, if it has not ended yet; the reply that asked for no more calls."""
        async for _ in self:
            pass
        return self._rounds.answered()

    async def close(self) -> None:
        """End the run; the server stops generating. Closing twice is fine."""
        await self._steps.aclose()

    def __aiter__(self) -> AsyncToolRun:
        return self

    async def __anext__(self) -> Step:
        return await self._steps.__anext__()

    async def __aenter__(self) -> AsyncToolRun:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


# No method: a run that nobody refers to any more would otherwise still refer to itself.
async def _steps(
    rounds: Rounds, client: AsyncLlamaCppClient, stream: bool, timeout: Optional[float]
) -> AsyncGenerator[Step, None]:
    while rounds.answer is None:
        request = rounds.request()
        if stream:
            async with client.chat_stream(request, timeout=timeout) as events:
                async for event in events:
                    if event.type == "done":
                        calls = rounds.take(event.response)
                    yield event
        else:
            response = await client.chat(request, timeout=timeout)
            calls = rounds.take(response)
            yield DoneEvent(response)
        tasks = [asyncio.ensure_future(_execute(call)) for call in calls]
        try:
            for task in tasks:
                result = await task
                rounds.add(result)
                yield result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _execute(call: Invocation) -> ToolResultEvent:
    if not call.asynchronous:
        return await asyncio.to_thread(call.execute)
    try:
        return call.returned(await call.bind()())
    except Exception as error:
        return call.failed(error)
