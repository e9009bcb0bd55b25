"""What goes into a model and what comes out: requests, messages, responses, stream events. Data, no I/O."""

from __future__ import annotations

from ..dataclass import dataclass, field, fields
from .request import ChatRequest as ChatRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Any, Literal, Mapping, Optional, Sequence, Union

    from .client import EventStream as EventStream
    from .client import ModelClient as ModelClient

    Part = Union[str, "Image", "Audio", Mapping[str, Any]]
    Content = Union[str, Sequence[Part], None]
    Prompt = Union[str, Sequence[Union["Message", Mapping[str, Any]]], "ChatRequest"]
    StreamEvent = Union["ContentEvent", "ReasoningEvent", "ToolCallEvent", "ProgressEvent", "DoneEvent"]


def __getattr__(name: str) -> object:
    # Protocols take typing to define, which the rest of this module does without.
    if name in ("EventStream", "ModelClient"):
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# --- what goes in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """An image in a message.

    Args:
        source: the image's bytes, the path of a file, or an `http:`, `https:` or `data:` URL. A URL goes to the server
            as it is, the rest as base64.
    """

    source: Union[bytes, str, os.PathLike[str]]


@dataclass(frozen=True)
class Audio:
    """A recording in a message, WAV or MP3.

    Args:
        source: its bytes, the path of a file, or a URL, as for `Image`.
    """

    source: Union[bytes, str, os.PathLike[str]]


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the model asks for.

    Attributes:
        id: goes back as the `tool_call_id` of the result.
        name: of the function.
        arguments: JSON, as the model wrote it.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Args:
        role: `"system"`, `"user"`, `"assistant"` or `"tool"`.
        content: text, or a sequence of parts: strings, `Image`, `Audio`, or mappings in the server's own form.
        tool_calls: the calls that an assistant's message asks for.
        tool_call_id: in a tool's message, the call that it is the result of.
        name: of who speaks, for templates that tell people apart.
        reasoning: what an assistant thought before it answered; templates that want it get it.

    Example:
        >>> Message("user", ["What is this?", Image("photo.jpg")])
        Message('user', ['What is this?', Image(source='photo.jpg')])
    """

    role: str
    content: Content = None
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: Optional[str] = None
    name: Optional[str] = None
    reasoning: Optional[str] = None

    def __repr__(self) -> str:
        rest = [f"{f.name}={value!r}" for f in fields(self)[2:] if (value := getattr(self, f.name))]
        return f"Message({', '.join([repr(self.role), repr(self.content), *rest])})"


# --- what comes out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ContentEvent:
    """A piece of the answer's text.

    Attributes:
        logprobs: of the tokens in this piece, if they were asked for.
    """

    text: str
    choice: int = 0
    logprobs: Sequence[Mapping[str, Any]] = ()
    type: Literal["content"] = "content"


@dataclass(frozen=True)
class ReasoningEvent:
    """A piece of what the model thinks before it answers."""

    text: str
    choice: int = 0
    type: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True)
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
    type: Literal["tool_call"] = "tool_call"


@dataclass(frozen=True)
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
    type: Literal["progress"] = "progress"


@dataclass(frozen=True)
class DoneEvent:
    """The end of a stream.

    Attributes:
        response: all that came, assembled.
    """

    response: ChatResponse
    choice: int = 0
    type: Literal["done"] = "done"
