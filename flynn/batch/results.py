"""What came of a request, and the line of a file that says so, in OpenAI's batch format. No I/O.

A result:   {"id": "batch_req_DIGEST", "custom_id": "a", "response": {"status_code": 200, ...}, "error": null}
A failure:  {"id": "batch_req_DIGEST", "custom_id": "a", "error": {"code", "message", "line"}, "response": ...,
             "request": {...}, "defaults": [...]}

`request` is the request that failed, as a line of input that holds all that was sent; null if the line was not a
request. `defaults` names those of its fields that did not come from the line: see `flynn.batch.requests.retry_of`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, List, Mapping, Optional, Tuple

from ..errors import FlynnError, ProtocolError, ServerError, StructuredOutputError
from ..models.local.decode import decode_chat, decode_json, expect_object, get, number, objects
from ..models.local.retrieval import decode_embeddings
from ..models.types import ChatResponse, Choice, Message
from ..structured.answer import TypedAnswer
from .requests import CHAT, COMPLETIONS, EMBEDDINGS, Request
from .schema import check

_QUOTE = json.encoder.encode_basestring_ascii  # json.dumps of a string
_NO_DIGEST = "0" * 16
PREFIX = b'{"id":"batch_req_'
# How a result begins: the digest, and the ID as JSON. A failure has its "error" where this has "response".
_RESULT = re.compile(re.escape(PREFIX) + rb'([0-9a-f]{16})","custom_id":("[^"\\]*(?:\\.[^"\\]*)*"),"response":\{')
_RESULT_END = b'},"error":null}\n'


@dataclass(frozen=True)
class Result:
    """What came of one request.

    Attributes:
        custom_id: the request's; None for a line that cannot be read, and may have any.
        number: the request's place among the others, counted from 1.
        body: the server's JSON; None if there was no answer.
        error: why the request failed; None if it succeeded. A StructuredOutputError comes with a body.
        raw: the body as it came.
        digest: the request's.
        request: the request; None for what is not one.
        truncated: whether the answer, or a choice of it, was cut at the limit of tokens.
    """

    custom_id: Optional[str]
    number: int
    body: Any = None
    error: Optional[FlynnError] = None
    raw: bytes = field(default=b"", repr=False)
    digest: str = field(default="", repr=False)
    request: Optional[Request] = field(default=None, repr=False)
    truncated: bool = False

    @property
    def content(self) -> str:
        """The text of the first choice of a chat or a completion; empty if there is none."""
        choice = (_member(self.body, "choices", list) or [{}])[0]
        text: str = _member(_member(choice, "message", dict), "content", str) or _member(choice, "text", str)
        return text

    def tokens(self) -> Tuple[int, int, int]:
        """Return the tokens of the prompt, of them from the prompt cache, and generated; 0 for what is not known."""
        usage = _member(self.body, "usage", dict)
        cached = _member(_member(usage, "prompt_tokens_details", dict), "cached_tokens", int)
        return _member(usage, "prompt_tokens", int), cached, _member(usage, "completion_tokens", int)


def _member(value: Any, name: str, kind: type) -> Any:
    """Return a member of an object, or an empty value of its kind."""
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, kind) else kind()


def answer(request: Request, raw: bytes) -> Result:
    """Return the result of a request that was answered: a failure if the answer does not fit the request's schema.

    Raises:
        ProtocolError: the client would not take the reply for an answer of this route.
    """
    body, choices = _decode(request.path, raw)
    error = _mismatch(request.schema, choices) if request.schema is not None else None
    truncated = any(choice.finish_reason == "length" for choice in choices)
    return Result(request.custom_id, request.number, body, error, raw, request.digest, request, truncated)


def failure(request: Request, error: FlynnError) -> Result:
    """Return the result of a request that failed without an answer."""
    return Result(request.custom_id, request.number, None, error, b"", request.digest, request)


def _decode(path: str, raw: bytes) -> Tuple[Any, List[Choice]]:
    """Return the JSON of a reply, and the choices in it, those of completions as messages."""
    if path == CHAT:
        response = decode_chat(raw)
        return response.raw, list(response.choices)
    value = decode_json(raw)
    if path == COMPLETIONS:
        items = objects(expect_object(value), "choices")
        if items:
            return value, [Choice(Message("assistant", _text(item)), get(item, "finish_reason", "")) for item in items]
    elif path == EMBEDDINGS:
        if len(decode_embeddings(value)):
            return value, []
    else:
        # A list: the form of text-embeddings-inference, which is asked for with "texts" in place of "documents".
        form, key = ({"results": value}, "score") if isinstance(value, list) else (value, "relevance_score")
        items = objects(expect_object(form), "results")
        if items and all(number(item, key) is not None for item in items):
            return value, []
    raise ProtocolError(f"expected an answer of {path}, got {raw[:80]!r}")


def _text(item: Mapping[str, Any]) -> str:
    if not isinstance(item.get("text"), str):
        raise ProtocolError("expected a completion with a text")
    return str(item["text"])


def _mismatch(schema: Mapping[str, Any], choices: List[Choice]) -> Optional[StructuredOutputError]:
    """Return why a choice does not fit a JSON schema, None if all fit. A call of a tool is not an answer."""
    for choice in choices:
        if choice.message.tool_calls:
            continue
        response = ChatResponse((choice,))
        try:
            problem = check(schema, TypedAnswer(schema).read(response))
        except StructuredOutputError as error:
            return error
        if problem is not None:
            return StructuredOutputError(f"the answer does not fit the schema: {problem}", response)
    return None


def id_json(custom_id: str) -> bytes:
    """Return an ID as it stands in a line."""
    return _QUOTE(custom_id).encode()


def encode_result(result: Result) -> bytes:
    """Return the line of a result for the output, or, if it failed, for the errors."""
    name = b"null" if result.custom_id is None else id_json(result.custom_id)
    head = b'%b%b","custom_id":%b' % (PREFIX, (result.digest or _NO_DIGEST).encode(), name)
    if result.error is not None:
        return head + _encode_failure(result, result.error)
    return head + b',"response":%b,"error":null}\n' % _encode_response(200, result.body, result.raw)


def _encode_failure(result: Result, error: FlynnError) -> bytes:
    response, code, request = b"null", type(error).__name__, b"null"
    if isinstance(error, ServerError):
        code = error.type or code
        response = _encode_response(error.status, None, _as_json(error.body))
    elif result.raw:
        response = _encode_response(200, result.body, result.raw)
    if result.request is not None:
        request = b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}' % (
            id_json(result.request.custom_id),
            id_json(result.request.path),
            _one_line(result.request.body),
        )
    description = {"code": code, "message": str(error), "line": result.number}
    defaults = list(result.request.defaulted) if result.request else []
    return b',"error":%b,"response":%b,"request":%b,"defaults":%b}\n' % (
        json.dumps(description).encode(),
        response,
        request,
        json.dumps(defaults).encode(),
    )


def _encode_response(status: Optional[int], body: Any, raw: bytes) -> bytes:
    request_id = id_json(_member(body, "id", str))
    return b'{"status_code":%b,"request_id":%b,"body":%b}' % (json.dumps(status).encode(), request_id, _one_line(raw))


def _one_line(raw: bytes) -> bytes:
    """Return JSON on one line, otherwise as it came: outside of strings a line feed is whitespace, inside invalid."""
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def _as_json(text: str) -> bytes:
    """Return a text that is JSON as it is, any other as a JSON string."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text).encode()
    return text.encode("utf-8", "replace")


def read_result(line: bytes) -> Optional[Tuple[bytes, bytes]]:
    """Return digest and ID, as JSON, of a line of the output; None if it is not a whole result."""
    match = _RESULT.match(line)
    return (match[1], match[2]) if match and line.endswith(_RESULT_END) else None


def is_failure(value: Any) -> bool:
    """Return whether a line's JSON is a failure that `encode_result` has written."""
    is_one = isinstance(value, dict) and isinstance(value.get("error"), dict)
    return is_one and str(value.get("id")).startswith("batch_req_")


def is_torn(end: bytes) -> bool:
    """Return whether the end of a file, without a line feed, can be what is left of a line that was being written.

    After a power failure some file systems have zeros where the data should be.
    """
    end = end.rstrip(b"\0")
    return end.startswith(PREFIX) or PREFIX.startswith(end)
