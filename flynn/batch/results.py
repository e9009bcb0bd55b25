"""Results, their lines in OpenAI's batch format, and running totals. No I/O.

A result:   {"id": "batch_req_DIGEST", "custom_id": "a", "response": {"status_code": 200, ...}, "error": null}
A failure:  {"id": "batch_req_DIGEST", "custom_id": "a", "error": {"code", "message", "line"}, "response": ...,
             "request": {...}, "defaults": [...]}

`request` is the request that failed, as a line of input with everything that was sent; null if the line was not a
request. `defaults` names the fields of it that did not come from the line: see `flynn.batch.requests.retry_of`.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from ..errors import FlynnError, ProtocolError, ServerError, StructuredOutputError
from ..models.local.decode import decode_chat, decode_json, expect_object, get, number, objects
from ..models.local.retrieval import decode_embeddings
from ..models.types import ChatResponse, Choice, Message
from ..structured.answer import TypedAnswer
from .requests import CHAT, COMPLETIONS, EMBEDDINGS, Request
from .schema import check

_NO_DIGEST = "0" * 16
PREFIX = b'{"id":"batch_req_'
# A result begins with the digest and the ID as JSON. A failure has "error" where this has "response".
_RESULT = re.compile(re.escape(PREFIX) + rb'([0-9a-f]{16})","custom_id":("[^"\\]*(?:\\.[^"\\]*)*"),"response":\{')
_RESULT_END = b'},"error":null}\n'


@dataclass(frozen=True)
class Result:
    """The result of one request.

    Attributes:
        custom_id: ID of the request; None for a line that cannot be read.
        number: place of the request among the others, counted from 1.
        body: the server's JSON; None if there was no answer.
        error: why the request failed; None if it succeeded. A StructuredOutputError comes with a body.
        raw: the bytes of the body, as received.
        digest: digest of the request.
        request: the request; None if the line was not one.
        truncated: whether a choice of the answer was cut off at the token limit.
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
        """Return the number of tokens in the prompt, how many of them were cached, and the number generated.

        What the server does not say is 0.
        """
        usage = _member(self.body, "usage", dict)
        cached = _member(_member(usage, "prompt_tokens_details", dict), "cached_tokens", int)
        return _member(usage, "prompt_tokens", int), cached, _member(usage, "completion_tokens", int)


def _member(value: Any, name: str, kind: type) -> Any:
    """Return a member of a JSON object; an empty value of this kind if there is none."""
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, kind) else kind()


# --- from the server --------------------------------------------------------------------------------------------------


def answer(request: Request, raw: bytes) -> Result:
    """Return the result of a request with a reply: a failure if the answer does not fit the request's schema.

    Raises ProtocolError if the reply is not an answer of this route.
    """
    body, choices = _decode(request.path, raw)
    error = _mismatch(request.schema, choices) if request.schema is not None else None
    truncated = any(choice.finish_reason == "length" for choice in choices)
    return Result(request.custom_id, request.number, body, error, raw, request.digest, request, truncated)


def failure(request: Request, error: FlynnError) -> Result:
    """Return the result of a request that failed without an answer."""
    return Result(request.custom_id, request.number, error=error, digest=request.digest, request=request)


def _decode(path: str, raw: bytes) -> Tuple[Any, List[Choice]]:
    """Return the JSON of a reply and its choices, with the text of a completion as a message."""
    if path == CHAT:
        response = decode_chat(raw)
        return response.raw, list(response.choices)
    value = decode_json(raw)
    if path == COMPLETIONS:
        items = objects(expect_object(value), "choices")
        if items and all(isinstance(item.get("text"), str) for item in items):
            return value, [Choice(Message("assistant", item["text"]), get(item, "finish_reason", "")) for item in items]
    elif path == EMBEDDINGS:
        if len(decode_embeddings(value)):
            return value, []
    else:
        # A list is the form of text-embeddings-inference: llama-server uses it if the request has "texts".
        form, key = ({"results": value}, "score") if isinstance(value, list) else (value, "relevance_score")
        items = objects(expect_object(form), "results")
        if items and all(number(item, key) is not None for item in items):
            return value, []
    raise ProtocolError(f"expected an answer of {path}, got {raw[:80]!r}")


def _mismatch(schema: Mapping[str, Any], choices: List[Choice]) -> Optional[StructuredOutputError]:
    """Return why a choice does not fit a JSON schema, None if all fit. A tool call is not an answer."""
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


# --- lines of files ---------------------------------------------------------------------------------------------------


