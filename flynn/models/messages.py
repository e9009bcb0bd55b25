"""Messages, and the images, recordings and tool calls in them. Data, no I/O."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any, Mapping, Optional, Sequence, Union


@dataclass(frozen=True)
class Image:
    """An image in a message.

    Args:
        source: the image's bytes; its base64; the path of a file; or an `http:`, `https:` or `data:` URL. A URL is sent
            as it is, everything else as base64.
    """

    source: Union[bytes, str, os.PathLike[str]]


@dataclass(frozen=True)
class Audio:
    """A recording in a message, WAV or MP3.

    Args:
        source: its bytes, its base64, the path of a file, or a URL, as for `Image`.
    """

    source: Union[bytes, str, os.PathLike[str]]


@dataclass(frozen=True)
class ToolCall:
    """A tool call of the model.

    Attributes:
        id: the `tool_call_id` of the message with its result.
        name: the function's name.
        arguments: JSON, as the model wrote it.
        parsed: the arguments by name, as the types of the function's parameters, if the request had the function among
            its tools.
    """

    id: str
    name: str
    arguments: str
    parsed: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Args:
        role: `"system"`, `"user"`, `"assistant"` or `"tool"`.
        content: text, or a sequence of parts: strings, `Image`, `Audio`, or mappings in the server's own form.
        tool_calls: the tool calls of an assistant's message.
        tool_call_id: the ID of the call whose result a tool's message holds.
        name: the speaker's name, for templates that use it.
        reasoning: the reasoning before an assistant's answer, for templates that use it.

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


Part = Union[str, Image, Audio, Mapping[str, Any]]
Content = Union[str, Sequence[Part], None]
AnyMessage = Union[Message, Mapping[str, Any]]
