"""Everything that a server can make large has a limit, and large but allowed responses work.

Endless heads, trailers and errors: test_connections.py; endless events: test_sse.py; both without a client.
"""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from typing import Any, Callable, Iterator, List

import pytest
from scripted import (
    CHAT,
    DONE,
    STREAM_HEAD,
    Peer,
    answering,
    chunk,
    delta,
    event,
    head,
    response,
    serve,
    stream,
)

from flynn import LlamaCppClient, ProtocolError, RequestTimeoutError
from flynn.models.local.transport import Transport

CALLS: List[Callable[[LlamaCppClient], Any]] = [
    lambda client: client.chat("Hi"),
    lambda client: list(client.chat_stream("Hi")),
    lambda client: list(client.chat_stream("Hi", resume=True)),
]
each_call = pytest.mark.parametrize("call", CALLS, ids=["chat", "chat_stream", "resumed"])


def endlessly(start: bytes, more: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(start)
        block = more * (1 + 65536 // len(more))
        while True:
            peer.send(block)

    return script


@each_call
@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"x"),
        (b"", b"\r\n"),
        (head("Content-Type: application/json", "Transfer-Encoding: chunked"), b"0"),
        (STREAM_HEAD + b"5;", b"x"),
        (STREAM_HEAD + b"0\r\n", b"X-Trailer: x\r\n"),
    ],
    ids=["headers", "header", "100 Continue", "status", "blank lines", "chunk size", "chunk extension", "trailer"],
)
def test_an_endless_part_of_a_response_is_refused(
    call: Callable[[LlamaCppClient], Any], start: bytes, more: bytes
) -> None:
    with serve(endlessly(start, more)) as server, pytest.raises(ProtocolError):
        call(LlamaCppClient(server.endpoint, timeout=60))


def test_an_endless_reply_is_refused() -> None:
    refused = pytest.raises(ProtocolError, match="expected a response of at most 8388608 bytes, got more")
    with serve(endlessly(head("Content-Type: application/json"), b" ")) as server, refused:
        Transport(server.endpoint, timeout=60, max_reply=8 * 1024 * 1024).json("GET", "/props")


@pytest.mark.parametrize("start", [STREAM_HEAD + b"ffffffff\r\ndata: ", head("Content-Type: text/event-stream") + b":"])
@pytest.mark.parametrize("resume", [False, True])
def test_an_endless_line_is_refused(start: bytes, resume: bool) -> None:
    refused = pytest.raises(ProtocolError, match="expected a line of at most 67108864 bytes, got a longer one")
    with serve(endlessly(start, b"x")) as server, refused:
        list(LlamaCppClient(server.endpoint).chat_stream("Hi", resume=resume))


def test_an_endless_event_is_refused() -> None:
    refused = pytest.raises(ProtocolError, match="expected an event of at most 67108864 bytes, got a larger one")
    start = head("Content-Type: text/event-stream")
    with serve(endlessly(start, b"data: " + b"x" * 1_000_000 + b"\n")) as server, refused:
        list(LlamaCppClient(server.endpoint).chat_stream("Hi"))


