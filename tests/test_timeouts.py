"""Time limits: of a whole call, of silence in a stream, and while a model loads.

No speed is asserted: the upper bounds only tell an answer from a hang.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator

import pytest
import trustme
from answers import LOADING, always, events, in_turn, late, reply, sent
from pytest_httpserver import HTTPServer
from scripted import CHAT, DONE, LAST_CHUNK, STREAM_HEAD, Peer, chunk, delta, head, response, serve, stalling

from flynn import ConfigError, LlamaCppClient, ModelLoadingError, RequestTimeoutError, ServerNotRunningError

HANG = 15.0  # seconds


@contextmanager
def times_out(after: float) -> Iterator[None]:
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError) as caught:
        yield
    assert str(caught.value) == "llama-server request timed out"
    assert isinstance(caught.value, TimeoutError)
    assert after * 0.9 <= time.monotonic() - start < HANG


def unread(peer: Peer) -> None:
    """Read nothing."""
    peer.client_closes(HANG)


def dripping(answer: bytes, pause: float = 0.1) -> Any:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer, pause=pause)

    return script


# --- the whole call ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        stalling(),
        lambda peer: peer.stall(),
        dripping(response(CHAT)),
        dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        stalling(response(CHAT)[:-1]),
        stalling(STREAM_HEAD.replace(b"text/event-stream", b"application/json")),
        lambda peer: (
            peer.request(),
            peer.send(head("Content-Type: application/json")),
            peer.send(b" " * 1000, pause=0.05),
        ),
    ],
    ids=["silent", "unread", "slow head", "slow 100s", "stalled body", "no chunk", "slow body"],
)
def test_no_server_can_make_a_call_last_longer_than_its_limit(script: Any) -> None:
    with serve(script) as server, LlamaCppClient(server.endpoint, timeout=0.3) as client:
        for call in (client.chat, client.tokenize):
            with times_out(0.3):
                call("Hi")


def test_sending_a_request_counts_towards_the_limit() -> None:
    with serve(unread) as server, times_out(0.5):
        LlamaCppClient(server.endpoint, timeout=0.5).tokenize("x" * 50_000_000)


def test_a_tls_handshake_that_stalls_counts_towards_the_limit() -> None:
    with serve(lambda peer: peer.stall()) as server:
        client = LlamaCppClient(server.endpoint.replace("http:", "https:"), timeout=0.5)
        with times_out(0.5):
            client.chat("Hi")
        with times_out(0.5):
            list(client.chat_stream("Hi"))


def test_a_tls_handshake_that_drips_counts_towards_the_limit() -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(b"\x16\x03\x03\x10\x00\x02" + b"x" * 4000, pause=0.1)

    with serve(script) as server, times_out(0.5):
        LlamaCppClient(server.endpoint.replace("http:", "https:"), timeout=0.5).tokenize("Hi")


def test_sending_a_request_over_tls_counts_towards_the_limit() -> None:
    authority = trustme.CA()
    inside, outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(inside)
    authority.configure_trust(outside)
    with serve(unread, tls=inside) as server, times_out(0.5):
        LlamaCppClient(server.endpoint, ssl_context=outside, timeout=0.5).tokenize("x" * 50_000_000)


def test_a_limit_that_passes_before_anything_is_sent_is_a_timeout(client: LlamaCppClient) -> None:
    with pytest.raises(RequestTimeoutError):
        client.chat("Hi", timeout=1e-9)


def test_a_call_can_have_a_timeout_of_its_own(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, late(0.4, reply(CHAT)))
    with LlamaCppClient(endpoint, timeout=None) as client, times_out(0.1):
        client.tokenize("Hi", timeout=0.1)
    with LlamaCppClient(endpoint, timeout=0.1) as client:
        assert client.chat("Hi", timeout=HANG).content == "Hello!"
        assert client.chat("Hi", timeout=None).content == "Hello!"


def test_each_call_has_the_whole_limit() -> None:
    def script(peer: Peer) -> None:
        while True:
            peer.request()
            time.sleep(0.2)
            peer.send(response(CHAT))

    with serve(script) as server, LlamaCppClient(server.endpoint, timeout=1.0) as client:
        for _ in range(6):
            client.chat("Hi")
    assert server.connections == 1


@pytest.mark.parametrize(
    "timeout", [0, -1, float("nan"), float("inf"), 1e18, 10**400, "5", True, b"", []], ids=lambda t: str(t)[:9]
)
def test_an_invalid_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="a timeout is a number of seconds above 0 .*, or None"):
        LlamaCppClient("http://localhost", timeout=timeout)
    with pytest.raises(ConfigError, match="a timeout is a number of seconds above 0 .*, or None"):
        LlamaCppClient("http://localhost").chat_stream("Hi", timeout=timeout)


def test_a_very_long_timeout_is_accepted(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, reply(CHAT), events(delta("x")), LOADING, reply(CHAT))
    with LlamaCppClient(endpoint, timeout=2_147_483) as client:
        assert client.chat("Hi").content == "Hello!"
        assert "".join(client.chat_stream("Hi").text()) == "x"
        assert client.chat("Hi").content == "Hello!"


def test_the_hint_of_a_timeout_says_how_long_it_was_and_what_sets_it(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, late(0.6, reply(CHAT)))
    client = LlamaCppClient(endpoint, timeout=0.2)
    calls = {"the whole call": client.chat, "a silence": lambda prompt: list(client.chat_stream(prompt))}
    for what, call in calls.items():
        with pytest.raises(RequestTimeoutError) as caught:
            call("Hi")
        assert str(caught.value) == "llama-server request timed out"
        assert caught.value.hint == f"the limit for {what} is 0.2 s; timeout= or --timeout sets another one"
        if sys.version_info >= (3, 11):
            assert caught.value.__notes__ == [caught.value.hint]


# --- silence in a stream ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        stalling(),
        stalling(STREAM_HEAD),
        stalling(STREAM_HEAD + chunk(delta("x"))),
    ],
    ids=["no head", "no event", "no more events"],
)
@pytest.mark.parametrize("entered", [False, True])
def test_a_stream_that_is_silent_for_too_long_times_out(script: Any, entered: bool) -> None:
    with serve(script) as server, times_out(0.4):
        stream = LlamaCppClient(server.endpoint, timeout=0.4).chat_stream("Hi")
        if entered:
            with stream:
                list(stream)
        else:
            list(stream)


@pytest.mark.parametrize("sign_of_life", [b": ping\n\n", b":\n", delta("x")])
def test_a_stream_may_last_longer_than_its_limit_while_anything_arrives(sign_of_life: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD)
        for _ in range(8):
            time.sleep(0.1)
            peer.send(chunk(sign_of_life))
        peer.send(chunk(delta("!") + DONE) + LAST_CHUNK)
        peer.stall()

    with serve(script) as server:
        text = "".join(LlamaCppClient(server.endpoint, timeout=0.6).chat_stream("Hi").text())
    assert text.strip("x") == "!"


def test_a_stream_without_a_limit_waits_as_long_as_needed(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, late(0.5, events(delta("x"))))
    with LlamaCppClient(endpoint, timeout=0.1) as client:
        assert "".join(client.chat_stream("Hi", timeout=None).text()) == "x"


def test_the_time_that_the_consumer_takes_is_not_silence(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    always(httpserver, events(*[delta("x")] * 5))
    text = ""
    for piece in client.chat_stream("Hi", timeout=0.4).text():
        time.sleep(0.1)
        text += piece
    assert text == "xxxxx"


def test_sending_a_request_may_take_longer_than_the_limit_while_the_server_reads() -> None:
    size = 50_000_000
    bytes_per_second = 20_000_000  # what is still in the sockets' buffers at the end is part of the wait

    def script(peer: Peer) -> None:
        left = size
        peer.sock.settimeout(60)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256_000)
        while left > 0:
            received = len(peer.sock.recv(2_000_000))
            left -= received
            time.sleep(received / bytes_per_second)
        peer.send(STREAM_HEAD + chunk(delta("x") + DONE) + LAST_CHUNK)

    with serve(script) as server:
        start = time.monotonic()
        text = LlamaCppClient(server.endpoint, timeout=2).chat_stream("x" * size).text()
        assert "".join(text) == "x"
        assert time.monotonic() > start + 2


def test_a_streamed_request_that_the_server_does_not_read_times_out() -> None:
    with serve(lambda peer: time.sleep(1.5)) as server, pytest.raises(RequestTimeoutError):
        list(LlamaCppClient(server.endpoint, timeout=0.5).chat_stream("x" * 50_000_000))


# --- a model that loads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["chat", "chat_stream", "tokenize"])
def test_a_call_waits_while_the_model_loads(httpserver: HTTPServer, client: LlamaCppClient, call: str) -> None:
    answer = {"chat": reply(CHAT), "chat_stream": events(delta("x")), "tokenize": reply({"tokens": [1]})}[call]
    in_turn(httpserver, LOADING, LOADING, answer)
    result = getattr(client, call)("Hi", timeout=HANG)
    if call == "chat_stream":
        assert "".join(result.text()) == "x"
    assert len(sent(httpserver)) == 3
    assert len({request.data for request in sent(httpserver)}) == 1


@pytest.mark.parametrize("call", ["chat", "chat_stream", "tokenize", "wait_until_ready"])
def test_a_model_that_loads_for_longer_than_the_limit_is_an_error_with_the_servers_message(
    httpserver: HTTPServer, client: LlamaCppClient, call: str
) -> None:
    always(httpserver, LOADING)
    prompt = [] if call == "wait_until_ready" else ["Hi"]
    start = time.monotonic()
    with pytest.raises(ModelLoadingError, match="^Loading model$") as caught:
        list(getattr(client, call)(*prompt, timeout=0.6))
    assert time.monotonic() - start < HANG
    assert (caught.value.status, caught.value.type) == (503, "unavailable_error")
    assert len(sent(httpserver)) > 1


def test_health_does_not_wait_for_a_loading_model(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    in_turn(httpserver, LOADING, reply({"status": "ok"}))
    loading, ready = client.health(), client.health()
    assert (bool(loading), loading.status) == (False, "loading")
    assert (bool(ready), ready.status) == (True, "ok")


def test_a_stream_can_be_closed_while_the_model_loads(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    always(httpserver, LOADING)
    stream = client.chat_stream("Hi", timeout=None)
    timer = threading.Timer(0.4, stream.close)
    timer.start()
    assert list(stream) == []
    timer.join()
    assert sent(httpserver)


# --- waiting until the server is ready --------------------------------------------------------------------------------


def test_wait_until_ready_returns_once_the_model_is_loaded(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    in_turn(httpserver, LOADING, LOADING, reply({"status": "ok"}))
    client.wait_until_ready(timeout=HANG)
    assert len(sent(httpserver)) == 3


def test_wait_until_ready_without_a_server_says_that_it_is_not_running() -> None:
    with serve(stalling()) as server:
        endpoint = server.endpoint
    with pytest.raises(ServerNotRunningError, match="^llama-server not running at "):
        LlamaCppClient(endpoint).wait_until_ready(timeout=0.5)


def test_wait_until_ready_for_a_server_that_hangs_is_a_timeout() -> None:
    with serve(stalling()) as server, times_out(0.5):
        LlamaCppClient(server.endpoint).wait_until_ready(timeout=0.5)
