"""Errors that leave the library: the exceptions of the design, their messages, and never a token."""

from __future__ import annotations

import re
import socket
import traceback
from typing import Any, Callable, List, Type

import pytest
from answers import Answer, always, events, in_turn, reply, sent
from pytest_httpserver import HTTPServer
from real_server import RealServer
from scripted import CHAT, DONE, STREAM_HEAD, chunk, closing, delta, error, event, response, serve

import flynn
from flynn import (
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    ContextSizeError,
    FlynnError,
    LlamaCppClient,
    ModelLoadingError,
    NotSupportedError,
    ProtocolError,
    RequestError,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
    StreamInterruptedError,
)

TOKEN = "sk-hunter2-do-not-show"


def streamed(client: LlamaCppClient) -> Callable[[str], List[Any]]:
    return lambda prompt: list(client.chat_stream(prompt))


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        (ServerNotRunningError, (FlynnError, ConnectionError)),
        (RequestTimeoutError, (FlynnError, TimeoutError)),
        (ServerError, (FlynnError,)),
        (AuthenticationError, (ServerError,)),
        (ContextSizeError, (ServerError,)),
        (ModelLoadingError, (ServerError,)),
        (NotSupportedError, (ServerError,)),
        (StreamInterruptedError, (FlynnError, ConnectionError)),
        (ProtocolError, (FlynnError,)),
        (ConnectionLostError, (ProtocolError, ConnectionError)),
        (ConfigError, (FlynnError, ValueError)),
    ],
)
def test_errors_are_also_the_built_in_errors_that_they_mirror(kind: Type[Exception], parents: Any) -> None:
    assert issubclass(kind, parents)
    assert getattr(flynn, kind.__name__) is kind


# --- no server --------------------------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("endpoint", ["http://localhost:{}", "http://127.0.0.1:{}/prefix/", "https://localhost:{}"])
def test_a_refused_connection_is_a_server_that_is_not_running(endpoint: str) -> None:
    endpoint = endpoint.format(closed_port())
    client = LlamaCppClient(endpoint)
    for call in (client.chat, streamed(client), client.tokenize, lambda prompt: client.health()):
        with pytest.raises(ServerNotRunningError) as caught:
            call("Hi")
        assert str(caught.value) == f"llama-server not running at {endpoint}"
        assert caught.value.hint == "Connection refused"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid", "a..b"])
def test_a_name_that_does_not_resolve_is_a_server_that_is_not_running(host: str) -> None:
    with pytest.raises(ServerNotRunningError) as caught:
        LlamaCppClient(f"http://{host}:8080").health()
    assert str(caught.value) == f"llama-server not running at http://{host}:8080"
    assert caught.value.hint.startswith(f"the name {host!r} does not resolve")


# --- the server's own errors ------------------------------------------------------------------------------------------

TABLE = [
    (400, "invalid_request_error", "Cannot parse", ServerError),
    (400, "exceed_context_size_error", "the request exceeds the available context size", ContextSizeError),
    (401, "authentication_error", "Invalid API Key", AuthenticationError),
    (403, "permission_error", "not you", AuthenticationError),
    (404, "not_found_error", "File Not Found", ServerError),
    (500, "server_error", "boom", ServerError),
    (501, "not_supported_error", "Start it with `--embeddings`", NotSupportedError),
    (503, "unavailable_error", "no slot", ServerError),
]


@pytest.mark.parametrize(("status", "kind", "message", "expected"), TABLE)
def test_an_error_of_the_server_has_the_servers_message(
    httpserver: HTTPServer, client: LlamaCppClient, status: int, kind: str, message: str, expected: Type[ServerError]
) -> None:
    body = error(status, message, kind, n_prompt_tokens=9000, n_ctx=4096)
    always(httpserver, reply(body, status))
    for call in (client.chat, streamed(client), client.tokenize):
        with pytest.raises(ServerError) as caught:
            call("Hi")
        raised = caught.value
        assert type(raised) is expected
        assert (str(raised), raised.status, raised.type, raised.body) == (message, status, kind, body.decode())
        if isinstance(raised, ContextSizeError):
            assert (raised.n_prompt_tokens, raised.n_ctx) == (9000, 4096)


