"""What a model's client answers, and the interface that every such client has. Data, no I/O.

What goes in is in messages.py and request.py, and importable from here.
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
    """Tokens that a request cost.

    Attributes:
        prompt_tokens: of the prompt, cached ones included.
        completion_tokens: generated, over all choices.
        cached_tokens: of the prompt that the server's prompt cache supplied.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Timings:
    """How long the server took, under its own names: `_n` counts tokens, `_ms` is milliseconds."""

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
        message: what the model said; to be appended to the history.
        finish_reason: `"stop"`, `"length"` or `"tool_calls"`; None while it is not finished.
        logprobs: one mapping a token, as the server sends them, if `logprobs` was asked for.
    """

    message: Message
    finish_reason: Optional[str] = None
    logprobs: Sequence[Mapping[str, Any]] = ()


@dataclass
class ChatResponse:
    """The reply to a request. What concerns one choice is also here, for the first one; `content` is then a string.

    Attributes:
        choices: the answers, `n` of them.
        usage: tokens that it cost; None if the server did not say.
        timings: how long it took; None if the server did not say.
        id: the server's name for the completion.
        model: the model that answered.
        raw: the server's JSON, untouched. Of a stream, the last chunk.
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
        logprobs: of the tokens in this piece, if they were asked for.
    """

    text: str
    choice: int = 0
    logprobs: Sequence[Mapping[str, Any]] = ()
    type: Literal["content"] = field(default="content", init=False)


@dataclass
class ReasoningEvent:
    """A piece of what the model thinks before it answers."""

    text: str
    choice: int = 0
    type: Literal["reasoning"] = field(default="reasoning", init=False)


@dataclass
class ToolCallEvent:
    """A fragment of a tool call.

    Attributes:
        index: which call of the choice it belongs to.
        id, name: whole, in the first fragment of a call; empty in the others.
        arguments: the next piece of its JSON.
    """

    index: int
    id: str
    name: str
    arguments: str
    choice: int = 0
    type: Literal["tool_call"] = field(default="tool_call", init=False)


@dataclass
class ProgressEvent:
    """How far the server has read the prompt (`return_progress=True`).

    Attributes:
        total, cached, processed: tokens: of the prompt, from the prompt cache, and read so far (cached ones included).
        time_ms: milliseconds since it began to read.
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
        response: all that came, assembled.
    """

    response: ChatResponse
    choice: int = 0
    type: Literal["done"] = field(default="done", init=False)


StreamEvent = Union[ContentEvent, ReasoningEvent, ToolCallEvent, ProgressEvent, DoneEvent]


@runtime_checkable
class ModelClient(Protocol):
    """A client of a model. `timeout` is in seconds, None for no limit; options are fields of `ChatRequest`."""

    def chat(
        self, request: Prompt, *, timeout: Optional[float] = ..., **options: Unpack[ChatOptions]
    ) -> ChatResponse:
        """Answer a request, in one piece."""

    def chat_stream(
        self, request: Prompt, *, timeout: Optional[float] = ..., **options: Unpack[ChatOptions]
    ) -> EventStream:
        """Answer a request, piece by piece as it is generated."""

    def close(self) -> None:
        """Let go of connections."""


@runtime_checkable
class EventStream(Protocol):
    """What `chat_stream` returns: an iterator of events, and a context manager."""

    @property
    def response(self) -> ChatResponse:
        """All that came so far."""

    def text(self) -> Iterator[str]:
        """Only the text, piece by piece."""

    def close(self) -> None:
        """Make the model stop."""

    def __iter__(self) -> Iterator[StreamEvent]: ...

    def __next__(self) -> StreamEvent: ...

    def __enter__(self) -> EventStream: ...

    def __exit__(self, *error: object) -> None: ...
