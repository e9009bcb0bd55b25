"""Chat requests that hold Python: functions among the tools, a type as the response format, a call that is forced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional

from ..errors import StructuredOutputError
from ..models.local.decode import ChatStreamDecoder
from ..models.types import ChatRequest, ChatResponse, Choice, DoneEvent, StreamEvent, ToolCall
from ..structured.answer import TypedAnswer
from . import ArgumentsError, Tool, listed, named


class TypedRequest:
    """A chat request in JSON alone (`request`), and its reply with `parsed` filled in.

    Raises:
        TypeError: a function or a type cannot be expressed in JSON.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._forced = bool(request.tools) and request.tool_choice not in (None, "auto", "none")
        self._answer: Optional[TypedAnswer[Any]] = None
        self._tools: Dict[str, Tool] = {}
        if request.tools is not None:
            tools = [tool if isinstance(tool, (Tool, Mapping)) else Tool(tool) for tool in listed(request.tools)]
            self._tools = named(tool for tool in tools if isinstance(tool, Tool))
            definitions = [tool.definition if isinstance(tool, Tool) else tool for tool in tools]
            request = replace(request, tools=definitions)
        for name in ("response_format", "json_schema"):
            value = getattr(request, name)
            if value is not None and not isinstance(value, Mapping):
                self._answer = TypedAnswer(value)
                cleared: Dict[str, Any] = {name: None}
                request = replace(request, **cleared)
                request = replace(request, **self._answer.options(request, {}))
        self.request = request

    def read(self, response: ChatResponse) -> ChatResponse:
        """Fill in `parsed`. Raises StructuredOutputError if no choice matches, or none has the call that was forced."""
        if self._forced and not any(choice.message.tool_calls for choice in response.choices):
            raise StructuredOutputError(_no_call(response), response)
        choices: List[Choice] = []
        errors: List[StructuredOutputError] = []
        for number, choice in enumerate(response.choices):
            try:
                calls = tuple(self._read_call(call, choice, response) for call in choice.message.tool_calls)
                parsed = self._answer.read(response, number) if self._answer and not calls else None
                choice = replace(choice, message=replace(choice.message, tool_calls=calls), parsed=parsed)
            except StructuredOutputError as error:
                errors.append(error)
            choices.append(choice)
        if errors and len(errors) == len(choices):
            raise errors[0]
        return replace(response, choices=tuple(choices))

    def _read_call(self, call: ToolCall, choice: Choice, response: ChatResponse) -> ToolCall:
        if call.name not in self._tools:  # described by a mapping
            return call
        try:
            return replace(call, parsed=self._tools[call.name].parse(call.arguments))
        except ArgumentsError as error:
            cut = " (the model ran out of tokens: raise max_tokens)" if choice.finish_reason == "length" else ""
            raise StructuredOutputError(f"the call of {call.name} does not fit: {error}{cut}", response) from error

    def decoder(self, progress: bool) -> ChatStreamDecoder:
        """Return the decoder of a stream whose last event has the response with `parsed` filled in."""
        return _TypedDecoder(self, progress)


class _TypedDecoder(ChatStreamDecoder):
    def __init__(self, typed: TypedRequest, progress: bool) -> None:
        super().__init__(progress=progress)
        self._typed = typed
        self._response: Optional[ChatResponse] = None

    def feed(self, data: bytes) -> List[StreamEvent]:
        events = super().feed(data)
        if not self.done:
            return events
        self._response = self._typed.read(self.response())
        return [DoneEvent(self._response)]

    def response(self) -> ChatResponse:
        return self._response or super().response()


def _no_call(response: ChatResponse) -> str:
    if response.finish_reason == "length":
        return "the model ran out of tokens before it called a tool, which tool_choice forces: raise max_tokens"
    return (
        "tool_choice forces a call, and the reply has none: the model's chat template probably knows no tools; "
        "start llama-server with one that does (--chat-template-file)"
    )
