"""llama-server's JSON to typed responses, events and errors. No I/O.

The server is not trusted: a value of an undocumented type raises ProtocolError here, never a TypeError further on.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import fields
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Type, TypeVar

from ...errors import (
    AuthenticationError,
    ContextSizeError,
    ModelLoadingError,
    NotSupportedError,
    ProtocolError,
    ServerError,
)
from ..types import (
    ChatResponse,
    Choice,
    ContentEvent,
    DoneEvent,
    Message,
    ProgressEvent,
    ReasoningEvent,
    StreamEvent,
    Timings,
    ToolCall,
    ToolCallEvent,
    Usage,
)

T = TypeVar("T")

_DECODER = json.JSONDecoder()  # json.loads looks for whitespace with regular expressions, for as long as it reads JSON
_TIMINGS = tuple(option.name for option in fields(Timings))


def decode_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8."""
    try:
        text = data.decode("utf-8").strip(" \t\r\n")  # what JSON calls whitespace (RFC 8259 section 2)
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError(f"extra data at character {end}")
        return value
    except (ValueError, RecursionError) as error:  # the latter: nested too deeply for Python's reader
        raise ProtocolError(f"expected JSON, got {_shown(data)} ({type(error).__name__}: {error})") from None


def get(mapping: Mapping[str, Any], key: str, default: T) -> T:
    """Return a member of a JSON object, or the default if it is missing or null. It must have the default's type."""
    value = mapping.get(key, default)
    if isinstance(value, type(default)):
        return value
    if value is None:
        return default
    raise ProtocolError(f"expected {type(default).__name__} as {key!r}, got {_shown(value)}")


def objects(mapping: Mapping[str, Any], key: str) -> List[Dict[str, Any]]:
    """Return a member that is a list of objects, as `get` does."""
    values: List[Any] = get(mapping, key, [])
    for value in values:
        if not isinstance(value, dict):
            expect_object(value, key)
    return values


def number(mapping: Mapping[str, Any], key: str) -> Optional[float]:
    """Return a member that is a number, None if it is missing or null."""
    value = mapping.get(key)
    if value is None or isinstance(value, (int, float)):
        return value
    raise ProtocolError(f"expected a number as {key!r}, got {_shown(value)}")


def integers(mapping: Mapping[str, Any], key: str) -> List[int]:
    """Return a member that is a list of integers, as `get` does."""
    values: List[Any] = get(mapping, key, [])
    if not all(isinstance(value, int) for value in values):
        raise ProtocolError(f"expected a list of integers as {key!r}, got {_shown(values)}")
    return values


def expect_object(value: Any, what: str = "response") -> Dict[str, Any]:
    """Return the value. Raises ProtocolError if it is not a JSON object."""
    if not isinstance(value, dict):
        raise ProtocolError(f"expected a JSON object as {what!r}, got {_shown(value)}")
    return value


# Formats only the part of a value that it shows: a peer decides how large the value is.
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 80


def _shown(value: Any) -> str:
    text = repr(value[:80]) if isinstance(value, bytes) else _BRIEF.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# The type of a JSON member, by the annotation of its field.
_KINDS: Dict[str, Type[Any]] = {"str": str, "int": int, "bool": bool, "Mapping[str, Any]": dict}


def decode_fields(kind: Type[T], value: Any, **known: Any) -> T:
    """Return an instance of a data class, its fields from a JSON object, except for `raw` and those in `known`."""
    raw = known["raw"] = expect_object(value)
    for option in fields(kind):  # type: ignore[arg-type]
        if option.name not in known:
            known[option.name] = get(raw, option.name, _KINDS[str(option.type)]())
    return kind(**known)


