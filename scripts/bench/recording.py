"""What the benchmark's server sends: a real llama-server's recorded answers, made as long as a request wants them."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Tuple

RECORDED = Path(__file__).parent / "recorded"


def framed(chunks: Iterable[bytes]) -> bytes:
    """An HTTP chunk each, and the one that ends them (RFC 9112, section 7.1)."""
    return b"".join([b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]) + b"0\r\n\r\n"


def unframed(body: bytes) -> Iterator[bytes]:
    """The HTTP chunks of a body, without the one that ends them."""
    position = 0
    while True:
        line = body.index(b"\r\n", position)
        size = int(body[position:line], 16)
        if not size:
            return
        yield body[line + 2 : line + 2 + size]
        position = line + 2 + size + 2


def _recorded(name: str) -> Tuple[bytes, bytes]:
    head, blank, body = (RECORDED / name).read_bytes().partition(b"\r\n\r\n")
    return head + blank, body


@functools.cache
def reply() -> bytes:
    """The whole one-shot answer."""
    return b"".join(_recorded("reply.http"))


@functools.cache
def _parts() -> Tuple[bytes, List[bytes], bytes, List[bytes], List[bytes]]:
    """Head, reports of progress, the chunk with role and first token, those with one token, and the last ones."""
    head, body = _recorded("stream.http")
    chunks = list(unframed(body))
    progress = [chunk for chunk in chunks if b'"prompt_progress"' in chunk]
    first, *rest = chunks[len(progress) :]
    return head, progress, first, rest[:-2], rest[-2:]


def texts() -> List[str]:
    """The recorded tokens after the first one."""
    return [json.loads(chunk[len(b"data: ") :])["choices"][0]["delta"]["content"] for chunk in _parts()[3]]


@functools.lru_cache(maxsize=32)
def stream(tokens: int, progress: bool = False) -> bytes:
    """A whole stream with so many tokens, each in an HTTP chunk of its own, as llama-server sends them."""
    head, reports, first, one_token, last = _parts()
    middle = itertools.islice(itertools.cycle(one_token), tokens - 1)
    return head + framed([*(reports if progress else []), first, *middle, *last])


@functools.lru_cache(maxsize=32)
def ollama_stream(tokens: int) -> bytes:
    """The same tokens as lines of JSON, as Ollama documents them (docs/api.md, "Generate a chat completion")."""
    common = {"model": "llama3.2", "created_at": "2026-11-22T14:10:58.031842641Z"}
    durations = {"total_duration": 4883583458, "load_duration": 1334875, "prompt_eval_count": 36}
    durations = {**durations, "prompt_eval_duration": 342546000, "eval_count": tokens, "eval_duration": 4535599000}

    def line(text: str, **more: Any) -> bytes:
        value = {**common, "message": {"role": "assistant", "content": text}, **more}
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"

    pieces = [line(text, done=False) for text in texts()]
    last = line("", done_reason="stop", done=True, **durations)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + framed([*itertools.islice(itertools.cycle(pieces), tokens), last])


@functools.cache
def ollama_reply() -> bytes:
    """The one-shot answer in Ollama's form: the last line of its stream with all of the text."""
    text = json.loads(reply().partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"]
    lines = list(unframed(ollama_stream(64).partition(b"\r\n\r\n")[2]))
    value = json.loads(lines[-1])
    value["message"]["content"] = text
    body = json.dumps(value, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


@functools.lru_cache(maxsize=2)
def tiny_events(count: int) -> bytes:
    """A stream of the smallest events that still say something."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    head, _, _, _, last = _parts()
    return b"".join([head, chunk * count, framed(last)])


@functools.lru_cache(maxsize=2)
def long_line(size: int) -> bytes:
    """A stream with one event of so many bytes."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
    head, _, _, _, last = _parts()
    return head + framed([event % (b"a" * (size - len(event) + 2)), *last])
