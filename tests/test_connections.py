"""Connections: how they are opened, kept, shared, replaced and closed; invalid HTTP."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import List

import pytest
import trustme
from scripted import (
    CHAT,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    answering,
    chat,
    chunk,
    closing,
    delta,
    error,
    eventually,
    head,
    response,
    serve,
    stream,
)

from flynn import (
    ConnectionLostError,
    LlamaCppClient,
    ProtocolError,
    ServerError,
    ServerNotRunningError,
    StreamInterruptedError,
)
from flynn.http.pool import MAX_IDLE
from flynn.models.local.transport import Transport

# A call that nothing follows, whatever comes of it: of a chat that fails the server is told.
TOKENS = response(b'{"tokens": [1]}')
HELLO = stream(delta("Hel"), delta("lo!"), delta(finish_reason="stop"))


def echo(peer: Peer) -> None:
    """Answer each request with its own prompt."""
    while True:
        peer.send(response(chat(peer.request().json["messages"][0]["content"])))


# --- kept alive -------------------------------------------------------------------------------------------------------


def test_one_connection_serves_successive_calls() -> None:
    failure = response(error(400, "no", "invalid_request_error"), "400 Bad Request")
    with serve(answering(response(CHAT), failure, HELLO, response(b'{"status": "ok"}'), response(CHAT))) as server:
        client = LlamaCppClient(server.endpoint)
        client.chat("one")
        with pytest.raises(ServerError, match="no"):
            client.chat("two")
        assert [event.type for event in client.chat_stream("three")][-1] == "done"
        assert client.health()
        assert client.chat("four").content == "Hello!"
    assert [request.connection for request in server.requests] == [0, 0, 1, 0, 0]


def test_a_stream_has_its_own_connection_closed_at_the_done_event() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HELLO[: -len(LAST_CHUNK)])
        peer.stall()

    with serve(answering(response(CHAT)), script) as server:
        client = LlamaCppClient(server.endpoint)
        client.chat("Hi")
        with client.chat_stream("Hi") as answer:
            assert [event.type for event in answer][-1] == "done"
            eventually(lambda: server.closed == 1)


@pytest.mark.parametrize(
    "answer",
    [
        response(CHAT, "200 OK", "Connection: close"),
        response(CHAT, "200 OK", "Connection: x", "Connection: y, Close"),
        response(CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"),
        response(CHAT) + b"surplus",
        head("Content-Type: application/json", "Transfer-Encoding: chunked") + chunk(CHAT) + LAST_CHUNK + b"x",
    ],
    ids=["Connection: close", "close in a second header", "HTTP/1.0", "surplus bytes", "surplus bytes after chunks"],
)
def test_a_connection_that_cannot_be_reused_is_closed(answer: bytes) -> None:
    with serve(answering(answer), answering(response(CHAT))) as server:
        client = LlamaCppClient(server.endpoint)
        assert client.chat("Hi").content == "Hello!"
        eventually(lambda: server.closed == 1)
        client.chat("Hi")
    assert server.connections == 2


def test_unrequested_bytes_are_never_taken_for_an_answer() -> None:
    read, sent = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response(CHAT))
        assert read.wait(10)
        peer.send(response(chat("forged")))
        sent.set()
        peer.stall()

    with serve(script, answering(response(chat("true")))) as server:
        client = LlamaCppClient(server.endpoint)
        client.chat("Hi")
        read.set()
        assert sent.wait(10)
        assert client.chat("Hi").content == "true"
    assert server.connections == 2


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    with serve(closing(head("Content-Type: application/json") + CHAT)) as server:
        assert LlamaCppClient(server.endpoint).chat("Hi").content == "Hello!"


def test_a_content_length_repeated_in_one_header_is_accepted() -> None:
    twice = head("Content-Type: application/json", f"Content-Length: {len(CHAT)}, {len(CHAT)}") + CHAT
    with serve(answering(twice)) as server:
        assert LlamaCppClient(server.endpoint, timeout=5).chat("Hi").content == "Hello!"


def test_threads_share_a_client_and_each_gets_its_own_reply() -> None:
    wrong: List[str] = []
    with serve(echo) as server:
        client = LlamaCppClient(server.endpoint)

        def calls(name: int) -> None:
            for number in range(25):
                prompt = f"{name}/{number}"
                reply = client.chat(prompt).content
                if reply != prompt:
                    wrong.append(f"{prompt}: {reply}")

        threads = [threading.Thread(target=calls, args=(name,)) for name in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(server.requests) == 400
    assert server.connections <= 16


def test_the_number_of_idle_connections_is_limited() -> None:
    all_sent = threading.Barrier(MAX_IDLE + 5)

    def script(peer: Peer) -> None:
        peer.request()
        all_sent.wait(10)
        peer.send(response(CHAT))
        peer.stall()

    with serve(script) as server:
        client = LlamaCppClient(server.endpoint)
        threads = [threading.Thread(target=client.chat, args=("Hi",)) for _ in range(MAX_IDLE + 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: server.closed == 5)
        client.close()
        eventually(lambda: server.closed == MAX_IDLE + 5)


def test_a_dead_idle_connection_is_closed_while_a_newer_one_is_in_use() -> None:
    both_sent = threading.Barrier(2)

    def script(peer: Peer) -> None:
        dies = peer.request().json["messages"][0]["content"] == "dies"
        both_sent.wait(10)
        if not dies:
            assert first_idle.wait(10)  # so that it is the newer one
        peer.send(response(CHAT))
        if not dies:
            echo(peer)

    first_idle = threading.Event()
    with serve(script) as server:
        client = LlamaCppClient(server.endpoint)
        other = threading.Thread(target=client.chat, args=("lives",))
        other.start()
        client.chat("dies")
        eventually(lambda: server.closed == 1)
        first_idle.set()
        other.join()
        open_before = len(os.listdir("/proc/self/fd"))
        assert client.chat("again").content == "again"
        eventually(lambda: len(os.listdir("/proc/self/fd")) == open_before - 1)
        client.close()


def test_a_closed_client_keeps_no_connection_and_still_works() -> None:
    with serve(answering(response(CHAT))) as server:
        with LlamaCppClient(server.endpoint) as client:
            client.chat("Hi")
        eventually(lambda: server.closed == 1)
        client.chat("Hi")
        eventually(lambda: server.closed == 2)


def test_a_dropped_client_closes_its_connections() -> None:
    with serve(answering(response(CHAT))) as server:
        LlamaCppClient(server.endpoint).chat("Hi")
        eventually(lambda: server.closed == 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_parent_and_child_use_separate_connections() -> None:
    program = """