def test_the_html_error_of_a_proxy_becomes_one_line(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    always(httpserver, reply(b"<html>\n<h1>502</h1>\n</html>", 502, "text/html"))
    for call in (client.chat, streamed(client)):
        with pytest.raises(ServerError, match="^HTTP 502 BAD GATEWAY$") as caught:
            call("Hi")
        assert "<h1>" in caught.value.body


def test_an_error_event_is_raised_after_the_events_before_it(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    failure = b"data: " + error(500, "boom", "server_error") + b"\n\n"
    always(httpserver, events(delta("Hel") + delta("lo") + failure, done=False))
    stream = client.chat_stream("Hi")
    assert [next(stream).text, next(stream).text] == ["Hel", "lo"]  # type: ignore[union-attr]
    with pytest.raises(ServerError, match="^boom$") as caught:
        next(stream)
    assert (caught.value.status, caught.value.type) == (500, "server_error")
    assert stream.response.content == "Hello"
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("end", ["fin", "rst", "last chunk"])
def test_a_cut_stream_is_interrupted_and_keeps_its_partial_response(end: str) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.send(STREAM_HEAD + chunk(delta("Hel")) + chunk(delta("lo")))
        if end == "rst":
            peer.unread = b""
            eventually_read.wait(10)
            peer.reset()
        if end == "last chunk":
            peer.send(b"0\r\n\r\n")

    import threading

    eventually_read = threading.Event()
    with serve(script) as server:
        stream = LlamaCppClient(server.endpoint).chat_stream("Hi")
        assert "".join(next(stream).text for _ in range(2)) == "Hello"  # type: ignore[union-attr]
        eventually_read.set()
        with pytest.raises(StreamInterruptedError, match="5 characters of text") as caught:
            next(stream)
    partial = caught.value.partial
    assert partial is not None
    assert (partial.content, partial.finish_reason) == ("Hello", None)


def test_a_stream_cut_before_the_answer_is_interrupted_too() -> None:
    with serve(closing(b"")) as server, pytest.raises(StreamInterruptedError) as caught:
        list(LlamaCppClient(server.endpoint).chat_stream("Hi"))
    assert caught.value.partial is not None
    assert caught.value.partial.content == ""


@pytest.mark.parametrize(
    "answer",
    [
        reply(CHAT),
        reply(b"<html>", kind="text/html"),
        reply(b"data: x", kind="text/plain"),
        reply(b"", kind=""),
        reply(status=204),
        events(b"data: <html>\n\n"),
        events(b"data: 5\n\n"),
        events(event([])),
        events(event({"choices": 5})),
        events(b"data: \xff\n\n"),
    ],
)
def test_an_answer_that_is_not_an_event_stream_is_a_protocol_error(
    httpserver: HTTPServer, client: LlamaCppClient, answer: Answer
) -> None:
    always(httpserver, answer)
    with pytest.raises(ProtocolError) as caught:
        list(client.chat_stream("Hi"))
    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>", kind="text/html"),
        reply(CHAT, kind="text/plain"),
        reply(b"{"),
        reply(b""),
        reply(b"[]"),
        reply(b"{}"),
        reply(b"\xff"),
        reply(b"[" * 100_000),
        reply(status=204),
        events(delta("x")),
    ],
)
def test_an_answer_that_is_not_a_reply_is_a_protocol_error(
    httpserver: HTTPServer, client: LlamaCppClient, answer: Answer
) -> None:
    always(httpserver, answer)
    with pytest.raises(ProtocolError) as caught:
        client.chat("Hi")
    assert len(str(caught.value)) < 300


