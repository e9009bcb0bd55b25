"""`ToolRun`: what `LlamaCppClient.run_tools` returns."""

from __future__ import annotations

from ..models.types import DoneEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generator, List, Mapping, Optional, Union

    from ..models.local.llamacpp import LlamaCppClient
    from ..models.types import ChatResponse, Message, StreamEvent
    from .rounds import Rounds, ToolResultEvent

    Step = Union[StreamEvent, ToolResultEvent]


class ToolRun:
    """A run with tools: an iterator of its steps, and a context manager. Made by `LlamaCppClient.run_tools`.

    Nothing is sent before the first step is asked for, and no function is called before the step after the reply that
    calls it: to leave the loop there is to refuse the call. Of the calls in one reply the first 32 are made.

    The steps, told apart by `type`:
        `"done"`: a reply has come, its `response` says what it is: calls of tools, or at last the answer
        `"tool_result"`: a call was executed: `call`, `content` (what the model is told), `error`
        with `stream=True` also those of `chat_stream`, each reply piece by piece before it is done

    Raises, while iterating:
        ToolRoundsError: the model still called tools in the last round that was allowed.
        FlynnError: as `chat` or `chat_stream` does.

    Example:
        >>> for step in client.run_tools("What is the weather in Paris?", [get_weather]):    # doctest: +SKIP
        ...     if step.type == "tool_result":
        ...         print(step.call.name, step.call.arguments, step.content)
    """

    def __init__(self, client: LlamaCppClient, rounds: Rounds, stream: bool, timeout: Optional[float]) -> None:
        rounds.refuse_asynchronous()
        self._rounds = rounds
        self._steps = _steps(rounds, client, stream, timeout)

    @property
    def messages(self) -> List[Union[Message, Mapping[str, Any]]]:
        """The conversation so far, in whole rounds; of a run that has ended all of it, to go on with."""
        return list(self._rounds.messages)

    def answer(self) -> ChatResponse:
        """Run to the end, if it has not ended yet; the reply that asked for no more calls.

        Raises:
            FlynnError: as iterating does.
        """
        for _ in self:
            pass
        return self._rounds.answered()

    def close(self) -> None:
        """End the run; the server stops generating. Closing twice is fine."""
        self._steps.close()

    def __iter__(self) -> ToolRun:
        return self

    def __next__(self) -> Step:
        return next(self._steps)

    def __enter__(self) -> ToolRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# No method: a run that nobody refers to any more would otherwise still refer to itself, and stay.
def _steps(
    rounds: Rounds, client: LlamaCppClient, stream: bool, timeout: Optional[float]
) -> Generator[Step, None, None]:
    while rounds.answer is None:
        request = rounds.request()
        if stream:
            with client.chat_stream(request, timeout=timeout) as events:
                for event in events:
                    if event.type == "done":
                        calls = rounds.take(event.response)
                    yield event
        else:
            response = client.chat(request, timeout=timeout)
            calls = rounds.take(response)
            yield DoneEvent(response)
        for call in calls:
            result = call.execute()
            rounds.add(result)
            yield result
