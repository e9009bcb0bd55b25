"""What a peer may send as a response, and what is refused: cuts, framing, limits."""

from __future__ import annotations

import pytest
from scripted import (
    CHAT,
    TOKENS,
    Peer,
    answering,
    chat,
    chunk,
    eventually,
    head,
    response,
    serve,
)

from flynn import (
    ConnectionLostError,
    LlamaCppClient,
    ProtocolError,
)
from flynn.models.local.transport import Transport

CHUNKED = head("Content-Type: application/json", "Transfer-Encoding: chunked") + chunk(b'{"tokens":') + chunk(b" [1]}")


@pytest.mark.parametrize("whole", [TOKENS, CHUNKED + b"0\r\nX: y\r\n\r\n"], ids=["sized", "chunked"])
def test_an_answer_cut_at_any_byte_is_a_lost_connection(whole: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(whole[: peer.number])

    with serve(script) as server:
        client = LlamaCppClient(server.endpoint)
        for _ in range(len(whole)):
            with pytest.raises(ConnectionLostError):
                client.tokenize("Hi")
        assert client.tokenize("Hi") == [1]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\r\n\r\n",
        b"\x00\xff\x15\x03\x01\r\n",
        b"200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        head(status="101 Switching Protocols"),
        head(status="103 Early Hints") + response(CHAT),
        head(*(f"X-{i}: y" for i in range(200))) + CHAT,
        head("X: " + "y" * 70_000) + CHAT,
        head("Content-Type: application/json", "no colon", f"Content-Length: {len(CHAT)}") + CHAT,
        head("Content-Type: application/json", "X: a\0b", f"Content-Length: {len(CHAT)}") + CHAT,
        head("Content-Type: application/json", "Content-Length: -1") + CHAT,
        head("Content-Type: application/json", "Content-Length: 5", "Content-Length: 6") + CHAT,
        head("Content-Type: application/json", "Transfer-Encoding: gzip") + CHAT,
        head("Content-Type: application/json", "Transfer-Encoding: chunked") + b"-1\r\n" + CHAT,
        head("Content-Type: application/json", "Transfer-Encoding: chunked") + CHAT + b"\n",
    ],
    ids=lambda answer: repr(answer[:50]),
)
def test_invalid_http_is_a_protocol_error(answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)
        peer.stall()

    with serve(script) as server:
        client = LlamaCppClient(server.endpoint, timeout=20)
        for call in (client.tokenize, lambda prompt: list(client.chat_stream(prompt))):
            with pytest.raises(ProtocolError) as caught:
                call("Hi")
            assert len(str(caught.value)) < 500
        assert server.connections == 2
        eventually(lambda: server.closed == 2)


@pytest.mark.parametrize(
    "endless",
    [b"HTTP/1.1 100 Continue\r\n\r\n" * 100, b"X: y\r\n" * 100, b"x" * 1000],
    ids=["100", "headers", "a line"],
)
def test_an_endless_head_is_refused(endless: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 100 Continue\r\n")
        while True:
            peer.send(endless)

    with serve(script) as server, pytest.raises(ProtocolError):
        LlamaCppClient(server.endpoint, timeout=20).tokenize("Hi")


@pytest.mark.parametrize("empty", [head(status="204 No Content"), head("Content-Length: 0")])
def test_bytes_after_an_empty_body_are_never_taken_for_the_next_answer(empty: bytes) -> None:
    with serve(answering(empty + response(chat("forged"))), answering(response(chat("true")))) as server:
        transport = Transport(server.endpoint, timeout=20)
        transport.send(transport.call(20), "DELETE", "/x").read_all(0)
        assert transport.json("POST", "/v1/chat/completions")["choices"][0]["message"]["content"] == "true"
    assert server.connections == 2


def test_the_answer_to_a_head_request_has_no_body_whatever_its_headers() -> None:
    announced = head("Content-Type: application/json", "Content-Length: 10")
    chunked = head("Content-Type: application/json", "Transfer-Encoding: chunked")
    with serve(answering(announced, chunked, response(b"{}"))) as server:
        transport = Transport(server.endpoint, timeout=20)
        for _ in range(2):
            assert transport.send(transport.call(20), "HEAD", "/x").read_all(0) == b""
        assert transport.json("GET", "/x") == {}
    assert server.connections == 1


def test_100_continue_before_the_answer_is_skipped() -> None:
    with serve(answering(head(status="100 Continue") * 3 + response(CHAT))) as server:
        assert LlamaCppClient(server.endpoint).chat("Hi").content == "Hello!"


def test_an_endless_body_is_refused() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head("Content-Type: application/json"))
        while True:
            peer.send(b" " * 65536)

    with serve(script) as server, pytest.raises(ProtocolError, match="at most 10000000 bytes"):
        Transport(server.endpoint, timeout=20, max_reply=10_000_000).json("GET", "/props")


def test_the_endless_body_of_an_error_is_refused() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(status="500 Internal Server Error"))
        while True:
            peer.send(b"x" * 65536)

    with serve(script) as server, pytest.raises(ProtocolError, match="at most"):
        LlamaCppClient(server.endpoint, timeout=20).tokenize("Hi")
