"""Responses, stream events, and the interface of every model client. Data, no I/O.

Messages and requests are in messages.py and request.py, and can be imported from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Iterator,
    Literal,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Union,
    runtime_checkable,
)

from .messages import Audio, Image, Message, ToolCall
from .request import ChatRequest, Prompt

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import ChatOptions

__all__ = [
    "Audio", "ChatRequest", "ChatResponse", "Choice", "ContentEvent", "DoneEvent", "EventStream", "Image", "Message",
    "ModelClient", "ProgressEvent", "Prompt", "ReasoningEvent", "StreamEvent", "Timings", "ToolCall", "ToolCallEvent",
    "Usage",
]  # fmt: skip


@dataclass
class Usage:
    """Token counts of a request.

    Attributes:
        prompt_tokens: tokens of the prompt, cached ones included.
        completion_tokens: generated tokens of all choices.
        cached_tokens: tokens of the prompt that came from the server's prompt cache.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Timings:
    """Counts and durations, under the server's names: `_n` is a number of tokens, `_ms` milliseconds."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    prompt_per_second: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    predicted_per_second: float = 0.0
    draft_n: int = 0
    draft_n_accepted: int = 0


@dataclass
class Choice:
    """One of the `n` answers to a request.

    Attributes:
        message: the model's message; append it to the history.
        finish_reason: `"stop"`, `"length"` or `"tool_calls"`; None before its end.
        logprobs: one mapping a token, as the server sends them, with `logprobs=True`.
        parsed: the answer as an instance, if a type was given as `response_format`; None if the choice does not fit.
    """

    message: Message
    finish_reason: Optional[str] = None
    logprobs: Sequence[Mapping[str, Any]] = ()
    parsed: Any = None


@dataclass
class ChatResponse:
    """The reply to a request. It has the properties of the first choice; `content` is always a string.

    Attributes:
        choices: the `n` answers.
        usage: token counts; None if the server sent none.
        timings: how long it took; None if the server did not send it.
        id: the server's ID of the completion.
        model: the model that answered.
        raw: the server's JSON, untouched; of a stream, the last chunk.
    """

    choices: Sequence[Choice]
    usage: Optional[Usage] = None
    timings: Optional[Timings] = None
    id: str = ""
    model: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def message(self) -> Message:
        return self.choices[0].message

    @property
    def content(self) -> str:
        content = self.message.content
        return content if isinstance(content, str) else ""

    @property
    def reasoning(self) -> Optional[str]:
        return self.message.reasoning

    @property
    def parsed(self) -> Any:
        return self.choices[0].parsed

    @property
    def tool_calls(self) -> Sequence[ToolCall]:
        return self.message.tool_calls

    @property
    def finish_reason(self) -> Optional[str]:
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> Sequence[Mapping[str, Any]]:
        return self.choices[0].logprobs


@dataclass
class ContentEvent:
    """A piece of the answer's text.

    Attributes:
        logprobs: those of the tokens in this piece, with `logprobs=True`.
    """

    text: str
    choice: int = 0
    logprobs: Sequence[Mapping[str, Any]] = ()
    type: Literal["content"] = field(default="content", init=False)


@dataclass
class ReasoningEvent:
    """A piece of the model's reasoning before its answer."""

    text: str
    choice: int = 0
    type: Literal["reasoning"] = field(default="reasoning", init=False)


@dataclass
class ToolCallEvent:
    """A fragment of a tool call.

    Attributes:
        index: the number of the call in its choice, from 0.
        id, name: in the first fragment of a call; empty in the others.
        arguments: the next piece of the JSON of its arguments.
    """

    index: int
    id: str
    name: str
    arguments: str
    choice: int = 0
    type: Literal["tool_call"] = field(default="tool_call", init=False)


@dataclass
class ProgressEvent:
    """Progress of reading the prompt, with `return_progress=True`.

    Attributes:
        total: tokens of the prompt.
        cached: tokens that came from the prompt cache.
        processed: tokens read so far, cached ones included.
        time_ms: milliseconds since reading began.
    """

    total: int
    cached: int
    processed: int
    time_ms: int
    choice: int = 0
    type: Literal["progress"] = field(default="progress", init=False)


@dataclass
class DoneEvent:
    """The end of a stream.

    Attributes:
        response: the assembled response.
    """

    response: ChatResponse
    choice: int = 0
    type: Literal["done"] = field(default="done", init=False)


StreamEvent = Union[ContentEvent, ReasoningEvent, ToolCallEvent, ProgressEvent, DoneEvent]


@runtime_checkable
class ModelClient(Protocol):
    """The interface of every model client: `timeout` in seconds, None for no limit; options as in `ChatRequest`."""

    def chat(self, request: Prompt, *, timeout: Optional[float] = ..., **options: Unpack[ChatOptions]) -> ChatResponse:
        """Return the answer to a request, in one piece."""

    def chat_stream(
        self, request: Prompt, *, timeout: Optional[float] = ..., **options: Unpack[ChatOptions]
    ) -> EventStream:
        """Stream the answer to a request while it is generated."""

    def close(self) -> None:
        """Close the idle connections."""


@runtime_checkable
class EventStream(Protocol):
    """A stream: an iterator of events, and a context manager."""

    @property
    def response(self) -> ChatResponse:
        """The response assembled so far."""

    def text(self) -> Iterator[str]:
        """Yield only the text, piece by piece."""

    def close(self) -> None:
        """Stop the model."""

    def __iter__(self) -> Iterator[StreamEvent]: ...

    def __next__(self) -> StreamEvent: ...

    def __enter__(self) -> EventStream: ...

    def __exit__(self, *error: object) -> None: ...
