"""Requests: from a line, a mapping or a prompt to a request that is ready to be sent. No I/O.

The format is that of OpenAI's batch files (https://platform.openai.com/docs/guides/batch), with a short form:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], "max_tokens": 20}}
    {"prompt": "Why is the sky blue?", "max_tokens": 20}
    {"custom_id": "b", "messages": [{"role": "user", "content": "Hi"}]}
"""

from __future__ import annotations

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
        custom_id: its name, which its result has too.
        path: the route.
        body: JSON in UTF-8, on one line. What the model reads comes first, so that bodies sort by it.
        number: its place among the requests, counted from 1.
        digest: 16 hexadecimal digits that change with the content of the request; empty where nobody needs them.
        schema: the JSON schema that the answer has to fit; None for no schema.
        defaulted: the names of the defaults that are in its body.
    """

    custom_id: str
    path: str
    body: bytes = field(repr=False)
    number: int = 0
    digest: str = ""
    schema: Optional[Mapping[str, Any]] = field(default=None, repr=False)
    defaulted: Tuple[str, ...] = field(default=(), repr=False)


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
        """16 bytes that change with the defaults, but not with the order or the spelling of options."""
        from hashlib import blake2b

        try:
            text = json.dumps([self.system, _canonical(self.options)])
        except RecursionError:
            raise RequestError("the options are nested too deeply") from None
        return blake2b(text.encode(), digest_size=16).digest()


def _canonical(value: Any) -> Any:
    """Return the value with keys in alphabetical order where order means nothing, and 1 for 1.0."""
    if isinstance(value, dict):
        return {key: value[key] if key in _IN_ORDER else _canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def id_of(value: Any, number: int) -> str:
    """Return the `custom_id` of a request; one without is called `request-NUMBER`. Raises RequestError if it is bad."""
    if not isinstance(value, dict) or value.get("custom_id") is None:
        return f"request-{number}"
    name = value["custom_id"]
    if not isinstance(name, str) or not name:
        raise RequestError(f"custom_id must be a string that is not empty, not {_shown(name)}")
    return name


def make_request(source: AnyRequest, number: int, defaults: Defaults, digest: str = "") -> Request:
    """Return the request that any of its forms describes. Raises RequestError for anything else."""
    if isinstance(source, Request):
        schema = _schema_in(source.body) if source.schema is None else source.schema
        return Request(source.custom_id, source.path, source.body, number, digest, schema)
    value: Any = source
    if isinstance(source, str):
        value = {"prompt": source}
    elif isinstance(source, ChatRequest):
        value = encode_prompt(source)
    if not isinstance(value, dict):
        raise RequestError(f"a request must be an object, not {_shown(value)}")
    name = id_of(value, number)
    path, body = _full(value) if "url" in value or "body" in value else (CHAT, _short(value))
    if body.get("stream"):
        raise RequestError('a batch cannot stream: leave out "stream"')
    defaulted: List[str] = []
    if path in (CHAT, COMPLETIONS):
        defaulted = [option for option in defaults.options if option not in body]
        body = {**defaults.options, **body}
    if path == CHAT and _wants_system(body["messages"]) and defaults.system is not None:
        defaulted.append(_SYSTEM)
        body["messages"] = [{"role": "system", "content": defaults.system}, *body["messages"]]
    first = ROUTES[path]
    try:
        encoded = encode_json({first: body[first], **body})
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"JSON cannot hold the request: {error}") from None
    return Request(name, path, encoded, number, digest, _schema(body), tuple(defaulted))


def retry_of(failure: Mapping[str, Any], number: int, defaults: Defaults, digest: str) -> Request:
    """Return the request of a line of an errors file: as it was, with the defaults of now in place of those of then.

    Args:
        failure: the line; see `flynn.batch.results.encode_result`.
        digest: of the request if it is another one now.

    Raises:
        RequestError: the line does not hold a request, since none was made of the line that failed.
    """
    request = failure.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("body"), dict):
        error = failure.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        raise RequestError(message if isinstance(message, str) else "this line of an errors file holds no request")
    then = make_request(request, number, Defaults())
    names, body = failure.get("defaults"), dict(request["body"])
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    for name in set(names) & set(defaults.options):
        body.pop(name, None)
    if _SYSTEM in names and defaults.system is not None and not _wants_system(body["messages"][:1]):
        body["messages"] = body["messages"][1:]
    now = make_request({**request, "body": body}, number, defaults, digest)
    known = str(failure.get("id"))[len("batch_req_") :]
    if json.loads(now.body) == json.loads(then.body) and re.fullmatch("[0-9a-f]{16}", known):
        digest = known
    return replace(now, digest=digest, defaulted=tuple(dict.fromkeys([*names, *now.defaulted])))


def _full(value: Dict[str, Any]) -> Any:
    """Return route and body of OpenAI's form."""
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
        _wants_system(body["messages"])
    return path, dict(body)


def _short(value: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the body of a chat in the short form."""
    body = {name: content for name, content in value.items() if name not in ("custom_id", "method")}
    if ("prompt" in body) == ("messages" in body):
        raise RequestError('a request must have "prompt", or "messages", or "url" and "body"')
    if "prompt" in body:
        prompt = body.pop("prompt")
        if not isinstance(prompt, str):
            raise RequestError(f"prompt must be a string, not {_shown(prompt)}")
        body["messages"] = [{"role": "user", "content": prompt}]
    return body


def _wants_system(messages: Any) -> bool:
    """Return whether messages have no system prompt. Raises RequestError if they are not messages."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RequestError('"messages" must be a list of objects')
    return not any(message.get("role") in ("system", "developer") for message in messages)


def _schema_in(body: bytes) -> Optional[Mapping[str, Any]]:
    """Return the JSON schema in an encoded body."""
    if b'"json_schema"' not in body:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return _schema(value) if isinstance(value, dict) else None


def _schema(body: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """Return the JSON schema that a body asks for, None if it asks for none."""
    schema = body.get("json_schema")
    if schema is None and isinstance(named := body.get("response_format"), dict):
        schema = named.get("schema")
        if isinstance(inner := named.get("json_schema"), dict):
            schema = inner.get("schema")
    return schema if isinstance(schema, dict) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
