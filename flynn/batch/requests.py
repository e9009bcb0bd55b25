"""Requests: from a line, a mapping or a prompt to a request that is ready to be sent. No I/O.

The format is that of OpenAI's batch files (https://platform.openai.com/docs/guides/batch), with a short form:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], "max_tokens": 20}}
    {"prompt": "Why is the sky blue?", "max_tokens": 20}
    {"custom_id": "b", "messages": [{"role": "user", "content": "Hi"}]}
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from ..errors import RequestError, suggestion
from ..models.local.encode import encode_json, encode_prompt
from ..models.request import ChatRequest

AnyRequest = Union[str, Mapping[str, Any], ChatRequest, "Request"]

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RERANK = ("/v1/rerank", "/rerank")
# Each route with the field that its body must have.
ROUTES = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input", **dict.fromkeys(RERANK, "query")}
_OWN_FIELDS = ("custom_id", "method", "url", "body")
_SYSTEM = "system"  # among the names of defaults: the system prompt
# The model sees the keys of these in their order; in all other options the order means nothing.
_IN_ORDER = ("json_schema", "response_format", "tools")


@dataclass(frozen=True)
class Request:
    """A request as it is sent.

    Attributes:
        custom_id: the ID, also of the result.
        path: the route.
        body: JSON in UTF-8, on one line. What the model reads comes first, so that bodies sort by it.
        number: place among the requests, counted from 1.
        digest: 16 hexadecimal digits that change with the content of the request; empty where no file records it.
        schema: the JSON schema that the answer must fit; None for no schema.
        defaulted: the names of the defaults that are in the body.
    """

    custom_id: str
    path: str
    body: bytes = field(repr=False)
    number: int = 0
    digest: str = ""
    schema: Optional[Mapping[str, Any]] = field(default=None, repr=False)
    defaulted: Tuple[str, ...] = field(default=(), repr=False)


@dataclass
class Defaults:
    """What applies to every request that does not set it.

    Args:
        system: system prompt of chats that have none.
        options: fields of the bodies of chats and completions.
    """

    system: Optional[str] = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        """16 bytes that identify the defaults, whatever the order and the spelling of the options."""
        from hashlib import blake2b

        try:
            text = json.dumps([self.system, _canonical(self.options)])
        except RecursionError:
            raise RequestError("the options are nested too deeply") from None
        return blake2b(text.encode(), digest_size=16).digest()


def _canonical(value: Any) -> Any:
    """Return the value with its keys sorted where their order means nothing, and with 1 for 1.0."""
    if isinstance(value, dict):
        return {key: value[key] if key in _IN_ORDER else _canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def id_of(value: Any, number: int) -> str:
    """Return the `custom_id` of a request, `request-NUMBER` if it has none. Raises RequestError if it is invalid."""
    if not isinstance(value, dict) or value.get("custom_id") is None:
        return f"request-{number}"
    custom_id = value["custom_id"]
    if not isinstance(custom_id, str) or not custom_id:
        raise RequestError(f"custom_id must be a string that is not empty, not {_shown(custom_id)}")
    return custom_id


def make_request(source: AnyRequest, number: int, defaults: Defaults, digest: str = "") -> Request:
    """Build a request from any of its forms. Raises RequestError for anything else."""
    if isinstance(source, Request):
        schema = source.schema
        if schema is None:
            with contextlib.suppress(ValueError, RecursionError):
                schema = _schema(json.loads(source.body))
        return replace(source, number=number, schema=schema)
    value: Any = source
    if isinstance(source, str):
        value = {"prompt": source}
    elif isinstance(source, ChatRequest):
        value = encode_prompt(source)
    if not isinstance(value, dict):
        raise RequestError(f"a request must be an object, not {_shown(value)}")
    custom_id = id_of(value, number)
    path, body = _full(value) if "url" in value or "body" in value else (CHAT, _short(value))
    if body.get("stream"):
        raise RequestError('a batch cannot stream: leave out "stream"')
    defaulted: List[str] = []
    if path in (CHAT, COMPLETIONS):
        defaulted = [option for option in defaults.options if option not in body]
        body = {**defaults.options, **body}
    if path == CHAT and _lacks_system(body["messages"]) and defaults.system is not None:
        defaulted.append(_SYSTEM)
        body["messages"] = [{"role": "system", "content": defaults.system}, *body["messages"]]
    first = ROUTES[path]
    try:
        encoded = encode_json({first: body[first], **body})
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"JSON cannot hold the request: {error}") from None
    return Request(custom_id, path, encoded, number, digest, _schema(body), tuple(defaulted))


def retry_of(failure: Mapping[str, Any], number: int, defaults: Defaults, digest: str) -> Request:
    """Return the request in a line of an errors file, with today's defaults in place of those it was sent with.

    It keeps the digest in the line if its body stays the same, and gets `digest` otherwise. Raises RequestError if what
    failed was not a request.
    """
    request = failure.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("body"), dict):
        message = failure["error"].get("message")
        raise RequestError(message if isinstance(message, str) else "this line of an errors file holds no request")
    original = make_request(request, number, Defaults())
    names, body = failure.get("defaults"), dict(request["body"])
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    for name in set(names) & set(defaults.options):
        body.pop(name, None)
    if _SYSTEM in names and defaults.system is not None and not _lacks_system(body["messages"][:1]):
        body["messages"] = body["messages"][1:]
    retry = make_request({**request, "body": body}, number, defaults, digest)
    recorded = str(failure.get("id"))[len("batch_req_") :]
    if json.loads(retry.body) == json.loads(original.body) and re.fullmatch("[0-9a-f]{16}", recorded):
        digest = recorded
    return replace(retry, digest=digest, defaulted=tuple(dict.fromkeys([*names, *retry.defaulted])))


def _full(value: Dict[str, Any]) -> Tuple[str, Dict[str, Any]]:
    """Return the route and the body of a request in OpenAI's form."""
    for name in value:
        if name not in _OWN_FIELDS:
            raise RequestError(f"unknown field {name!r} beside url and body{suggestion(name, _OWN_FIELDS)}")
    if value.get("method", "POST") != "POST":
        raise RequestError(f'method must be "POST", not {_shown(value["method"])}')
    path, body = value.get("url"), value.get("body")
    if not isinstance(path, str) or path not in ROUTES:
        raise RequestError(f"url is {_shown(path)} (expected one of: {', '.join(ROUTES)})")
    if not isinstance(body, dict) or ROUTES[path] not in body:
        raise RequestError(f'the body for {path} must be an object with "{ROUTES[path]}"')
    if path == CHAT:
        _lacks_system(body["messages"])
    return path, dict(body)


def _short(value: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the body of a chat in the short form."""
    body = {name: member for name, member in value.items() if name not in ("custom_id", "method")}
    if ("prompt" in body) == ("messages" in body):
        raise RequestError('a request must have "prompt", or "messages", or "url" and "body"')
    if "prompt" in body:
        prompt = body.pop("prompt")
        if not isinstance(prompt, str):
            raise RequestError(f"prompt must be a string, not {_shown(prompt)}")
        body["messages"] = [{"role": "user", "content": prompt}]
    return body


def _lacks_system(messages: Any) -> bool:
    """Return whether messages have no system prompt. Raises RequestError if they are not messages."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RequestError('"messages" must be a list of objects')
    return not any(message.get("role") in ("system", "developer") for message in messages)


def _schema(body: Any) -> Optional[Mapping[str, Any]]:
    """Return the JSON schema that a body asks for, None if it asks for none."""
    if not isinstance(body, dict):
        return None
    schema = body.get("json_schema")
    if schema is None and isinstance(response_format := body.get("response_format"), dict):
        named = response_format.get("json_schema")
        schema = (named if isinstance(named, dict) else response_format).get("schema")
    return schema if isinstance(schema, dict) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
