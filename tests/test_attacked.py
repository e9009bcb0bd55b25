"""What an attack on the promises of the client found, each with its relatives."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from answers import always, events, in_turn, reply, sent
from pytest_httpserver import HTTPServer
from real_server import RealServer
from scripted import CHAT, STREAM_HEAD, Peer, chunk, delta, error, head, serve
from werkzeug import Request, Response

from flynn import (
    Audio,
    AuthenticationError,
    FileError,
    Image,
    LlamaCppClient,
    Message,
    ProtocolError,
    RequestError,
    RequestTimeoutError,
    ServerError,
    StreamInterruptedError,
    create_client,
)
from flynn.config import Config, ModelConfig
from flynn.models.local.server import decode_metrics
from flynn.models.types import ChatResponse, Choice, ModelClient

ROOT = Path(__file__).parent.parent
GUARD = 60.0  # seconds, far above what is expected: it only tells slow from stuck

# --- processes and signals --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()", "del stream; sys.exit()", "stream.close(); sys.exit()"])
def test_a_child_that_ends_leaves_the_stream_of_its_parent_alone(end: str) -> None:
    program = f"""
import os, sys
from flynn import LlamaCppClient
client = LlamaCppClient(sys.argv[1])
stream = client.chat_stream("Hi", resume=True)
assert next(stream).text == "a"
child = os.fork()
if child == 0:
    {end}