def test_empty_events_are_skipped(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    always(httpserver, events(b"data:\n\n", b": ping\n\n", delta("x"), b"event: y\n\n"))
    assert "".join(client.chat_stream("Hi").text()) == "x"


def test_data_after_done_is_ignored(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    always(httpserver, events(delta("x") + DONE + b"data: junk\n\n"))
    assert "".join(client.chat_stream("Hi").text()) == "x"


# --- redirects and the token ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed_and_the_token_goes_nowhere_else(
    httpserver: HTTPServer, endpoint: str, status: int
) -> None:
    redirect = reply(b"", status, headers={"Location": f"{endpoint}/elsewhere"})
    httpserver.expect_request(re.compile("/(v1|tokenize)")).respond_with_handler(redirect)
    client = LlamaCppClient(endpoint, auth_token=TOKEN)
    for call in (client.chat, streamed(client), client.tokenize):
        with pytest.raises(ProtocolError, match="redirect"):
            call("Hi")
    assert len(sent(httpserver)) == 3


def test_the_token_is_sent_with_every_request(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, reply(CHAT), events(delta("x")), reply({"status": "ok"}))
    client = LlamaCppClient(endpoint, auth_token=TOKEN)
    client.chat("Hi")
    list(client.chat_stream("Hi"))
    client.health()
    assert [request.headers["authorization"] for request in sent(httpserver)] == [f"Bearer {TOKEN}"] * 3


def test_without_a_token_none_is_sent(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    always(httpserver, reply(CHAT))
    client.chat("Hi")
    assert "authorization" not in sent(httpserver)[0].headers


@pytest.mark.parametrize("bad", ["\r\nX: y", "\n", "\0", "\x7f", "\x1b", "\t", "é", "\u2028", " ", "\ud800"])
def test_a_token_that_a_header_cannot_carry_is_refused_before_anything_is_sent(endpoint: str, bad: str) -> None:
    for token in (TOKEN + bad, bad + TOKEN):
        with pytest.raises(ConfigError, match="the token must be printable ASCII") as caught:
            LlamaCppClient(endpoint, auth_token=token).chat("Hi")
        assert "hunter2" not in "".join(traceback.format_exception(None, caught.value, None))


@pytest.mark.parametrize("token", ["", 5, b"secret"])
def test_a_token_that_is_not_text_is_refused(token: Any) -> None:
    with pytest.raises(ConfigError, match="the token"):
        LlamaCppClient("http://localhost", auth_token=token)


@pytest.mark.parametrize(
    "answer",
    [
        response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized"),
        response(b"", "302 Found", "Location: http://localhost:1/"),
        response(b"{"),
        b"SSH-2.0\r\n",
        b"HTTP/1.1 200",
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_no_error_shows_the_token(answer: bytes) -> None:
    with serve(closing(answer)) as server, LlamaCppClient(server.endpoint, auth_token=TOKEN) as client:
        for call in (client.chat, streamed(client)):
            with pytest.raises(FlynnError) as caught:
                call("Hi")
            whole = "".join(traceback.format_exception(None, caught.value, caught.tb))
            assert "hunter2" not in whole + repr(caught.value) + str(vars(caught.value))


def test_no_repr_shows_the_token() -> None:
    client = LlamaCppClient("http://localhost:8080", auth_token=TOKEN)
    assert repr(client) == "LlamaCppClient('http://localhost:8080')"
    stream = client.chat_stream("Hi")
    assert "hunter2" not in repr(stream) + str(client)
    stream.close()


# --- the user's mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["chat", "chat_stream", "count_tokens"])
def test_a_mistake_in_a_call_is_an_error_before_anything_is_sent(client: LlamaCppClient, call: str) -> None:
    """`httpserver` expects no request."""
    with pytest.raises(TypeError, match="did you mean 'max_tokens'"):
        getattr(client, call)("Hi", max_token=5)
    with pytest.raises(TypeError, match="a prompt is"):
        getattr(client, call)(5)
    with pytest.raises(ValueError, match="tool_choice"):
        getattr(client, call)("Hi", tool_choice={"function": {"name": "x"}})


def test_unknown_defaults_are_refused_when_the_client_is_made() -> None:
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        LlamaCppClient("http://localhost", defaults={"temprature": 1})


def test_defaults_and_the_model_are_sent_with_every_request(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, reply(CHAT), events(delta("x")))
    client = LlamaCppClient(endpoint, model="m", defaults={"temperature": 0.5, "seed": 1})
    client.chat("Hi", seed=2)
    list(client.chat_stream("Hi", model="other"))
    first, second = (request.json for request in sent(httpserver))
    assert (first["model"], first["temperature"], first["seed"]) == ("m", 0.5, 2)
    assert (second["model"], second["temperature"], second["seed"]) == ("other", 0.5, 1)


GUARD = 60.0  # seconds, far above what is expected: it only tells slow from stuck


def test_an_invalid_request_line_is_a_request_error(endpoint: str) -> None:
    for method, path in (("GET", "/a b"), ("GET", "/é"), ("G ET", "/"), ("GET", "/a\r\nX: y"), ("", "/")):
        with pytest.raises(RequestError, match="invalid request line"):
            LlamaCppClient(endpoint).request(method, path)


def test_https_to_a_server_without_tls_says_so_soon(real_server: RealServer) -> None:
    """llama-server does not answer a TLS ClientHello: it waits for the end of a line."""
    with pytest.raises(ProtocolError, match="it speaks plain HTTP: write http://"):
        LlamaCppClient(real_server.endpoint.replace("http:", "https:"), timeout=GUARD).chat("Hi")


def test_the_hint_for_a_wrong_key_says_where_the_token_is_read(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply(error(401, "Invalid API Key", "authentication_error"), 401))
    with pytest.raises(AuthenticationError) as caught:
        LlamaCppClient(endpoint).chat("Hi")
    assert str(caught.value) == "Invalid API Key"
    assert "FLYNN_AUTH_TOKEN" in caught.value.hint
