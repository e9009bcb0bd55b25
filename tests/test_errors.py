"""What leaves the library when something is wrong: the exceptions of the design, their messages, and no token."""

from __future__ import annotations

import json
import socket
import traceback
from typing import Any, Callable, List, Type

import pytest
from scripted import (
    CHAT,
    DONE,
    STREAM_HEAD,
    answering,
    chunk,
    closing,
    delta,
    error,
    event,
    head,
    response,
    serve,
    stream,
)

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
def test_each_error_is_also_what_people_expect_to_catch(kind: Type[Exception], parents: Any) -> None:
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


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid", "a..b"])
def test_a_name_that_does_not_resolve_is_a_server_that_is_not_running(host: str) -> None:
    with pytest.raises(ServerNotRunningError, match=f"^llama-server not running at http://{host}:8080$"):
        LlamaCppClient(f"http://{host}:8080").health()


# --- the server's own errors ------------------------------------------------------------------------------------------

TABLE = [
    ("400 Bad Request", "invalid_request_error", "Cannot parse", ServerError),
    (
        "400 Bad Request",
        "exceed_context_size_error",
        "the request exceeds the available context size",
        ContextSizeError,
    ),
    ("401 Unauthorized", "authentication_error", "Invalid API Key", AuthenticationError),
    ("403 Forbidden", "permission_error", "not you", AuthenticationError),
    ("404 Not Found", "not_found_error", "File Not Found", ServerError),
    ("500 Internal Server Error", "server_error", "boom", ServerError),
    ("501 Not Implemented", "not_supported_error", "Start it with `--embeddings`", NotSupportedError),
    ("503 Service Unavailable", "unavailable_error", "no slot", ServerError),
]


@pytest.mark.parametrize(("status", "kind", "message", "expected"), TABLE)
def test_an_error_of_the_server_is_passed_on_in_its_own_words(
    status: str, kind: str, message: str, expected: Type[ServerError]
) -> None:
    code = int(status[:3])
    body = error(code, message, kind, n_prompt_tokens=9000, n_ctx=4096)
    with serve(answering(*[response(body, status)] * 3)) as server:
        client = LlamaCppClient(server.endpoint)
        for call in (client.chat, streamed(client), client.tokenize):
            with pytest.raises(ServerError) as caught:
                call("Hi")
            raised = caught.value
            assert type(raised) is expected
            assert (str(raised), raised.status, raised.type, raised.body) == (message, code, kind, body.decode())
            if isinstance(raised, ContextSizeError):
                assert (raised.n_prompt_tokens, raised.n_ctx) == (9000, 4096)


def test_the_page_of_a_proxy_is_one_line() -> None:
    page = response(b"<html>\n<h1>502</h1>\n</html>", "502 Bad Gateway", kind="text/html")
    with serve(answering(page, page)) as server:
        client = LlamaCppClient(server.endpoint)
        for call in (client.chat, streamed(client)):
            with pytest.raises(ServerError, match="^HTTP 502 Bad Gateway$") as caught:
                call("Hi")
            assert "<h1>" in caught.value.body


def test_an_error_event_is_raised_after_the_events_before_it() -> None:
    body = error(500, "boom", "server_error")
    together = delta("Hel") + delta("lo") + b"data: " + body + b"\n\n"
    with serve(closing(STREAM_HEAD + chunk(together) + b"0\r\n\r\n")) as server:
        stream = LlamaCppClient(server.endpoint).chat_stream("Hi")
        assert [next(stream).text, next(stream).text] == ["Hel", "lo"]  # type: ignore[union-attr]
        with pytest.raises(ServerError, match="^boom$") as caught:
            next(stream)
        assert (caught.value.status, caught.value.type) == (500, "server_error")
        assert stream.response.content == "Hello"
        with pytest.raises(StopIteration):
            next(stream)


@pytest.mark.parametrize("end", ["fin", "rst", "last chunk"])
def test_a_stream_without_its_end_was_interrupted_and_what_came_is_kept(end: str) -> None:
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


def test_a_stream_whose_connection_is_closed_before_the_answer_was_interrupted_too() -> None:
    with serve(closing(b"")) as server, pytest.raises(StreamInterruptedError) as caught:
        list(LlamaCppClient(server.endpoint).chat_stream("Hi"))
    assert caught.value.partial is not None
    assert caught.value.partial.content == ""


@pytest.mark.parametrize(
    "answer",
    [
        response(CHAT),
        response(b"<html>", kind="text/html"),
        response(b"data: x", kind="text/plain"),
        head("Content-Length: 0"),
        head(status="204 No Content"),
        STREAM_HEAD + chunk(b"data: <html>\n\n"),
        STREAM_HEAD + chunk(b"data: 5\n\n"),
        STREAM_HEAD + chunk(event([])),
        STREAM_HEAD + chunk(event({"choices": 5})),
        STREAM_HEAD + chunk(b"data: \xff\n\n"),
        STREAM_HEAD + b"zz\r\n",
    ],
    ids=lambda answer: repr(answer[-40:]),
)
def test_a_stream_that_is_none_is_a_protocol_error(answer: bytes) -> None:
    with serve(answering(answer)) as server, pytest.raises(ProtocolError) as caught:
        list(LlamaCppClient(server.endpoint).chat_stream("Hi"))
    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize(
    "answer",
    [
        response(b"<html>", kind="text/html"),
        response(CHAT, kind="text/plain"),
        response(b"{"),
        response(b""),
        response(b"[]"),
        response(b"{}"),
        response(b"\xff"),
        response(b"[" * 100_000),
        head(status="204 No Content"),
        stream(delta("x")),
    ],
    ids=lambda answer: repr(answer[-40:]),
)
def test_a_reply_that_is_none_is_a_protocol_error(answer: bytes) -> None:
    with serve(answering(answer, response(b"{}"))) as server, pytest.raises(ProtocolError) as caught:
        LlamaCppClient(server.endpoint).chat("Hi")
    assert len(str(caught.value)) < 300