assert os.waitpid(child, 0)[1] == 0
assert [event.type for event in stream] == ["content", "done"]
"""
    forked = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD + chunk(delta("a")))
        forked.wait(0.5)  # the child has ended by then
        peer.send(chunk(delta("b") + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    with serve(script, lambda peer: (peer.request(), peer.send(head(status="204 No Content")))) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, server.endpoint]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [request.method for request in server.requests] == ["POST", "DELETE"]


class Ring:
    def __call__(self, number: int, frame: object) -> None:
        raise TimeoutError("of the handler")

    def method(self, number: int, frame: object) -> None:
        raise TimeoutError("of the handler")


def plain(text: str, number: int, frame: object) -> None:
    raise TimeoutError(text)


@pytest.mark.parametrize("handler", [Ring(), Ring().method, functools.partial(plain, "of the handler")])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_any_kind_of_handler_raises_comes_out(handler: Any, streamed: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if streamed:
            peer.send(STREAM_HEAD + chunk(delta("x")))
        peer.stall()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with serve(script) as server:
            client = LlamaCppClient(server.endpoint, timeout=GUARD)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(TimeoutError, match="^of the handler$"):
                list(client.chat_stream("Hi")) if streamed else client.chat("Hi")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_request_that_flows_steadily_is_not_cut_off_by_the_limit_of_a_silence() -> None:
    size = 24_000_000

    def script(peer: Peer) -> None:
        left = size
        peer.sock.settimeout(GUARD)
        while left > 0:
            left -= len(peer.sock.recv(2_000_000))
            time.sleep(0.1)
        peer.send(STREAM_HEAD + chunk(delta("x") + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    with serve(script) as server:
        start = time.monotonic()
        text = LlamaCppClient(server.endpoint, timeout=0.8).chat_stream("x" * size).text()
        assert "".join(text) == "x"
        assert time.monotonic() > start + 0.8


def test_a_request_that_nobody_reads_is_still_a_silence() -> None:
    with serve(lambda peer: time.sleep(3)) as server, pytest.raises(RequestTimeoutError):
        list(LlamaCppClient(server.endpoint, timeout=0.5).chat_stream("x" * 50_000_000))


HOSTILE = [
    b"a{" + b'b="' * 20_000 + b"} 1",
    b"a{" + b'b="c",' * 20_000 + b" 1",
    b"a{" + b" " * 100_000 + b" 1",
    b"a{" + b"b" * 100_000 + b"} 1",
    b'a{b="' + b"\\" * 100_001 + b'"} 1',
    b"a" * 100_000 + b"{",
    b"a " + b" " * 100_000 + b"x",
    b"{" * 100_000,
    b"a" + b" 1" * 50_000,
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:20]))
def test_no_line_of_metrics_takes_longer_than_it_is_long(line: bytes) -> None:
    start = time.process_time()
    with pytest.raises(ProtocolError, match="expected a metric"):
        decode_metrics(line)
    assert time.process_time() < start + 10  # what grows with the square takes minutes


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        (b"a 1", {}, 1.0),
        (b"a\t1 1700000000", {}, 1.0),
        (b"a{} 2", {}, 2.0),
        (b'a{b="c"} 3', {"b": "c"}, 3.0),
        (b'a{b="c",} 3', {"b": "c"}, 3.0),
        (b'a { b = "c" , d="e\\"f\\ng\\\\" } +Inf -5', {"b": "c", "d": 'e"f\ng\\'}, float("inf")),
        (b'a{b="}"} 4', {"b": "}"}, 4.0),
    ],
)
def test_metrics_are_read_as_prometheus_writes_them(line: bytes, labels: Any, value: float) -> None:
    (metric,) = decode_metrics(line).samples
    assert (metric.name, metric.labels, metric.value) == ("a", labels, value)


@pytest.mark.parametrize("line", [b"a", b"a b", b"1a 1", b'a{b="c" 1', b'a{b="c"', b"a{b=c} 1", b"a 1 2 3", b"-a 1"])
def test_what_is_not_a_metric_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_metrics(line)


# --- content that cannot be meant -------------------------------------------------------------------------------------


def test_one_part_is_one_part(httpserver: HTTPServer, endpoint: str) -> None:
    part = {"type": "text", "text": "Hi"}
    always(httpserver, reply(CHAT))
    LlamaCppClient(endpoint).chat([{"role": "user", "content": part}])
    assert sent(httpserver)[0].json["messages"] == [{"role": "user", "content": [part]}]


@pytest.mark.parametrize("content", [123, 1.5, b"Hi", bytearray(b"Hi"), object(), [1], ["a", b"b"], [None], [["a"]]])
def test_what_is_no_content_is_a_type_error_that_names_the_message(endpoint: str, content: Any) -> None:
    for message in (Message("user", content), {"role": "user", "content": content}):
        with pytest.raises(TypeError, match="^message 2: .*content.* must be"):
            LlamaCppClient(endpoint).chat([Message("system", "x"), message])


PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 360_000


def test_an_image_in_base64_is_taken_as_what_it_is(httpserver: HTTPServer, endpoint: str) -> None:
    import base64

    always(httpserver, reply(CHAT))
    LlamaCppClient(endpoint).chat([Message("user", [Image(base64.b64encode(PNG).decode()), Image(PNG)])])
    one, other = sent(httpserver)[0].json["messages"][0]["content"]
    assert one == other
    assert one["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("kind", [Image, Audio])
@pytest.mark.parametrize("source", ["x" * 480_000, "AAAA" * 100, "no/such/file.png"])
def test_a_source_that_is_neither_a_file_nor_data_is_one_short_line(endpoint: str, kind: Any, source: str) -> None:
    with pytest.raises(FileError) as caught:
        LlamaCppClient(endpoint).chat([Message("user", [kind(source)])])
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_a_request_line_that_cannot_be_sent_is_an_error_of_its_own(endpoint: str) -> None:
    for method, path in (("GET", "/a b"), ("GET", "/é"), ("G ET", "/"), ("GET", "/a\r\nX: y"), ("", "/")):
        with pytest.raises(RequestError, match="invalid request line"):
            LlamaCppClient(endpoint).request(method, path)


# --- where the server is ----------------------------------------------------------------------------------------------


def only_without_v1(server: HTTPServer) -> None:
    """As llama-server: /v1 is part of some routes, and a prefix of none."""
    server.expect_request("/v1/chat/completions").respond_with_handler(reply(CHAT))
    server.expect_request("/props").respond_with_handler(reply({"total_slots": 4}))
    for path in ("/v1/v1/chat/completions", "/v1/props", "/v1/nope", "/nope"):
        server.expect_request(path).respond_with_handler(reply(error(404, "File Not Found", "not_found_error"), 404))


def test_the_v1_of_openais_base_urls_is_dropped_where_the_server_does_not_know_it(
    httpserver: HTTPServer, endpoint: str
) -> None:
    only_without_v1(httpserver)
    client = LlamaCppClient(f"{endpoint}/v1")
    assert client.chat("Hi").content == "Hello!"
    assert client.props().total_slots == 4
    paths = [request.path for request in sent(httpserver)]
    assert paths == ["/v1/v1/chat/completions", "/v1/chat/completions", "/props"]


def test_a_prefix_v1_that_the_server_has_stays(httpserver: HTTPServer, endpoint: str) -> None:
    httpserver.expect_request("/v1/v1/chat/completions").respond_with_handler(reply(CHAT))
    client = LlamaCppClient(f"{endpoint}/v1")
    for _ in range(2):
        client.chat("Hi")


def test_what_is_at_neither_place_is_not_found_and_says_where(httpserver: HTTPServer, endpoint: str) -> None:
    only_without_v1(httpserver)
    client = LlamaCppClient(endpoint)
    with pytest.raises(ServerError) as caught:
        client.request("GET", "/nope?q=1")
    assert (str(caught.value), caught.value.hint) == ("File Not Found", f"asked for {endpoint}/nope")


def test_https_to_a_server_without_tls_says_so_soon(real_server: RealServer) -> None:
    """llama-server says nothing to a TLS greeting, and waits for the end of a line."""
    start = time.monotonic()
    with pytest.raises(ProtocolError, match="it speaks plain HTTP: write http://"):
        LlamaCppClient(real_server.endpoint.replace("http:", "https:"), timeout=GUARD).chat("Hi")
    assert time.monotonic() < start + GUARD / 2


def test_a_wrong_key_says_where_a_token_comes_from(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply(error(401, "Invalid API Key", "authentication_error"), 401))
    with pytest.raises(AuthenticationError) as caught:
        LlamaCppClient(endpoint).chat("Hi")
    assert str(caught.value) == "Invalid API Key"
    assert "FLYNN_AUTH_TOKEN" in caught.value.hint


def test_a_timeout_says_how_long_it_was_and_what_sets_it(httpserver: HTTPServer, endpoint: str) -> None:
    def late(request: Request) -> Response:
        time.sleep(0.6)
        return reply(CHAT)(request)

    always(httpserver, late)
    client = LlamaCppClient(endpoint, timeout=0.2)
    calls = {"the whole call": client.chat, "a silence": lambda prompt: list(client.chat_stream(prompt))}
    for what, call in calls.items():
        with pytest.raises(RequestTimeoutError) as caught:
            call("Hi")
        assert str(caught.value) == "llama-server request timed out"
        assert caught.value.hint == f"the limit for {what} is 0.2 s; timeout= or --timeout sets another one"
        if sys.version_info >= (3, 11):
            assert caught.value.__notes__ == [caught.value.hint]


# --- streams that cannot be resumed -----------------------------------------------------------------------------------


def test_a_proxy_without_the_route_for_streams_is_learned_and_no_stream_is_named_any_more(
    httpserver: HTTPServer, endpoint: str
) -> None:
    """Else llama-server would generate on when a stream is closed: the proxy passes no DELETE on."""
    httpserver.expect_request("/v1/chat/completions").respond_with_handler(events(delta("x")))
    httpserver.expect_request("/v1/stream").respond_with_handler(reply(b"404 page not found", 404, "text/plain"))
    client = LlamaCppClient(endpoint)
    for _ in range(3):
        list(client.chat_stream("Hi", resume=True))
    named = ["X-Conversation-Id" in request.headers for request in sent(httpserver) if request.method == "POST"]
    assert named == [True, False, False]
    assert [request.method for request in sent(httpserver)] == ["POST", "DELETE", "POST", "POST"]


def test_a_stream_that_a_restarted_server_has_lost_says_so(httpserver: HTTPServer, endpoint: str) -> None:
    lost = reply(error(404, "File Not Found", "not_found_error"), 404)
    in_turn(httpserver, events(delta("a"), done=False), lost, reply(status=204))
    with pytest.raises(StreamInterruptedError, match="it was restarted") as caught:
        list(LlamaCppClient(endpoint).chat_stream("Hi", resume=True))
    assert "File Not Found" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ServerError)


# --- another provider -------------------------------------------------------------------------------------------------


class Echo:
    """A model of another kind: it says what it was asked."""

    def __init__(self, model: ModelConfig) -> None:
        self.endpoint = model.endpoint

    def chat(self, request: Any, **options: Any) -> ChatResponse:
        return ChatResponse([Choice(Message("assistant", str(request)))])

    def chat_stream(self, request: Any, **options: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_a_provider_is_an_entry_in_a_table() -> None:
    config = Config({"local": ModelConfig(), "toy": ModelConfig(provider="echo", endpoint="http://toy")})  # type: ignore[arg-type]
    client = create_client(config, "toy", providers={"echo": Echo})
    assert isinstance(client, ModelClient)
    assert client.chat("Hi").content == "Hi"
    assert isinstance(create_client(config), LlamaCppClient)
