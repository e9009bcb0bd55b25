"""What is asked: a line, a mapping or a prompt as a request that is ready to be sent. No I/O.

The format is that of OpenAI's batch files (https://platform.openai.com/docs/guides/batch), with a short form:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], "max_tokens": 20}}
    {"prompt": "Why is the sky blue?", "max_tokens": 20}
    {"custom_id": "b", "messages": [{"role": "user", "content": "Hi"}]}
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Union

from ..errors import RequestError, suggestion
from ..models.local.encode import encode_json, encode_prompt
from ..models.request import ChatRequest

AnyRequest = Union[str, Mapping[str, Any], ChatRequest, "Request"]

CHAT = "/v1/chat/completions"
# Each route with the field that it cannot do without.
ROUTES = {
    CHAT: "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/rerank": "query",
    "/rerank": "query",
}
_OWN_FIELDS = ("custom_id", "method", "url", "body")


class Request:
    """A request as it is sent.

    Attributes:
        custom_id: names it among the others, and its result.
        path: the route.
        body: JSON in UTF-8. What the model reads comes first, so that bodies sort by it.
        number: its place among the requests, from 1.
        digest: 16 hexadecimal digits that change with what is asked; empty if nobody needs them.
    """

    __slots__ = ("custom_id", "path", "body", "number", "digest")

    def __init__(self, custom_id: str, path: str, body: bytes, number: int = 0, digest: str = "") -> None:
        self.custom_id, self.path, self.body, self.number, self.digest = custom_id, path, body, number, digest

    def __repr__(self) -> str:
        return f"Request({self.custom_id!r}, {self.path!r}, {self.body[:60]!r})"


class Defaults:
    """What applies to every request that does not say otherwise.

    Args:
        system: system prompt of chats that have none.
        options: fields of the bodies of chats and completions.
    """

    def __init__(self, system: Optional[str] = None, options: Optional[Mapping[str, Any]] = None) -> None:
        self.system = system
        self.options = dict(options or {})

    @property
    def key(self) -> bytes:
        """Changes with them; 16 bytes."""
        import hashlib

        return hashlib.blake2b(json.dumps([self.system, self.options]).encode(), digest_size=16).digest()


def id_of(value: Any, number: int) -> str:
    """The `custom_id` of a request, or, if it has none, one made of its place. RequestError if it is no name."""
    if not isinstance(value, dict) or value.get("custom_id") is None:
        return f"request-{number}"
    name = value["custom_id"]
    if not isinstance(name, str) or not name:
        raise RequestError(f"a custom_id is a string that is not empty, not {_shown(name)}")
    return name


def make_request(source: AnyRequest, number: int, defaults: Defaults, digest: str = "") -> Request:
    """A request from any of its forms. RequestError if it is none."""
    if isinstance(source, Request):
        return Request(source.custom_id, source.path, source.body, number, digest)
    value: Any = source
    if isinstance(source, str):
        value = {"prompt": source}
    elif isinstance(source, ChatRequest):
        value = encode_prompt(source)
    if not isinstance(value, dict):
        raise RequestError(f"a request is an object, not {_shown(value)}")
    name = id_of(value, number)
    path, body = _full(value) if "url" in value or "body" in value else (CHAT, _short(value))
    if body.get("stream"):
        raise RequestError('a batch has no streams: leave "stream" out')
    if path == CHAT:
        body["messages"] = _with_system(body["messages"], defaults.system)
    if path in (CHAT, "/v1/completions"):
        body = {**defaults.options, **body}
    first = ROUTES[path]
    try:
        return Request(name, path, encode_json({first: body[first], **body}), number, digest)
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"JSON cannot hold this: {error}") from None


def _full(value: Dict[str, Any]) -> Any:
    """Route and body of OpenAI's form."""
    for field in value:
        if field not in _OWN_FIELDS:
            raise RequestError(f"unknown field {field!r} beside url and body{suggestion(field, _OWN_FIELDS)}")
    if value.get("method", "POST") != "POST":
        raise RequestError(f'the method is "POST", not {_shown(value["method"])}')
    path, body = value.get("url"), value.get("body")
    if not isinstance(path, str) or path not in ROUTES:
        raise RequestError(f"url is {_shown(path)}, and a batch knows: {', '.join(ROUTES)}")
    if not isinstance(body, dict) or ROUTES[path] not in body:
        raise RequestError(f'the body of {path} is an object with "{ROUTES[path]}"')
    return path, dict(body)


def _short(value: Mapping[str, Any]) -> Dict[str, Any]:
    """The body of a chat from the short form."""
    body = {field: content for field, content in value.items() if field not in ("custom_id", "method")}
    if ("prompt" in body) == ("messages" in body):
        raise RequestError('a request has "prompt", or "messages", or "url" and "body"')
    if "prompt" in body:
        prompt = body.pop("prompt")
        if not isinstance(prompt, str):
            raise RequestError(f"a prompt is a string, not {_shown(prompt)}")
        body["messages"] = [{"role": "user", "content": prompt}]
    return body


def _with_system(messages: Any, system: Optional[str]) -> List[Any]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RequestError('"messages" is a list of objects')
    if system is None or any(message.get("role") in ("system", "developer") for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
