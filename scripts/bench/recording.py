"""The responses of the benchmark's server: recorded from a real llama-server, extended to any number of tokens."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Tuple

RECORDED = Path(__file__).parent / "recorded"


def framed(chunks: Iterable[bytes]) -> bytes:
    """Encode a chunked body, including the last chunk (RFC 9112, section 7.1)."""
    return b"".join([b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]) + b"0\r\n\r\n"


def unframed(body: bytes) -> Iterator[bytes]:
    """Yield the HTTP chunks of a chunked body, without the last chunk."""
    position = 0
    while True:
        line = body.index(b"\r\n", position)
        size = int(body[position:line], 16)
        if not size:
            return
        yield body[line + 2 : line + 2 + size]
        position = line + 2 + size + 2


def _recorded(name: str) -> Tuple[bytes, bytes]:
    head, separator, body = (RECORDED / name).read_bytes().partition(b"\r\n\r\n")
    return head + separator, body


@functools.cache
def reply() -> bytes:
    """Return the whole one-shot response."""
    return b"".join(_recorded("reply.http"))


@functools.cache
def _parts() -> Tuple[bytes, List[bytes], bytes, List[bytes], List[bytes]]:
    """Return the head, progress chunks, the chunk with role and first token, one-token chunks, and final chunks."""
    head, body = _recorded("stream.http")
    chunks = list(unframed(body))
    progress = [chunk for chunk in chunks if b'"prompt_progress"' in chunk]
    first, *rest = chunks[len(progress) :]
    return head, progress, first, rest[:-2], rest[-2:]


def texts() -> List[str]:
    """Return the recorded tokens after the first one."""
    return [json.loads(chunk[len(b"data: ") :])["choices"][0]["delta"]["content"] for chunk in _parts()[3]]


@functools.lru_cache(maxsize=32)
def stream(tokens: int, progress: bool = False) -> bytes:
    """Return a whole stream with `tokens` tokens, one HTTP chunk each, as llama-server sends them."""
    head, progress_chunks, first, one_token, last = _parts()
    middle = itertools.islice(itertools.cycle(one_token), tokens - 1)
    return head + framed([*(progress_chunks if progress else []), first, *middle, *last])


@functools.lru_cache(maxsize=32)
def ollama_stream(tokens: int) -> bytes:
    """Return the same tokens as lines of JSON, as in Ollama's docs/api.md, "Generate a chat completion"."""
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
    """Return the one-shot response in Ollama's format: the last line of its stream with the whole text."""
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
    """Return a stream of `count` minimal events with one character each."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    head, _, _, _, last = _parts()
    return b"".join([head, chunk * count, framed(last)])


@functools.lru_cache(maxsize=2)
def long_line(size: int) -> bytes:
    """Return a stream with one event of `size` bytes."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
    head, _, _, _, last = _parts()
    return head + framed([event % (b"a" * (size - len(event) + 2)), *last])
