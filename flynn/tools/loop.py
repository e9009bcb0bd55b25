"""The state of a run with tools, without I/O: what to send next, which calls a reply asks for, what they return.

while loop.answer is None:
    response = ...                              # the reply to loop.request()
    for call in loop.take(response):
        loop.add(loop.execute(call))
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Iterable, List, Literal, Mapping, Optional, Sequence, Union

from ..errors import ToolRoundsError, suggestion
from ..models.types import ChatRequest, ChatResponse, Message, ToolCall
from ..structured.mismatch import in_one_line
from . import ArgumentsError, Tool, decode_arguments, listed, named

# Upper bound on the calls of one reply. The rest is dropped; the model, which finds no result, can ask again.
MAX_CALLS = 32


@dataclass
class ToolResultEvent:
    """The result of a call, or why it could not be made.

    Attributes:
        call: the call, as the model wrote it.
        content: what is sent to the model: the result, or one line that says what was wrong.
        error: what the function raised, or a ValueError if it was not called; None if the call succeeded.
    """

    call: ToolCall
    content: str
    error: Optional[Exception] = None
    choice: int = 0
    type: Literal["tool_result"] = field(default="tool_result", init=False)


class ToolLoop:
    """The state of a run with tools; the arguments are those of `run_tools`."""

    def __init__(
        self, request: ChatRequest, tools: Iterable[Union[Callable[..., Any], Tool]], max_rounds: int, max_result: int
    ) -> None:
        for name, number in (("max_rounds", max_rounds), ("max_result", max_result)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be a whole number above 0, not {number!r:.60}")
        if request.tools is not None:
            raise TypeError(
                "the request has tools already: pass all to run_tools, a definition as flynn.Tool(function, definition)"
            )
        self.messages: List[Union[Message, Mapping[str, Any]]] = list(request.messages)  # grows by whole rounds
        self.answer: Optional[ChatResponse] = None  # the reply that asks for no more calls
        self.tools = named(tool if isinstance(tool, Tool) else Tool(tool) for tool in listed(tools))
        self._request = replace(request, tools=[tool.definition for tool in self.tools.values()])
        self._max_rounds = self._left = max_rounds
        self._max_result = max_result
        self._last: Optional[ChatResponse] = None
        self._round: List[Message] = []  # a reply and the results of its calls, while some are missing

    def request(self) -> ChatRequest:
        """Return the next request. Raises ToolRoundsError after `max_rounds` of them."""
        if not self._left:
            raise ToolRoundsError(f"the model still calls tools after {self._max_rounds} rounds", self._last)
        self._left -= 1
        request = replace(self._request, messages=tuple(self.messages))
        if request.tool_choice not in (None, "none"):
            # Only once: a model that must call a tool in every round never answers.
            self._request = replace(self._request, tool_choice="auto")
        return request

    def take(self, response: ChatResponse) -> Sequence[ToolCall]:
        """Return the calls that a reply asks for: none if it is the answer, or no request is left for their results."""
        self._last = response
        if not response.tool_calls:
            self.answer = response
            self.messages.append(response.message)
            return ()
        if not self._left:
            return ()
        calls = response.tool_calls[:MAX_CALLS]
        self._round = [replace(response.message, tool_calls=tuple(map(_acceptable, calls)))]
        return calls

    def bind(self, call: ToolCall) -> Callable[[], Any]:
        """Return the function of a call with its arguments. Raises ArgumentsError if it cannot be called."""
        if call.name not in self.tools:
            expected = f"{suggestion(call.name, self.tools)} (expected one of: {', '.join(self.tools)})"
            raise ArgumentsError(f"no tool is named {call.name!r:.80}{expected}")
        try:
            return self.tools[call.name].bind(call.arguments)
        except ArgumentsError as error:
            if self._last and self._last.finish_reason == "length":
                raise ArgumentsError(f"{error} (the reply was cut at the token limit)") from None
            raise

    def execute(self, call: ToolCall) -> ToolResultEvent:
        """Make a call of a function that is not asynchronous."""
        try:
            return self.returned(call, self.bind(call)())
        except Exception as error:
            return self.failed(call, error)

    def returned(self, call: ToolCall, value: Any) -> ToolResultEvent:
        """Return the event for a value that the function returned. Raises whatever writing it as text raises."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
        return ToolResultEvent(call, self._shortened(text))

    def failed(self, call: ToolCall, error: Exception) -> ToolResultEvent:
        """Return the event for an exception."""
        name, message = type(error).__name__, in_one_line(error, None)
        if not isinstance(error, ArgumentsError) and message != name:
            message = f"{name}: {message}"
        return ToolResultEvent(call, self._shortened(f"error: {message}"), error)

    def _shortened(self, text: str) -> str:
        limit = self._max_result
        return text if len(text) <= limit else f"{text[:limit]}\n[cut: these are {limit} of {len(text)} characters]"

    def add(self, result: ToolResultEvent) -> None:
        """Add the result of the next call, in the order of the calls."""
        self._round.append(Message("tool", result.content, tool_call_id=result.call.id, name=result.call.name))
        if len(self._round) > len(self._round[0].tool_calls):
            self.messages += self._round


def _acceptable(call: ToolCall) -> ToolCall:
    """Return the call as it can be sent back. llama-server answers 500 to calls whose arguments it cannot read
    (`func_args_not_string` in common/chat.cpp), and most templates expect an object."""
    try:  # Python reads more than llama-server: NaN, a lone surrogate, numbers that no float holds
        values = decode_arguments(call.arguments, parse_int=float)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return replace(call, arguments="{}")
    return replace(call, arguments=call.arguments or "{}")


def _plain(value: Any) -> Any:
    """Return what stands in JSON for a value that JSON lacks."""
    if hasattr(value, "model_dump"):  # pydantic's
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if inspect.isawaitable(value):
        raise TypeError("the function returned an awaitable: define it with async def")
    if isinstance(value, (set, frozenset)):
        return list(value)
    return str(value)
