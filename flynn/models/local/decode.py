"""llama-server's JSON as typed responses, events and errors. No I/O.

The server is not trusted: whatever comes that is not as documented is a ProtocolError, never a TypeError further on.
"""

from __future__ import annotations

import json
import reprlib

from ...dataclass import fields
from ...errors import (
    AuthenticationError,
    ContextSizeError,
    ModelLoadingError,
    NotSupportedError,
    ProtocolError,
    ServerError,
)
from ..types import ChatResponse, Choice, Message, Timings, ToolCall, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Tuple, Type, TypeVar

    T = TypeVar("T")

_DECODE = json.JSONDecoder().decode  # without the detours of json.loads
_TIMINGS = tuple(option.name for option in fields(Timings))


def decode_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8."""
    try:
        return _DECODE(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # the latter: nested too deeply for Python's reader
        raise ProtocolError(f"expected JSON, got {_shown(data)} ({type(error).__name__}: {error})") from None


def get(mapping: Mapping[str, Any], key: str, default: T) -> T:
    """A member of a JSON object, which must be of the default's type; the default if it is missing or null."""
    value = mapping.get(key)
    if value is None:
        return default
    kind = type(default)
    if isinstance(value, kind):
        return value
    raise ProtocolError(f"expected {kind.__name__} as {key!r}, got {_shown(value)}")


def objects(mapping: Mapping[str, Any], key: str) -> List[Dict[str, Any]]:
    """`get` for a list of objects."""
    values: List[Any] = get(mapping, key, [])
    for value in values:
        expect_object(value, key)
    return values


def number(mapping: Mapping[str, Any], key: str) -> Optional[float]:
    """`get` for a number; None if it is missing or null."""
    value = mapping.get(key)
    if value is None or isinstance(value, (int, float)):
        return value
    raise ProtocolError(f"expected a number as {key!r}, got {_shown(value)}")


def integers(mapping: Mapping[str, Any], key: str) -> List[int]:
    """`get` for a list of integers."""
    values: List[Any] = get(mapping, key, [])
    if not all(isinstance(value, int) for value in values):
        raise ProtocolError(f"expected a list of integers as {key!r}, got {_shown(values)}")
    return values


def expect_object(value: Any, what: str = "response") -> Dict[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(value, dict):
        raise ProtocolError(f"expected a JSON object as {what!r}, got {_shown(value)}")
    return value


# Looks at no more of a value than it shows: a peer decides how large the value is.
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 80


def _shown(value: Any) -> str:
    text = repr(value[:80]) if isinstance(value, bytes) else _BRIEF.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def decode_error(status: Optional[int], body: bytes, reason: str = "") -> ServerError:
    """The error that the server answered with, as the exception that is raised for it.

    Args:
        status: of the HTTP response, None for an error event in a stream.
        body: JSON `{"error": {…}}` from llama-server, plain text or HTML from a proxy before it.
        reason: the words after the status.
    """
    text = body.decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
    except (ValueError, RecursionError, LookupError, TypeError):
        error = None
    if not isinstance(error, dict):
        error = {"message": error}
    code, kind, message = error.get("code"), error.get("type"), error.get("message")
    if status is None and isinstance(code, int):
        status = code
    if not isinstance(kind, str):
        kind = None
    if not isinstance(message, str) or not message:
        message = text.strip()
        if not 0 < len(message) <= 500 or message.startswith(("<", "{")):
            no_words = "the server sent an error without a message"
            message = no_words if status is None else f"HTTP {status} {reason}".strip()
    made = _error_class(status, kind, message)(message, status=status, type=kind, body=text)
    if isinstance(made, ContextSizeError):
        for name in ("n_prompt_tokens", "n_ctx"):
            if isinstance(error.get(name), int):
                setattr(made, name, error[name])
    return made


def _error_class(status: Optional[int], kind: Optional[str], message: str) -> Type[ServerError]:
    if status in (401, 403):
        return AuthenticationError
    if kind == "exceed_context_size_error":
        return ContextSizeError
    if status == 501:
        return NotSupportedError
    if status == 503 and message == "Loading model":
        return ModelLoadingError
    return ServerError


def decode_chat(data: bytes) -> ChatResponse:
    """The reply to a request without `stream`."""
    raw = expect_object(decode_json(data))
    choices = []
    for item in objects(raw, "choices"):
        said = expect_object(item.get("message"), "message")
        message = Message(
            get(said, "role", "assistant"),
            get(said, "content", ""),
            tuple(decode_tool_call(call) for call in objects(said, "tool_calls")),
            reasoning=get(said, "reasoning_content", "") or None,
        )
        choices.append(Choice(message, get(item, "finish_reason", "") or None, decode_logprobs(item)))
    if not choices:
        raise ProtocolError(f"expected a reply with choices, got {_shown(raw)}")
    return ChatResponse(
        tuple(choices), decode_usage(raw), decode_timings(raw), get(raw, "id", ""), get(raw, "model", ""), raw
    )


def decode_tool_call(call: Mapping[str, Any]) -> ToolCall:
    function: Dict[str, Any] = get(call, "function", {})
    return ToolCall(get(call, "id", ""), get(function, "name", ""), get(function, "arguments", ""))


def decode_logprobs(item: Mapping[str, Any]) -> Tuple[Mapping[str, Any], ...]:
    return tuple(objects(get(item, "logprobs", {}), "content"))


def decode_usage(raw: Mapping[str, Any]) -> Optional[Usage]:
    usage: Dict[str, Any] = get(raw, "usage", {})
    if not usage:
        return None
    details: Dict[str, Any] = get(usage, "prompt_tokens_details", {})
    return Usage(get(usage, "prompt_tokens", 0), get(usage, "completion_tokens", 0), get(details, "cached_tokens", 0))


def decode_timings(raw: Mapping[str, Any]) -> Optional[Timings]:
    timings: Dict[str, Any] = get(raw, "timings", {})
    if not timings:
        return None
    return Timings(**{name: timings[name] for name in _TIMINGS if isinstance(timings.get(name), (int, float))})
