"""Chat requests to llama-server's JSON. No I/O, except to read the files of images and recordings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Dict, Union

from ..messages import AnyMessage, Audio, Image, Message, ToolCall
from ..request import OPTIONS, ChatRequest, Prompt, check_options

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_CONTENT = "text, an Image, an Audio or a mapping"
_A_PROMPT = "a prompt is a string, a sequence of Message or mappings, or a ChatRequest"


def chat_request(prompt: Prompt, options: Mapping[str, Any]) -> ChatRequest:
    """Return a ChatRequest from a prompt and keyword options. An option wins over the same field of a request."""
    check_options(options, OPTIONS)  # here too: `ChatRequest` itself takes the keyword `messages`
    if isinstance(prompt, ChatRequest):
        return replace(prompt, **options) if options else prompt
    if isinstance(prompt, str):
        return ChatRequest([Message("user", prompt)], **options)
    if isinstance(prompt, Message):
        return ChatRequest([prompt], **options)
    if isinstance(prompt, (bytes, dict)) or not hasattr(prompt, "__iter__"):
        raise TypeError(f"{_A_PROMPT}, not {type(prompt).__name__}")
    messages = list(prompt)
    for message in messages:
        if not isinstance(message, Message) and not hasattr(message, "keys"):
            raise TypeError(f"{_A_PROMPT}, not a sequence of {type(message).__name__}")
    return ChatRequest(messages, **options)


def with_defaults(request: ChatRequest, defaults: Mapping[str, Any]) -> ChatRequest:
    """Return the request with its empty fields, and the missing members of its `extra`, taken from the defaults."""
    missing = {name: value for name, value in defaults.items() if getattr(request, name) is None}
    if "extra" in defaults:
        missing["extra"] = {**(defaults["extra"] or {}), **(request.extra or {})}
    return replace(request, **missing) if missing else request


def encode_chat(request: ChatRequest, *, stream: bool) -> bytes:
    """Return the body of a request to the chat route."""
    if not stream:
        return encode_json(encode_prompt(request))
    # Always ask for progress: while llama-server reads a prompt, it notices a disconnected client only by writing.
    usage = {"include_usage": True}
    return encode_json(encode_prompt(request, stream=True, stream_options=usage, return_progress=True))


def encode_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8. Raises ValueError or TypeError, with the field's name, if it does not fit."""
    try:
        text = _ENCODE(value)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{_unfit_field(value)}{error}") from None
    # UTF-8 is half as long as \\u escapes in most languages. A lone surrogate has no UTF-8: it becomes "?".
    return text.encode("utf-8", "replace")


def _unfit_field(value: Any) -> str:
    """Return the name of the first member that JSON cannot hold, with a colon; empty if the value has no members."""
    for name, member in value.items() if isinstance(value, Mapping) else ():
        try:
            _ENCODE(member)
        except (ValueError, TypeError):
            return f"{name}: "
    return ""


def encode_prompt(request: ChatRequest, **fixed: Any) -> Dict[str, Any]:
    """Return the JSON of a request: messages, all fields that are set, then `fixed`, then `extra`; the last wins."""
    body = dict(vars(request))
    body["messages"] = [_encode_numbered(number, message) for number, message in enumerate(request.messages, 1)]
    extra = body.pop("extra")
    if not isinstance(body.get("tool_choice", ""), str):
        _force_tool(body)
    return {**body, **fixed, **extra}


def _force_tool(body: Dict[str, Any]) -> None:
    """Keep only the named tool, and require a call: llama-server reads a named `tool_choice` as "auto"."""
    try:
        name = body["tool_choice"]["function"]["name"]
        tools = [tool for tool in body.get("tools", ()) if tool["function"]["name"] == name]
    except (KeyError, TypeError):
        raise ValueError(
            'tool_choice must be "auto", "none", "required" or {"type": "function", "function": {"name": ...}}, '
            'and each of tools {"type": "function", "function": {"name": ..., "parameters": ...}}'
        ) from None
    if not tools:
        raise ValueError(f"tool_choice names {name!r}, which is not among tools")
    body["tools"] = tools
    body["tool_choice"] = "required"


def encode_message(message: AnyMessage) -> Dict[str, Any]:
    """Return a message as JSON. A mapping is in the server's form already, except for `Image` and `Audio` parts."""
    if not isinstance(message, Message):
        encoded = dict(message)
    else:
        encoded = {"role": message.role, "content": message.content}
        if message.tool_calls:
            encoded["tool_calls"] = [_encode_tool_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            encoded["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            encoded["name"] = message.name
        if message.reasoning is not None:
            encoded["reasoning_content"] = message.reasoning
    content = encoded.get("content")
    if content is not None and not isinstance(content, str):
        single = isinstance(content, (Image, Audio, Mapping))
        if not single and (isinstance(content, (bytes, bytearray)) or not isinstance(content, Iterable)):
            raise TypeError(f"the content must be {_CONTENT}, or a sequence of these, not {type(content).__name__}")
        encoded["content"] = [_encode_part(part) for part in ([content] if single else content)]
    return encoded


def _encode_numbered(number: int, message: AnyMessage) -> Dict[str, Any]:
    try:
        return encode_message(message)
    except TypeError as error:
        raise TypeError(f"message {number}: {error}") from None


def _encode_part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, (Image, Audio)):
        from ..media import encode_media

        return encode_media(part)
    if not isinstance(part, Mapping):
        raise TypeError(f"a part of the content must be {_CONTENT}, not {type(part).__name__}")
    return part


def _encode_tool_call(call: Union[ToolCall, Mapping[str, Any]]) -> Dict[str, Any]:
    if isinstance(call, ToolCall):
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return dict(call)
