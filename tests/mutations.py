"""Mutated responses: recorded responses of llama-server with a few random errors.

The same seed and number always give the same response.
"""

from __future__ import annotations

import json
import random
from typing import Any, List

from scripted import CHAT, DATA, DONE, LAST_CHUNK, STREAM_HEAD, chunk, delta, error, event, head, response

STREAMS = [path.read_bytes() for path in [*sorted((DATA / "streams").glob("*.sse")), DATA / "chat_stream.sse"]]
REPLIES: List[Any] = [
    json.loads(CHAT),
    {
        "choices": [
            {
                "message": {
                    "content": None,
                    "reasoning_content": "Well",
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                "finish_reason": "tool_calls",
                "logprobs": {"content": [{"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": []}]},
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
        "timings": {"cache_n": 1, "prompt_ms": 1.5},
    },
    json.loads(error(400, "too long", "exceed_context_size_error", n_prompt_tokens=9, n_ctx=8)),
    json.loads(error(503, "Loading model", "unavailable_error")),
    {"error": "plain"},
    {"status": "ok"},
    {
        "default_generation_settings": {"n_ctx": 1024},
        "total_slots": 4,
        "model_path": "m",
        "modalities": {"vision": False},
    },
    {"data": [{"id": "m", "meta": {"n_params": 1}}]},
    [{"id": 0, "is_processing": False, "n_ctx": 1024}],
    {"input_tokens": 7},
    {"tokens": [1, 2, 3]},
    {"content": "text"},
]
RESPONSES = [
    response(CHAT),
    response(CHAT, "200 OK", "Keep-Alive: timeout=5, max=100", "Server: llama.cpp"),
    head("Content-Type: application/json", "Transfer-Encoding: chunked")
    + chunk(CHAT[:50])
    + chunk(CHAT[50:])
    + LAST_CHUNK,
    head("Content-Type: application/json") + CHAT,
    b"HTTP/1.1 100 Continue\r\n\r\n" + response(CHAT),
    response(error(400, "bad", "invalid_request_error"), "400 Bad Request"),
    response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized"),
    response(b"<html>", "502 Bad Gateway", kind="text/html"),
    head(status="204 No Content"),
    *[STREAM_HEAD + b"".join(map(chunk, parts)) + LAST_CHUNK for parts in ([delta("a"), DONE], [STREAMS[0]])],
    STREAM_HEAD + b"".join(chunk(piece + b"\n\n") for piece in STREAMS[2].split(b"\n\n")[:-1]) + LAST_CHUNK,
    STREAM_HEAD + chunk(delta("a")) + chunk(b"data: " + error(500, "broken", "server_error") + b"\n\n") + LAST_CHUNK,
    head("Content-Type: text/event-stream") + delta("a") + DONE,
]  # fmt: skip

_TOKENS = [
    b"\r\n", b"\n", b"\r", b"\n\n", b"\r\n\r\n", b":", b": ", b"data", b"data:", b"data: ",
    b"event: x\n", b"[DONE]", b"0\r\n\r\n",
    b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\x00", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800",
    b"null", b"true", b"-1", b"1e999",
    b"NaN", b"Infinity", b"9" * 20, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"ffffffffffffffff",
    b"0x10", b"1_0", b";", b",",
    b"HTTP/1.1 ", b"HTTP/2 200", b"HTTP/1.1 100 Continue\r\n\r\n", b" 200 ", b" 204 ", b" 304 ",
    b" 500 ", b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Content-Type: application/json\r\n", b"Content-Type: text/event-stream\r\n",
    b" folded: x\r\n", b"no colon\r\n", b"a" * 70_000,
]  # fmt: skip
_VALUES: List[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**64, -(2**63), 1.5, 1e308, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "é" * 50,
    [], {}, [[]], [None], [{}], [1], ["x"], {"a": 1}, {"content": 5}, {"function": []}, "x" * 3000, "[DONE]", 10**400,
]  # fmt: skip


def of_bytes(random_: random.Random, data: bytes) -> bytes:
    """Change, delete or repeat a few bytes, insert or replace some by a token of the formats, or cut the end off."""
    for _ in range(random_.choice((1, 1, 1, 2, 3, 6))):
        at = random_.randrange(len(data) + 1)
        end = min(at + random_.choice((0, 1, 2, 8, 40)), len(data))
        kind = random_.random()
        if kind < 0.25:
            data = data[:at] + bytes(random_.randrange(256) for _ in range(end - at)) + data[end:]
        elif kind < 0.4:
            data = data[:at] + data[end:]
        elif kind < 0.5:
            data = data[:end] + data[at:end] * random_.choice((1, 2, 50)) + data[end:]
        elif kind < 0.9:
            data = data[:at] + random_.choice(_TOKENS) + data[random_.choice((at, end)) :]
        else:
            data = data[:at]
    return data


def of_json(random_: random.Random, value: Any) -> Any:
    """Replace, delete or rename one value somewhere in a JSON value."""
    if isinstance(value, dict) and value and random_.random() < 0.85:
        name = random_.choice(list(value))
        kind = random_.random()
        if kind < 0.9:
            return {**value, name: of_json(random_, value[name])}
        rest = {key: member for key, member in value.items() if key != name}
        return rest if kind < 0.95 else {**rest, random_.choice(("index", "error", "delta", "x")): value[name]}
    if isinstance(value, list) and value and random_.random() < 0.85:
        at = random_.randrange(len(value))
        return [*value[:at], of_json(random_, value[at]), *value[at + random_.choice((0, 1, 1, 1)) :]]
    return random_.choice(_VALUES)


def of_stream(random_: random.Random, body: bytes) -> bytes:
    """Mutate one event of a stream, or the bytes of the stream."""
    if random_.random() < 0.4:
        return of_bytes(random_, body)
    events = body.split(b"\n\n")[:-1]
    at = random_.randrange(len(events) - 1)  # not [DONE]
    value = json.loads(events[at][len(b"data: ") :])
    mutated = event(of_json(random_, value))[:-2]
    events[at : at + random_.choice((0, 1, 1, 1))] = [mutated]
    if random_.random() < 0.1:
        random_.shuffle(events)
    return b"\n\n".join([*events, b""])


def of_reply(random_: random.Random) -> bytes:
    """Return a mutated JSON reply of one of the routes."""
    value = random_.choice((*REPLIES, *REPLIES[:2] * 5))
    if random_.random() < 0.5:
        return json.dumps(of_json(random_, value)).encode()
    return of_bytes(random_, json.dumps(value).encode())


def of_response(seed: object, number: int) -> bytes:
    """Return a mutated response. It is usually a stream if the number is even, and a one-shot reply if it is odd."""
    random_ = random.Random(f"{seed} {number}")
    streamed = number % 2 == 0
    kind = random_.random()
    if kind < 0.05:
        streamed = not streamed
    if kind < 0.5:
        return of_bytes(
            random_, random_.choice([answer for answer in RESPONSES if (b"event-stream" in answer) == streamed])
        )
    if not streamed:
        return response(of_reply(random_), random_.choice(("200 OK", "200 OK", "400 Bad Request", "500 Oh")))
    body = of_stream(random_, random_.choice(STREAMS))
    size = random_.choice((7, 100, 1000, 100_000))
    return STREAM_HEAD + b"".join(chunk(body[at : at + size]) for at in range(0, len(body), size)) + LAST_CHUNK