import os, sys
from flynn import LlamaCppClient
client = LlamaCppClient(sys.argv[1])
assert client.chat("before").content == "before"
child = os.fork()
if child == 0:
    assert client.chat("child").content == "child"
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert client.chat("parent").content == "parent"
"""
    with serve(echo) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, server.endpoint]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    prompts = [(request.json["messages"][0]["content"], request.connection) for request in server.requests]
    assert prompts == [("before", 0), ("child", 1), ("parent", 0)]


# --- replaced ---------------------------------------------------------------------------------------------------------


def test_an_idle_connection_that_the_server_closed_is_replaced() -> None:
    with serve(closing(response(CHAT)), answering(response(CHAT), HELLO)) as server:
        client = LlamaCppClient(server.endpoint)
        client.chat("one")
        eventually(lambda: server.closed == 1)
        client.chat("two")
    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_request_is_sent_again_if_the_kept_connection_was_closed_before_any_answer(end: object) -> None:
    def script(peer: Peer) -> None:
        closing(response(CHAT))(peer)
        peer.request()
        end(peer)  # type: ignore[operator]

    with serve(script, answering(response(CHAT))) as server:
        client = LlamaCppClient(server.endpoint)
        client.chat("one")
        assert client.chat("two").content == "Hello!"
    assert [request.connection for request in server.requests] == [0, 0, 1]


@pytest.mark.parametrize("part", [b"H", b"HTTP/1.1 200 OK\r\n", TOKENS[:-1]])
def test_a_request_that_was_answered_in_part_is_not_sent_again(part: bytes) -> None:
    with serve(closing(TOKENS, part), answering(TOKENS)) as server:
        client = LlamaCppClient(server.endpoint)
        client.tokenize("one")
        with pytest.raises(ConnectionLostError):
            client.tokenize("two")
    assert [request.connection for request in server.requests] == [0, 0]


def test_a_request_on_a_fresh_connection_is_not_sent_again() -> None:
    with serve(closing(b""), answering(TOKENS)) as server, pytest.raises(ConnectionLostError, match="before any of it"):
        LlamaCppClient(server.endpoint).tokenize("Hi")
    assert (len(server.requests), server.connections) == (1, 1)


def test_a_request_is_sent_again_only_once() -> None:
    with serve(closing(TOKENS, b""), closing(b""), answering(TOKENS)) as server:
        client = LlamaCppClient(server.endpoint)
        client.tokenize("one")
        with pytest.raises(ConnectionLostError):
            client.tokenize("two")
    assert len(server.requests) == 3


def test_an_answer_sent_before_the_request_is_read_is_accepted() -> None:
    refusal = response(error(413, "too much", "invalid_request_error"), "413 Content Too Large", "Connection: close")

    def script(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(refusal)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.sock.settimeout(0.2)
        peer.stall()

    with serve(script) as server, pytest.raises(ServerError, match="too much"):
        LlamaCppClient(server.endpoint).chat("x" * 1000)


# --- invalid HTTP -----------------------------------------------------------------------------------------------------


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


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_the_prefix_of_the_endpoint_precedes_every_route() -> None:
    with serve(answering(response(CHAT), response(b'{"status": "ok"}'))) as server:
        client = LlamaCppClient(f"{server.endpoint}/a/b/")
        client.chat("Hi")
        client.health()
    assert [r.target for r in server.requests] == ["/a/b/v1/chat/completions", "/a/b/health"]


def test_the_host_header_names_the_server() -> None:
    with serve(answering(response(CHAT))) as server:
        LlamaCppClient(server.endpoint).chat("Hi")
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"


def test_calls_and_streams_work_over_a_unix_socket(tmp_path: Path) -> None:
    with serve(answering(response(CHAT), HELLO), unix=tmp_path / "a server.sock") as server:
        client = LlamaCppClient(server.endpoint)
        assert client.chat("Hi").content == "Hello!"
        assert "".join(client.chat_stream("Hi").text()) == "Hello!"
    assert [request.headers["host"] for request in server.requests] == ["localhost"] * 2


@pytest.mark.parametrize("name", ["missing.sock", "a file"])
def test_a_missing_unix_socket_is_a_server_that_is_not_running(name: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    endpoint = f"unix://{tmp_path / name}"
    with pytest.raises(ServerNotRunningError) as caught:
        LlamaCppClient(endpoint).chat("Hi")
    assert str(caught.value) == f"llama-server not running at {endpoint}"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_https_works_with_an_ssl_context_that_trusts_the_server(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with serve(answering(response(CHAT), HELLO, response(CHAT)), tls=tls) as server:
        client = LlamaCppClient(server.endpoint, ssl_context=trusting)
        assert client.chat("Hi").content == "Hello!"
        assert "".join(client.chat_stream("Hi").text()) == "Hello!"
        assert client.chat("Hi").content == "Hello!"
    assert server.connections == 2
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"


def test_an_untrusted_server_is_one_clear_error(tls: ssl.SSLContext) -> None:
    with serve(answering(response(CHAT)), tls=tls) as server:
        client = LlamaCppClient(server.endpoint, auth_token="secret")
        for call in (client.tokenize, lambda prompt: list(client.chat_stream(prompt))):
            with pytest.raises(ProtocolError, match="certificate verify failed") as caught:
                call("Hi")
            assert len(str(caught.value).splitlines()) == 1
            assert server.endpoint in str(caught.value)
    assert server.requests == []


def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(context)
    with serve(answering(response(CHAT)), tls=context) as server, pytest.raises(ProtocolError, match="not valid for"):
        LlamaCppClient(server.endpoint, ssl_context=trusting).chat("Hi")
    assert server.requests == []


def test_https_to_a_server_without_tls_is_a_protocol_error() -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(response(b"", "400 Bad Request"))

    with serve(script) as server, pytest.raises(ProtocolError, match="expected a TLS server at https://"):
        LlamaCppClient(server.endpoint.replace("http:", "https:")).chat("Hi")


def test_http_to_a_server_with_tls_is_a_protocol_error(tls: ssl.SSLContext) -> None:
    with serve(answering(response(CHAT)), tls=tls) as server, pytest.raises(ProtocolError):
        LlamaCppClient(server.endpoint.replace("https:", "http:")).chat("Hi")


def test_a_tls_connection_cut_in_the_handshake_is_a_lost_connection() -> None:
    with serve(lambda peer: peer.sock.recv(10)) as server, pytest.raises(ConnectionLostError):
        LlamaCppClient(server.endpoint.replace("http:", "https:")).chat("Hi")


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_an_idle_tls_connection_that_the_server_closed_is_replaced(
    end: object, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        closing(response(CHAT))(peer)
        peer.request()
        end(peer)  # type: ignore[operator]

    with serve(script, closing(response(CHAT)), answering(response(CHAT)), tls=tls) as server:
        client = LlamaCppClient(server.endpoint, ssl_context=trusting)
        client.chat("one")
        client.chat("two")
        eventually(lambda: server.closed == 2)
        client.chat("three")
    assert [request.connection for request in server.requests] == [0, 0, 1, 2]


def test_a_cut_tls_stream_is_not_taken_for_complete(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    cut = STREAM_HEAD + chunk(delta("Hel"))
    with serve(closing(cut), tls=tls) as server, pytest.raises(StreamInterruptedError, match="3 characters"):
        list(LlamaCppClient(server.endpoint, ssl_context=trusting).chat_stream("Hi"))
