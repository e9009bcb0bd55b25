"""What came of a request, the line that tells it, in OpenAI's form, and how all of them go, in figures. No I/O."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

from ..errors import FlynnError, ServerError
from ..models.local.decode import decode_json
from ..models.local.encode import encode_json
from .requests import Request

_QUOTED = json.encoder.encode_basestring_ascii  # what json.dumps does to a string, without its detours
_PREFIX = b'{"id":"batch_req_'
# How each line begins that `encode_result` makes: the digest, and the ID as JSON.
_LINE = re.compile(re.escape(_PREFIX) + rb'([0-9a-f]{16})","custom_id":("[^"\\]*(?:\\.[^"\\]*)*"),"response":\{')


@dataclass(frozen=True)
class Result:
    """What came of one request.

    Attributes:
        custom_id: the request's; None for what was no request.
        number: the request's place among the others, from 1.
        body: the server's JSON; None if the request failed.
        error: why it failed; None if it did not.
        raw: the body as it came.
        digest: the request's.
    """

    custom_id: Optional[str]
    number: int
    body: Any = None
    error: Optional[FlynnError] = None
    raw: bytes = field(default=b"", repr=False)
    digest: str = field(default="", repr=False)

    @property
    def content(self) -> str:
        """The text of the first choice of a chat or a completion; empty if there is none."""
        choice = (_member(self.body, "choices", list) or [{}])[0]
        text: str = _member(_member(choice, "message", dict), "content", str) or _member(choice, "text", str)
        return text

    def tokens(self) -> Tuple[int, int, int]:
        """Tokens of the prompt, of them from the prompt cache, and generated, as far as the server told."""
        usage = _member(self.body, "usage", dict)
        cached = _member(_member(usage, "prompt_tokens_details", dict), "cached_tokens", int)
        return _member(usage, "prompt_tokens", int), cached, _member(usage, "completion_tokens", int)


def _member(value: Any, name: str, kind: type) -> Any:
    """A member of an object, or nothing of its kind."""
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, kind) else kind()


def success(request: Request, raw: bytes) -> Result:
    """The result of a request that was answered. ProtocolError if the answer is not JSON."""
    return Result(request.custom_id, request.number, decode_json(raw), None, raw, request.digest)


def failure(request: Request, error: FlynnError) -> Result:
    return Result(request.custom_id, request.number, None, error, b"", request.digest)


def id_json(custom_id: str) -> bytes:
    """An ID as it stands in a line."""
    return _QUOTED(custom_id).encode()


def encode_result(result: Result) -> bytes:
    """The line of a result, for the output or, if it failed, for the errors."""
    if result.error is not None:
        return _encode_failure(result, result.error)
    # A line has one line feed, and within JSON it can only be a blank.
    raw = result.raw if b"\n" not in result.raw and b"\r" not in result.raw else encode_json(result.body)
    return b'%b%b","custom_id":%b,"response":{"status_code":200,"request_id":%b,"body":%b},"error":null}\n' % (
        _PREFIX,
        (result.digest or "0" * 16).encode(),
        id_json(result.custom_id or ""),
        id_json(_member(result.body, "id", str)),
        raw,
    )


def _encode_failure(result: Result, error: FlynnError) -> bytes:
    response = None
    kind = type(error).__name__
    if isinstance(error, ServerError):
        kind = error.type or kind
        try:
            body = json.loads(error.body)
        except (ValueError, RecursionError):
            body = error.body
        response = {"status_code": error.status, "request_id": "", "body": body}
    line = {
        "id": f"batch_req_{result.digest or '0' * 16}",
        "custom_id": result.custom_id,
        "response": response,
        "error": {"code": kind, "message": str(error), "line": result.number},
    }
    return json.dumps(line).encode() + b"\n"


def read_line(line: bytes) -> Optional[Tuple[bytes, bytes]]:
    """Digest and ID, as JSON, of a line of the output; None if it is not one, or not whole."""
    found = _LINE.match(line)
    return (found[1], found[2]) if found and line.endswith(b"}\n") else None


def is_torn(end: bytes) -> bool:
    """Whether the end of a file, without a line feed, can be what is left of a line that was being written.

    After a power failure some file systems have zeros where the data should be.
    """
    end = end.rstrip(b"\0")
    return end.startswith(_PREFIX) or _PREFIX.startswith(end)


class Tally:
    """Counts results, from the moment when it is made.

    Attributes:
        before: results that were there already.
        done, failed: what has succeeded and failed since.
        prompt_tokens, cached_tokens, completion_tokens: of those that succeeded; cached ones are prompt tokens too.
    """

    def __init__(self) -> None:
        self.before = self.done = self.failed = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        if result.error is not None:
            self.failed += 1
            return
        self.done += 1
        prompt, cached, completion = result.tokens()
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion

    def line(self, total: Optional[float]) -> str:
        """In one line, of so many requests, if that is known."""
        seconds, finished = self._seconds(), self.done + self.failed
        parts = [f"{self.before + self.done} done", f"{self.failed} failed", *self._speeds(seconds)]
        if total is not None and finished:
            left = max(0.0, total - self.before - finished)
            parts.append(f"{_duration(left * seconds / finished)} left")
        return ", ".join(parts)

    def summary(self) -> str:
        """At the end, in one line."""
        seconds = self._seconds()
        before = f" ({self.before} of them before)" if self.before else ""
        parts = [f"{self.before + self.done} done{before}", f"{self.failed} failed"]
        if self.prompt_tokens:
            tokens = f"{self.prompt_tokens} tokens in ({self.cached_tokens} cached), {self.completion_tokens} out"
            parts += [tokens, *self._speeds(seconds)]
        return ", ".join([*parts, _duration(seconds)])

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _speeds(self, seconds: float) -> List[str]:
        read, written = self.prompt_tokens / seconds, self.completion_tokens / seconds
        return [f"{read:.0f} tokens/s in, {written:.0f} out"] if self.prompt_tokens else []

    def report(self) -> Dict[str, Union[int, float]]:
        """At the end, for a program."""
        seconds = self._seconds()
        return {
            "done": self.done,
            "done_before": self.before,
            "failed": self.failed,
            "seconds": round(seconds, 6),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_per_second": round(self.prompt_tokens / seconds, 3),
            "completion_tokens_per_second": round(self.completion_tokens / seconds, 3),
        }


def _duration(seconds: float) -> str:
    """Example: `_duration(3725.2)` is `"1 h 2 min"`."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