def encode_result(result: Result) -> bytes:
    """Return the line of a result: for the output if it succeeded, for the errors file if it failed."""
    head = b'%b%b","custom_id":%b' % (PREFIX, (result.digest or _NO_DIGEST).encode(), as_json(result.custom_id))
    response, error, request = _encode_response(result), result.error, result.request
    if error is None:
        return b'%b,"response":%b,"error":null}\n' % (head, response)
    code = error.type if isinstance(error, ServerError) else None
    return b'%b,"error":%b,"response":%b,"request":%b,"defaults":%b}\n' % (
        head,
        as_json({"code": code or type(error).__name__, "message": str(error), "line": result.number}),
        response,
        _encode_request(request) if request else b"null",
        as_json(request.defaulted if request else ()),
    )


def as_json(value: Any) -> bytes:
    """Return a value as JSON in ASCII. An ID is written and compared in this form."""
    return json.dumps(value).encode()


def _encode_request(request: Request) -> bytes:
    members = as_json(request.custom_id), as_json(request.path), _one_line(request.body)
    return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}' % members


def _encode_response(result: Result) -> bytes:
    if isinstance(result.error, ServerError):
        status, raw = result.error.status, _json_or_string(result.error.body)
    elif result.raw:
        status, raw = 200, result.raw
    else:
        return b"null"
    members = as_json(status), as_json(_member(result.body, "id", str)), _one_line(raw)
    return b'{"status_code":%b,"request_id":%b,"body":%b}' % members


def _one_line(raw: bytes) -> bytes:
    """Return JSON on one line: outside of strings a line feed is whitespace, inside it is invalid."""
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def _json_or_string(text: str) -> bytes:
    """Return a text that is JSON unchanged, any other as a JSON string."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return as_json(text)
    return text.encode("utf-8", "replace")


def read_result(line: bytes) -> Optional[Tuple[bytes, bytes]]:
    """Return the digest, and the ID as JSON, of a line of the output; None if it is not a whole result."""
    match = _RESULT.match(line)
    return (match[1], match[2]) if match and line.endswith(_RESULT_END) else None


def is_failure(value: Any) -> bool:
    """Return whether the JSON of a line is a failure that `encode_result` has written."""
    has_error = isinstance(value, dict) and isinstance(value.get("error"), dict)
    return has_error and str(value.get("id")).startswith("batch_req_")


def is_torn(end: bytes) -> bool:
    """Return whether the bytes after the last line feed of a file can be the rest of an interrupted write.

    After a power failure some file systems have zeros where the data should be.
    """
    end = end.rstrip(b"\0")
    return end.startswith(PREFIX) or PREFIX.startswith(end)


# --- totals -----------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Counts requests and tokens, and the seconds since it was created.

    Attributes:
        done, failed: requests that have succeeded and failed.
        done_before: results that the output had already.
        truncated: answers, among those done, that were cut off at the token limit.
        prompt_tokens, cached_tokens, completion_tokens: of requests that succeeded; cached ones are prompt tokens too.
    """

    done: int = 0
    done_before: int = 0
    failed: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        if result.error is not None:
            self.failed += 1
            return
        self.done += 1
        self.truncated += result.truncated
        prompt, cached, completion = result.tokens()
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion

    def line(self, left: Optional[float]) -> str:
        """Return the progress in one line; `left` is the number of requests that are still to be done, if known."""
        parts = [f"{self.done_before + self.done} done", f"{self.failed} failed", *self._speeds()]
        if left is not None and self.done:
            # Failures do not count as work: they may have taken no time at all, or all of it.
            parts.append(f"{_duration(left * self._seconds / self.done)} left")
        return ", ".join(parts)

    def summary(self) -> str:
        before = f" ({self.done_before} of them before)" if self.done_before else ""
        parts = [f"{self.done_before + self.done} done{before}", f"{self.failed} failed"]
        if self.truncated:
            parts.append(f"{self.truncated} cut off at the limit of tokens (see --max-tokens)")
        if self.prompt_tokens:
            parts.append(f"{self.prompt_tokens} tokens in ({self.cached_tokens} cached), {self.completion_tokens} out")
        return ", ".join([*parts, *self._speeds(), _duration(self._seconds)])

    def report(self) -> Dict[str, Union[int, float]]:
        """Return the totals for a program."""
        seconds = self._seconds
        return {
            **asdict(self),
            "seconds": round(seconds, 6),
            "prompt_tokens_per_second": round(self.prompt_tokens / seconds, 3),
            "completion_tokens_per_second": round(self.completion_tokens / seconds, 3),
        }

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-6)

    def _speeds(self) -> List[str]:
        if not self.prompt_tokens:
            return []
        seconds = self._seconds
        return [f"{self.prompt_tokens / seconds:.0f} tokens/s in, {self.completion_tokens / seconds:.0f} out"]


def _duration(seconds: float) -> str:
    """Example: `_duration(3725.2)` is `"1 h 2 min"`."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
