"""Connections: how they are opened, kept, shared, replaced and closed."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import subprocess
import sys
import threading
from typing import List

import pytest
from scripted import (
    CHAT,
    HELLO,
    LAST_CHUNK,
    TOKENS,
    Peer,
    answering,
    chat,
    chunk,
    closing,
    error,
    eventually,
    head,
    response,
    serve,
)

from flynn import (
    ConnectionLostError,
    LlamaCppClient,
    ServerError,
)
from flynn.http.pool import MAX_IDLE


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


def test_a_copied_client_has_connections_of_its_own() -> None:
    with serve(echo) as server:
        client = LlamaCppClient(server.endpoint, auth_token="secret")
        client.chat("one")
        copies = [pickle.loads(pickle.dumps(client)), copy.deepcopy(client)]
        assert [each.chat("two").content for each in [client, *copies]] == ["two"] * 3
        assert server.connections == 3
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer secret"}


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