def test_empty_events_are_passed_over() -> None:
    with serve(answering(stream(b"data:\n\n", b": ping\n\n", delta("x"), b"event: y\n\n"))) as server:
        assert "".join(LlamaCppClient(server.endpoint).chat_stream("Hi").text()) == "x"


def test_what_comes_after_done_is_ignored() -> None:
    with serve(answering(STREAM_HEAD + chunk(delta("x") + DONE + b"data: junk\n\n") + b"0\r\n\r\n")) as server:
        assert "".join(LlamaCppClient(server.endpoint).chat_stream("Hi").text()) == "x"


# --- redirects and the token ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
def test_no_redirect_is_followed_and_the_token_goes_nowhere_else(status: str) -> None:
    with serve(answering(response(CHAT))) as other:
        redirect = response(b"", status, f"Location: {other.endpoint}/v1/chat/completions")
        with serve(answering(redirect, redirect, redirect)) as server:
            client = LlamaCppClient(server.endpoint, auth_token=TOKEN)
            for call in (client.chat, streamed(client), client.tokenize):
                with pytest.raises(ProtocolError, match="redirect"):
                    call("Hi")
        assert (other.connections, len([r for r in server.requests if r.method == "POST"])) == (0, 3)


def test_the_token_is_sent_with_every_request() -> None:
    with serve(answering(response(CHAT), stream(delta("x")), response(b'{"status": "ok"}'))) as server:
        client = LlamaCppClient(server.endpoint, auth_token=TOKEN)
        client.chat("Hi")
        list(client.chat_stream("Hi"))
        client.health()
    assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {TOKEN}"] * 3


def test_without_a_token_none_is_sent() -> None:
    with serve(answering(response(CHAT))) as server:
        LlamaCppClient(server.endpoint).chat("Hi")
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("bad", ["\r\nX: y", "\n", "\0", "\x7f", "\x1b", "\t", "é", "\u2028", " ", "\ud800"])
def test_a_token_that_no_header_may_have_is_refused_before_anything_is_sent(bad: str) -> None:
    with serve(answering(response(CHAT))) as server:
        for token in (TOKEN + bad, bad + TOKEN):
            with pytest.raises(ConfigError, match="the token must be printable ASCII") as caught:
                LlamaCppClient(server.endpoint, auth_token=token).chat("Hi")
            assert "hunter2" not in "".join(traceback.format_exception(None, caught.value, None))
    assert server.connections == 0


@pytest.mark.parametrize("token", ["", 5, b"secret"])
def test_a_token_is_text(token: Any) -> None:
    with pytest.raises(ConfigError, match="the token"):
        LlamaCppClient("http://localhost", auth_token=token)


@pytest.mark.parametrize(
    "answer",
    [
        response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized"),
        response(error(500, "boom", "server_error"), "500 Internal Server Error"),
        response(b"", "302 Found", "Location: http://localhost:1/"),
        response(b"{"),
        b"SSH-2.0\r\n",
        b"HTTP/1.1 200",
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_the_token_is_in_no_text_of_an_error(answer: bytes) -> None:
    with serve(closing(answer)) as server:
        client = LlamaCppClient(server.endpoint, auth_token=TOKEN)
        for call in (client.chat, streamed(client)):
            with pytest.raises(FlynnError) as caught:
                call("Hi")
            whole = "".join(traceback.format_exception(None, caught.value, caught.tb))
            assert "hunter2" not in whole + repr(caught.value) + str(vars(caught.value))


def test_the_token_is_in_no_repr() -> None:
    client = LlamaCppClient("http://localhost:8080", auth_token=TOKEN)
    assert repr(client) == "LlamaCppClient('http://localhost:8080')"
    stream = client.chat_stream("Hi")
    assert "hunter2" not in repr(stream) + str(client)
    stream.close()


# --- the user's mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["chat", "chat_stream", "count_tokens"])
def test_a_mistake_in_a_call_is_told_before_anything_is_sent(call: str) -> None:
    with serve(answering(response(CHAT))) as server:
        client = LlamaCppClient(server.endpoint)
        with pytest.raises(TypeError, match="did you mean 'max_tokens'"):
            getattr(client, call)("Hi", max_token=5)
        with pytest.raises(TypeError, match="a prompt is"):
            getattr(client, call)(5)
        with pytest.raises(ValueError, match="tool_choice"):
            getattr(client, call)("Hi", tool_choice={"function": {"name": "x"}})
    assert server.connections == 0


def test_unknown_defaults_are_refused_when_the_client_is_made() -> None:
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        LlamaCppClient("http://localhost", defaults={"temprature": 1})


def test_defaults_and_the_model_go_with_every_request() -> None:
    with serve(answering(response(CHAT), stream(delta("x")))) as server:
        client = LlamaCppClient(server.endpoint, model="m", defaults={"temperature": 0.5, "seed": 1})
        client.chat("Hi", seed=2)
        list(client.chat_stream("Hi", model="other"))
    first, second = (json.loads(request.body) for request in server.requests)
    assert (first["model"], first["temperature"], first["seed"]) == ("m", 0.5, 2)
    assert (second["model"], second["temperature"], second["seed"]) == ("other", 0.5, 1)
