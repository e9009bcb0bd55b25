"""The rounds of a run with tools, without I/O: which request comes next, which calls a reply asks for, what they gave.

    while rounds.answer is None:
        response = ...                              # the model's answer to rounds.request()
        for call in rounds.take(response):
            rounds.add(call.execute())
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterable, List, Literal, Mapping, Optional, Union

from ..errors import ToolRoundsError, suggestion
from ..models.types import ChatRequest, ChatResponse, Message, ToolCall
from . import ArgumentsError, Tool, decode_arguments

# The most calls of one reply that are made. The others are forgotten; the model, which finds no result, can ask again.
MAX_CALLS = 32


@dataclass
class ToolResultEvent:
    """A call was executed, or could not be.

    Attributes:
        call: as the model wrote it.
        content: what the model is told: the result, or one line that says what was wrong.
        error: what the function raised, or a ValueError if it was not called; None if all went well.
    """

    call: ToolCall
    content: str
    error: Optional[Exception] = None
    choice: int = 0
    type: Literal["tool_result"] = field(default="tool_result", init=False)


@dataclass(frozen=True)
class Invocation:
    """A call that is to be made, in a reply that was perhaps cut at the token limit."""

    call: ToolCall
    tools: Mapping[str, Tool]
    cut: bool
    max_result: int

    @property
    def asynchronous(self) -> bool:
        return self.call.name in self.tools and self.tools[self.call.name].asynchronous

    def bind(self) -> Callable[[], Any]:
        """The function with its arguments; raises ArgumentsError if it cannot be called."""
        name = self.call.name
        if name not in self.tools:
            near = suggestion(name, self.tools)
            raise ArgumentsError(f"no tool is named {name!r:.80}{near} (there is: {', '.join(self.tools)})")
        try:
            return self.tools[name].bind(self.call.arguments)
        except ArgumentsError as error:
            cut = " (the reply was cut at the token limit)" if self.cut else ""
            raise ArgumentsError(f"{error}{cut}") from None

    def execute(self) -> ToolResultEvent:
        """Call a function that is not asynchronous."""
        try:
            return self.returned(self.bind()())
        except Exception as error:
            return self.failed(error)

    def returned(self, value: Any) -> ToolResultEvent:
        """The event for what the function returned; raises what comes of putting that in words."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
        return ToolResultEvent(self.call, self._shortened(text))

    def failed(self, error: Exception) -> ToolResultEvent:
        """The event for what was raised."""
        said = str(error) if isinstance(error, ArgumentsError) else f"{type(error).__name__}: {error}".rstrip(": ")
        return ToolResultEvent(self.call, self._shortened(" ".join(f"error: {said}".split())), error)

    def _shortened(self, text: str) -> str:
        limit = self.max_result
        return text if len(text) <= limit else f"{text[:limit]}\n[cut: these are {limit} of {len(text)} characters]"


class ToolLoop:
    """A run with tools; its arguments are those of `run_tools`.

    Attributes:
        messages: the conversation so far, in whole rounds, so that it can always be sent.
        answer: the reply that asked for no more calls; None before it came.
        tools: by name.
    """

    def __init__(
        self, request: ChatRequest, tools: Iterable[Union[Callable[..., Any], Tool]], max_rounds: int, max_result: int
    ) -> None:
        for name, number in (("max_rounds", max_rounds), ("max_result", max_result)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is a whole number over 0, not {number!r}")
        if request.tools is not None:
            raise TypeError("the request has tools already, without functions: give flynn.Tool(function, definition)")
        self.messages: List[Union[Message, Mapping[str, Any]]] = list(request.messages)
        self.answer: Optional[ChatResponse] = None
        self.tools: Dict[str, Tool] = {}
        for tool in (tool if isinstance(tool, Tool) else Tool(tool) for tool in tools):
            if tool.name in self.tools:
                raise ValueError(f"two tools have the name {tool.name!r}")
            self.tools[tool.name] = tool
        self._request = replace(request, tools=[tool.definition for tool in self.tools.values()])
        self._max_rounds = self._left = max_rounds
        self._max_result = max_result
        self._last: Optional[ChatResponse] = None
        self._round: List[Message] = []  # a reply and the results of its calls, while they are not complete

    def request(self) -> ChatRequest:
        """The next request; raises ToolRoundsError if there have been as many as there may be."""
        if not self._left:
            raise ToolRoundsError(f"the model still calls tools after {self._max_rounds} rounds", self._last)
        self._left -= 1
        request = replace(self._request, messages=tuple(self.messages))
        if request.tool_choice not in (None, "none"):
            # Once is enough: a model that has to call a tool in every round never answers.
            self._request = replace(self._request, tool_choice="auto")
        return request

    def take(self, response: ChatResponse) -> List[Invocation]:
        """The calls that a reply asks for: none if it is the answer, or if no request is left to send the results."""
        self._last = response
        if not response.tool_calls:
            self.answer = response
            self.messages.append(response.message)
        elif self._left:
            calls = response.tool_calls[:MAX_CALLS]
            self._round = [replace(response.message, tool_calls=tuple(map(_to_be_replayed, calls)))]
            cut = response.finish_reason == "length"
            return [Invocation(call, self.tools, cut, self._max_result) for call in calls]
        return []

    def add(self, result: ToolResultEvent) -> None:
        """Add what the next of the calls gave, in their order."""
        self._round.append(Message("tool", result.content, tool_call_id=result.call.id, name=result.call.name))
        if len(self._round) > len(self._round[0].tool_calls):
            self.messages += self._round


def _to_be_replayed(call: ToolCall) -> ToolCall:
    """The call as it goes back: llama-server answers every request 500 whose calls have arguments that it cannot read
    (`func_args_not_string` in common/chat.cpp), and most templates expect an object."""
    try:  # Python reads more than it: NaN, half of a surrogate pair, and numbers that no float holds
        values = decode_arguments(call.arguments, parse_int=float)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return replace(call, arguments="{}")
    return replace(call, arguments=call.arguments or "{}")


def _plain(value: Any) -> Any:
    """What stands in JSON for a value that it does not have."""
    if hasattr(value, "model_dump"):  # pydantic's
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if inspect.isawaitable(value):
        raise TypeError("the function is asynchronous without being defined with async def")
    if isinstance(value, (set, frozenset)):
        return list(value)
    return str(value)