def decode_error(status: Optional[int], body: bytes, reason: str = "") -> ServerError:
    """Return the exception for an error that the server answered with.

    Args:
        status: of the HTTP response, None for an error event in a stream.
        body: JSON `{"error": {…}}` from llama-server, or plain text or HTML from a proxy.
        reason: the reason phrase after the status.
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
    exception = _error_class(status, kind, message)(message, status=status, type=kind, body=text)
    if isinstance(exception, ContextSizeError):
        for name in ("n_prompt_tokens", "n_ctx"):
            if isinstance(error.get(name), int):
                setattr(exception, name, error[name])
    return exception


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
    """Return the reply to a request without `stream`."""
    raw = expect_object(decode_json(data))
    choices = []
    for item in objects(raw, "choices"):
        answer = expect_object(item.get("message"), "message")
        message = Message(
            get(answer, "role", "assistant"),
            get(answer, "content", ""),
            tuple(decode_tool_call(call) for call in objects(answer, "tool_calls")),
            reasoning=get(answer, "reasoning_content", "") or None,
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


# --- a stream ---------------------------------------------------------------------------------------------------------


def decode_event(data: bytes) -> Dict[str, Any]:
    """Return the JSON object in the data of a server-sent event. Raises the ServerError that it may hold."""
    event = expect_object(decode_json(data), "event")
    if event.get("error") is not None:
        raise decode_error(None, data)
    return event


class _ChoiceSoFar:
    """The pieces of one choice."""

    def __init__(self) -> None:
        self.content: List[str] = []
        self.reasoning: List[str] = []
        self.calls: Dict[int, Tuple[List[str], List[str], List[str]]] = {}  # id, name, arguments: their fragments
        self.logprobs: List[Mapping[str, Any]] = []
        self.finish_reason: Optional[str] = None

    def add_calls(self, calls: List[Dict[str, Any]], index: int) -> Iterator[ToolCallEvent]:
        """Add fragments of calls, and yield their events."""
        for call in calls:
            number, fragment = get(call, "index", 0), decode_tool_call(call)
            pieces = (fragment.id, fragment.name, fragment.arguments)
            for so_far, piece in zip(self.calls.setdefault(number, ([], [], [])), pieces):
                so_far.append(piece)
            yield ToolCallEvent(number, *pieces, index)

    def choice(self) -> Choice:
        calls = tuple(ToolCall(*("".join(pieces) for pieces in call)) for _, call in sorted(self.calls.items()))
        message = Message("assistant", "".join(self.content), calls, reasoning="".join(self.reasoning) or None)
        return Choice(message, self.finish_reason, tuple(self.logprobs))


class ChatStreamDecoder:
    """Turns the data of a chat stream into typed events, and assembles the response.

    Args:
        progress: whether to return progress events. Every stream has them, see `encode_chat`.

    Attributes:
        done: whether the answer is complete.

    Example:
        >>> decoder = ChatStreamDecoder()
        >>> decoder.feed(b'{"choices": [{"index": 0, "delta": {"content": "Hi"}}]}')
        [ContentEvent(text='Hi', choice=0, logprobs=(), type='content')]
        >>> decoder.response().content
        'Hi'
    """

    def __init__(self, *, progress: bool = False) -> None:
        self.done = False
        self._progress = progress
        self._choices: Dict[int, _ChoiceSoFar] = {}
        self._usages: List[Usage] = []
        self._timings: Optional[Timings] = None
        self._last: Dict[str, Any] = {}

    def feed(self, data: bytes) -> List[StreamEvent]:
        """Return the typed events in the data of one server-sent event. Raises the ServerError that it may hold."""
        if data == b"[DONE]":
            self.done = True
            return [DoneEvent(self.response())]
        self._last = chunk = decode_event(data)
        events: List[StreamEvent] = []
        index = 0
        for item in objects(chunk, "choices"):
            index = get(item, "index", 0)
            choice = self._choices.get(index) or self._choices.setdefault(index, _ChoiceSoFar())
            delta: Dict[str, Any] = get(item, "delta", {})
            if "reasoning_content" in delta and (reasoning := get(delta, "reasoning_content", "")):
                choice.reasoning.append(reasoning)
                events.append(ReasoningEvent(reasoning, index))
            content = get(delta, "content", "")
            if "logprobs" in item and (logprobs := decode_logprobs(item)):
                choice.content.append(content)
                choice.logprobs.extend(logprobs)
                events.append(ContentEvent(content, index, logprobs))
            elif content:
                choice.content.append(content)
                events.append(ContentEvent(content, index))
            if "tool_calls" in delta:
                events += choice.add_calls(objects(delta, "tool_calls"), index)
            if item.get("finish_reason") is not None:
                choice.finish_reason = get(item, "finish_reason", "")
        if self._progress and "prompt_progress" in chunk:
            events.append(decode_progress(get(chunk, "prompt_progress", {}), index))
        if "usage" in chunk and (usage := decode_usage(chunk)):
            self._usages.append(usage)
        if "timings" in chunk:
            self._timings = decode_timings(chunk) or self._timings
        return events

    def response(self) -> ChatResponse:
        """Return the response so far. Never raises: an undocumented value is left out."""
        choices = [so_far.choice() for _, so_far in sorted(self._choices.items())] or [_ChoiceSoFar().choice()]
        usage = None
        if self._usages:
            # With n > 1 each choice ends with its own usage; the prompt was read once.
            completion_tokens = sum(usage.completion_tokens for usage in self._usages)
            usage = Usage(self._usages[-1].prompt_tokens, completion_tokens, self._usages[0].cached_tokens)
        id, model = (value if isinstance(value := self._last.get(key), str) else "" for key in ("id", "model"))
        return ChatResponse(tuple(choices), usage, self._timings, id, model, self._last)


def decode_progress(progress: Mapping[str, Any], choice: int) -> ProgressEvent:
    total, cached, processed = (get(progress, key, 0) for key in ("total", "cache", "processed"))
    return ProgressEvent(total, cached, processed, get(progress, "time_ms", 0), choice)