@pytest.mark.parametrize("depth", [500, 5_000, 100_000, 5_000_000])
@pytest.mark.parametrize("opening", [b"[", b'{"choices":', b'{"choices":['])
def test_json_nested_to_any_depth_is_a_flynn_error_at_most(opening: bytes, depth: int) -> None:
    nested = opening * (depth // len(opening))
    closed = b"[" * depth + b"]" * depth
    for body in nested, closed, b'{"error": ' + closed + b"}":
        with serve(answering(response(body), stream(b"data: " + body + b"\n\n"), response(body, "400 Bad"))) as server:
            client = LlamaCppClient(server.endpoint)
            for call in CALLS[0], CALLS[1], CALLS[0]:
                with pytest.raises(Exception) as caught:
                    call(client)
                assert type(caught.value).__module__ == "flynn.errors"


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"])
def test_invalid_utf8_is_a_protocol_error_and_never_altered_text(bad: bytes) -> None:
    body = CHAT.replace(b"Hello", b"Hel" + bad + b"lo")
    piece = delta("Hello").replace(b"Hello", b"Hel" + bad + b"lo")
    with serve(answering(response(body), stream(delta("a"), piece))) as server:
        client = LlamaCppClient(server.endpoint)
        with pytest.raises(ProtocolError, match="UnicodeDecodeError"):
            client.chat("Hi")
        text = []
        with pytest.raises(ProtocolError, match="UnicodeDecodeError"):
            for event in client.chat_stream("Hi"):
                text.append(event.text)
        assert text == ["a"]


def fragment(index: int, arguments: str) -> bytes:
    return delta(tool_calls=[{"index": index, "function": {"arguments": arguments}}])


def test_10_000_fragments_of_tool_calls_are_joined_in_linear_time() -> None:
    def seconds(count: int) -> float:
        pieces = [fragment(number % 100, f"{number},") for number in range(count)]
        with serve(answering(stream(*pieces))) as server:
            start = time.process_time()
            with LlamaCppClient(server.endpoint).chat_stream("Hi") as answer:
                assert sum(event.type == "tool_call" for event in answer) == count
            assert len(answer.response.tool_calls) == 100
            assert answer.response.tool_calls[7].arguments == "".join(f"{number}," for number in range(7, count, 100))
            return time.process_time() - start

    assert seconds(10_000) < 60  # a guard; quadratic assembling of this many takes minutes


def test_tool_calls_and_choices_may_have_any_numbers() -> None:
    numbers = [10**30, -5, 0, 2**64]
    pieces = [fragment(number, str(number)) for number in numbers] + [delta("x", choice=number) for number in numbers]
    with serve(answering(stream(*pieces))) as server:
        *_, done = LlamaCppClient(server.endpoint).chat_stream("Hi")
    assert [choice.message.content for choice in done.response.choices] == ["x"] * 4


def test_a_stream_of_pings_is_read_in_constant_memory() -> None:
    blocks: Iterator[int] = itertools.count()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head("Content-Type: text/event-stream"))
        for _ in range(60):
            next(blocks)
            peer.send(b": ping\n\n" * 8192)
        peer.send(delta("x") + DONE)

    with serve(script) as server:
        tracemalloc.start()
        try:
            assert "".join(LlamaCppClient(server.endpoint).chat_stream("Hi").text()) == "x"
            assert tracemalloc.get_traced_memory()[1] < 2_500_000  # of the 3.9 MB that came
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("resume", [False, True])
def test_bytes_that_drip_in_after_done_are_not_waited_for(resume: bool) -> None:
    """Keeping the connection for the next call is not worth a long wait."""

    def script(peer: Peer) -> None:
        if peer.request().method == "DELETE":
            peer.send(head(status="204 No Content"))
            return
        peer.send(STREAM_HEAD + chunk(delta("x")) + chunk(DONE))
        for _ in range(600):
            peer.send(chunk(b":"))
            time.sleep(0.05)

    with serve(script) as server:
        start = time.monotonic()
        assert "".join(LlamaCppClient(server.endpoint).chat_stream("Hi", resume=resume).text()) == "x"
        assert time.monotonic() < start + 15


def test_a_reply_that_drips_endlessly_ends_with_the_timeout() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head("Content-Type: application/json", "Content-Length: 1000000"))
        peer.send(b" " * 1000, pause=0.05)

    with serve(script) as server, pytest.raises(RequestTimeoutError):
        LlamaCppClient(server.endpoint, timeout=0.5).chat("Hi")


def test_error_messages_shorten_long_values() -> None:
    long = json.dumps({"choices": [{"message": {"content": ["x" * 1_000_000]}}]}).encode()
    number = response(json.dumps({"input_tokens": "9" * 100_000}).encode())
    with serve(answering(response(long), stream(event({"choices": "x" * 1_000_000})), number)) as server:
        client = LlamaCppClient(server.endpoint)
        for call in CALLS[0], CALLS[1], lambda client: client.count_tokens("Hi"):
            with pytest.raises(ProtocolError) as caught:
                call(client)
            assert len(str(caught.value)) < 500
