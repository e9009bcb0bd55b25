"""Resuming: a cut stream goes on where it was, or keeps its partial response; nothing of it stays on the server."""

from __future__ import annotations

import random
import re
import time
from threading import Timer
from typing import Any, Callable, Dict, Iterator, List

import pytest
from answers import events, in_turn, reply, sent
from faults import cut
from llama import STREAMS, LlamaServer, llama_server
from pytest_httpserver import HTTPServer
from scripted import STREAM_HEAD, Peer, Proxy, chunk, delta, error, eventually, response, serve
from trials.cuts import cut_everywhere, expected_choices

from flynn import (
    AuthenticationError,
    LlamaCppClient,
    ProtocolError,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
    StreamInterruptedError,
)

TEN = {"tokens": 10, "pace": 0.005}
TEN_TOKENS = "0 1 2 3 4 5 6 7 8 9 "


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


@pytest.fixture
def client(server: LlamaServer) -> Iterator[LlamaCppClient]:
    """A client that leaves no session on the server."""
    with LlamaCppClient(server.endpoint) as client:
        yield client
    eventually(lambda: server.state["sessions"] == 0, 3.0)
    eventually(lambda: server.processing == 0, 3.0)


def resumed(client: LlamaCppClient, script: Dict[str, Any], **options: Any) -> Any:
    return client.chat_stream("Hi", resume=True, extra={"script": script}, **options)


def text_of(stream: Any) -> str:
    return "".join(event.text for event in stream if event.type == "content")


# --- cut at any byte --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("stream", sorted(STREAMS))
def test_a_resumed_stream_yields_every_event_once_wherever_it_is_cut(
    server: LlamaServer, stream: str, how: str
) -> None:
    """At every byte in `make stress`."""
    assert cut_everywhere(server, stream, how, resume=True, step=131) > 20
    eventually(lambda: server.state["sessions"] == 0)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("stream", sorted(STREAMS))
def test_a_stream_cut_without_resuming_keeps_its_partial_response(server: LlamaServer, stream: str, how: str) -> None:
    assert cut_everywhere(server, stream, how, resume=False, step=127) > 20


def test_the_recorded_streams_contain_what_they_are_named_after() -> None:
    assert "ç" in expected_choices(STREAMS["content"])[0][0]
    assert all(expected_choices(STREAMS["reasoning"])[0][:2])
    assert expected_choices(STREAMS["tool_calls"])[0][2][0][1:] == ["get_weather", '{"city": "Paris"}']
    assert [bool(text) for text, _, _ in expected_choices(STREAMS["two_choices"])] == [True, True]


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_stream_can_be_cut_and_resumed_many_times(client: LlamaCppClient, server: LlamaServer, how: str) -> None:
    """Before the first byte, in the headers, before the replay's first byte, and in the replay."""
    cuts = [0, 0, 50, 200, 0, 120, 1, 300, 119]
    replays = server.state["replays"]
    stream = resumed(client, {**TEN, "faults": [["cut", after, how] for after in cuts]})
    assert text_of(stream) == TEN_TOKENS
    # A replay that is cut within its head does not count as a resume.
    assert 3 <= stream.resumes <= len(cuts)
    assert server.state["replays"] - replays == len(cuts)


def test_a_replay_continues_while_tokens_are_generated(client: LlamaCppClient) -> None:
    stream = resumed(client, {"tokens": 40, "pace": 0.02, "faults": [["cut", 700]]})
    assert text_of(stream) == "".join(f"{number} " for number in range(40))
    assert stream.resumes == 1


def test_tokens_generated_between_cut_and_resume_are_not_lost(client: LlamaCppClient) -> None:
    stream = iter(resumed(client, {"tokens": 20, "pace": 0.001, "faults": [["cut", 300]]}))
    events = [next(stream)]
    time.sleep(0.3)  # the generation ends meanwhile
    events += stream
    assert text_of(events) == "".join(f"{number} " for number in range(20))


def test_a_stream_that_is_not_cut_has_no_resumes(client: LlamaCppClient) -> None:
    stream = resumed(client, TEN)
    assert (text_of(stream), stream.resumes) == (TEN_TOKENS, 0)


def test_resume_can_be_a_default_of_the_client(server: LlamaServer) -> None:
    script = {"script": {**TEN, "faults": [["cut", 400]]}}
    client = LlamaCppClient(server.endpoint, defaults={"resume": True})
    assert text_of(client.chat_stream("Hi", extra=script)) == TEN_TOKENS
    with pytest.raises(StreamInterruptedError):
        text_of(client.chat_stream("Hi", extra=script, resume=False))


# --- streams that cannot ----------------------------------------------------------------------------------------------


def interrupted(stream: Any) -> StreamInterruptedError:
    with pytest.raises(StreamInterruptedError) as caught:
        text_of(stream)
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.partial is not None
    assert TEN_TOKENS.startswith(caught.value.partial.content)
    return caught.value


@pytest.mark.parametrize(("status", "message"), [(404, "Stream offset lost"), (400, "Stream offset lost")])
def test_a_stream_that_the_server_has_lost_ends_at_once(client: LlamaCppClient, status: int, message: str) -> None:
    """404: the server was restarted, or is too old; 400: the consumer was too slow for the server's buffer."""
    start = time.monotonic()
    error = interrupted(resumed(client, {**TEN, "faults": [["cut", 500]], "replays": [status]}))
    assert error.partial
    assert error.partial.content
    assert ("it was restarted" if status == 404 else message) in str(error)
    assert isinstance(error.__cause__, ServerError)
    assert time.monotonic() < start + 10


def test_a_server_too_old_to_resume_ends_the_stream_with_its_partial_response() -> None:
    def script(peer: Peer) -> None:
        while peer.request().method != "POST":
            peer.send(response(error(404, "File Not Found", "not_found_error"), "404 Not Found"))
        peer.send(STREAM_HEAD + chunk(delta("0 1 ")))

    with serve(script) as server:
        failure = interrupted(LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True))
    assert failure.partial
    assert failure.partial.content == "0 1 "
    assert [request.method for request in server.requests] == ["POST", "GET", "DELETE"]


def test_a_stream_cut_before_it_begins_is_given_up_soon(client: LlamaCppClient) -> None:
    start = time.monotonic()
    error = interrupted(resumed(client, {**TEN, "faults": [["cut", 0]], "replays": [404] * 1000}))
    assert error.partial
    assert error.partial.content == ""
    assert time.monotonic() < start + 10


@pytest.mark.parametrize("statuses", [[502], [502, 502, 502], [503, 502]])
def test_a_replay_is_requested_again_after_the_502_of_a_proxy(client: LlamaCppClient, statuses: List[int]) -> None:
    stream = resumed(client, {**TEN, "faults": [["cut", 500]], "replays": list(statuses)})
    assert (text_of(stream), stream.resumes) == (TEN_TOKENS, 1)


def test_a_stream_is_given_up_after_resume_for_seconds(client: LlamaCppClient) -> None:
    start = time.monotonic()
    error = interrupted(resumed(client, {**TEN, "faults": [["cut", 500]], "replays": [502] * 1000}, resume_for=0.6))
    assert 0.5 < time.monotonic() - start < 10
    assert isinstance(error.__cause__, ServerError)


def test_resume_for_counts_from_each_cut(client: LlamaCppClient) -> None:
    faults = [["cut", after] for after in (300, 300, 300, 300, 300, 300)]
    stream = resumed(client, {"tokens": 30, "pace": 0.05, "faults": faults}, resume_for=0.5)
    assert text_of(stream) == "".join(f"{number} " for number in range(30))
    assert stream.resumes == len(faults)


def test_resume_for_0_disables_resuming(client: LlamaCppClient) -> None:
    interrupted(resumed(client, {**TEN, "faults": [["cut", 500]]}, resume_for=0))


def test_a_stopped_server_is_waited_for_during_resume_for_seconds() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        server.stop_listening()
        peer.send(STREAM_HEAD + chunk(delta("0 ")))

    with serve(script) as server:
        start = time.monotonic()
        error = interrupted(LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True, resume_for=0.5))
    assert isinstance(error.__cause__, ServerNotRunningError)
    assert 0.4 < time.monotonic() - start < 10


def test_a_replay_refused_for_its_token_is_not_requested_again() -> None:
    def script(peer: Peer) -> None:
        while peer.request().method != "POST":
            peer.send(response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized"))
        peer.send(STREAM_HEAD + chunk(delta("0 ")))

    with serve(script) as server:
        failure = interrupted(LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True))
    assert isinstance(failure.__cause__, AuthenticationError)


def test_a_replay_that_is_silent_times_out(client: LlamaCppClient) -> None:
    with pytest.raises(RequestTimeoutError):
        text_of(resumed(client, {**TEN, "faults": [["cut", 500], ["stall", 150]]}, timeout=0.3))


def test_a_replay_that_is_not_an_event_stream_is_a_protocol_error(client: LlamaCppClient) -> None:
    with pytest.raises(ProtocolError, match="expected an event stream, got 'text/html'"):
        text_of(resumed(client, {**TEN, "faults": [["cut", 500], ["html"]]}))


def test_a_body_without_chunks_is_resumed_too(client: LlamaCppClient) -> None:
    stream = resumed(client, {**TEN, "chunks": False, "faults": [["cut", 500]]})
    assert (text_of(stream), stream.resumes) == (TEN_TOKENS, 1)


def test_a_stream_deleted_by_another_client_is_interrupted(client: LlamaCppClient, server: LlamaServer) -> None:
    stream = resumed(client, {"tokens": 1000, "pace": 0.01})
    next(stream)
    server.delete_all_streams()
    with pytest.raises(StreamInterruptedError):
        list(stream)


# --- cleaning up on the server ----------------------------------------------------------------------------------------


def exhaust(stream: Any) -> None:
    list(stream)


def close_at_once(stream: Any) -> None:
    next(stream)
    stream.close()


def break_out(stream: Any) -> None:
    for _ in stream:
        break


def raise_out(stream: Any) -> None:
    with pytest.raises(ZeroDivisionError), stream:
        1 / 0  # noqa: B018


def time_out(stream: Any) -> None:
    with pytest.raises(RequestTimeoutError):
        list(stream)


def be_refused(stream: Any) -> None:
    with pytest.raises((StreamInterruptedError, ProtocolError)):
        list(stream)


@pytest.mark.parametrize(
    ("end", "script"),
    [
        (exhaust, TEN),
        (exhaust, {**TEN, "faults": [["cut", 300]]}),
        (close_at_once, {"tokens": 10_000, "pace": 0.005}),
        (close_at_once, {"tokens": 10_000, "pace": 0.005, "faults": [["cut", 130]]}),
        (break_out, {"tokens": 10_000, "pace": 0.005}),
        (raise_out, {"tokens": 10_000, "pace": 0.005}),
        (time_out, {"tokens": 10_000, "pace": 0.005, "faults": [["stall", 300]]}),
        (be_refused, {"tokens": 10_000, "pace": 0.005, "faults": [["garbage", 300]]}),
        (be_refused, {"tokens": 10_000, "pace": 0.005, "faults": [["cut", 300]], "replays": [400]}),
    ],
)
def test_a_stream_is_deleted_on_the_server_however_it_ends(
    client: LlamaCppClient, server: LlamaServer, end: Callable[[Any], None], script: Dict[str, Any]
) -> None:
    """The fixture `client` checks that none is left."""
    deleted = server.state["deleted"]
    end(resumed(client, {**script}, timeout=1.0))
    eventually(lambda: server.state["deleted"] == deleted + 1)


def test_a_stream_closed_before_the_server_accepts_it_is_deleted_once_it_does(
    client: LlamaCppClient, server: LlamaServer
) -> None:
    """If it were deleted earlier, it would begin afterwards and run to its end without a client."""
    streams = server.state["streams"]
    stream = resumed(client, {"tokens": 10_000, "pace": 0.005, "late": 0.7})
    timer = Timer(0.1, stream.close)
    timer.start()
    assert list(stream) == []
    timer.join()
    assert server.state["streams"] == streams + 1


def test_a_refused_stream_is_not_deleted(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, reply(error(400, "no", "invalid_request_error"), 400))
    with pytest.raises(ServerError, match="no"):
        list(LlamaCppClient(endpoint).chat_stream("Hi", resume=True))
    assert [request.method for request in sent(httpserver)] == ["POST"]


def test_closing_a_stream_does_not_wait_for_a_server_too_old_to_resume() -> None:
    def script(peer: Peer) -> None:
        while peer.request().method != "POST":
            peer.send(response(error(404, "File Not Found", "not_found_error"), "404 Not Found"))
        peer.stall()

    with serve(script) as server:
        stream = LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True)
        timer = Timer(0.1, stream.close)
        timer.start()
        assert list(stream) == []
        timer.join()
        assert [request.method for request in server.requests] == ["POST", "GET", "DELETE"]


def test_a_hung_server_is_waited_for_once_when_its_stream_is_closed() -> None:
    """The limit is for both: waiting until the server has begun with the request, and deleting the answer."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.stall()

    with serve(script) as server, pytest.raises(RequestTimeoutError):
        list(LlamaCppClient(server.endpoint, timeout=0.3).chat_stream("Hi", resume=True))
    assert [request.method for request in server.requests] == ["POST", "GET"]


def test_a_stream_can_be_closed_while_it_waits_to_be_resumed(client: LlamaCppClient) -> None:
    stream = resumed(client, {**TEN, "faults": [["cut", 500]], "replays": [502] * 1000})
    timer = Timer(0.5, stream.close)
    timer.start()
    start = time.monotonic()
    assert text_of(stream)
    assert time.monotonic() < start + 10
    timer.join()


# --- a real server ----------------------------------------------------------------------------------------------------


def test_a_real_stream_cut_at_random_bytes_equals_the_uncut_one(start_server: Callable[..., Any]) -> None:
    """One slot and no prompt cache: otherwise the same request may be computed in another order, and rounded so."""
    random_ = random.Random(1)
    request = {"max_tokens": 8, "temperature": 0.0, "seed": 1, "cache_prompt": False}
    server = start_server(parallel=1)
    whole = LlamaCppClient(server.endpoint).chat_stream("Tell a story.", timeout=None, **request)
    expected = text_of(whole)
    faults = [cut(random_.randrange(1200), how) for how in ("fin", "rst") * 4]
    with Proxy(server.endpoint, *faults) as proxy, LlamaCppClient(proxy.endpoint, timeout=None) as client:
        stream = client.chat_stream("Tell a story.", resume=True, **request)
        assert text_of(stream) == expected
        assert stream.response.usage == whole.response.usage
        assert stream.resumes > 2
        name = re.search(rb"X-Conversation-Id: (\w+)", proxy.received)
        assert name
        with pytest.raises(ServerError) as caught:
            LlamaCppClient(server.endpoint).request("GET", f"/v1/stream?conv_id={name[1].decode()}&from=0")
        assert caught.value.status == 404


def test_a_restart_of_a_real_server_interrupts_the_stream(start_server: Callable[..., Any]) -> None:
    server = start_server(parallel=1)
    stream = LlamaCppClient(server.endpoint).chat_stream("Tell a long story.", max_tokens=800, resume=True)
    for event in stream:
        if event.type == "content":
            break
    server.kill()
    server.start()
    with pytest.raises(StreamInterruptedError) as caught:
        list(stream)
    assert caught.value.partial
    assert caught.value.partial.content.startswith(event.text)
    assert isinstance(caught.value.__cause__, ServerError)
    assert caught.value.__cause__.status == 404


def test_behind_a_proxy_without_the_stream_route_later_streams_have_no_name(
    httpserver: HTTPServer, endpoint: str
) -> None:
    """Otherwise llama-server would go on generating after a stream is closed: the proxy forwards no DELETE."""
    httpserver.expect_request("/v1/chat/completions").respond_with_handler(events(delta("x")))
    httpserver.expect_request("/v1/stream").respond_with_handler(reply(b"404 page not found", 404, "text/plain"))
    client = LlamaCppClient(endpoint)
    for _ in range(3):
        list(client.chat_stream("Hi", resume=True))
    named = ["X-Conversation-Id" in request.headers for request in sent(httpserver) if request.method == "POST"]
    assert named == [True, False, False]
    assert [request.method for request in sent(httpserver)] == ["POST", "DELETE", "POST", "POST"]


def test_the_error_of_a_stream_lost_in_a_restart_says_so(httpserver: HTTPServer, endpoint: str) -> None:
    lost = reply(error(404, "File Not Found", "not_found_error"), 404)
    in_turn(httpserver, events(delta("a"), done=False), lost, reply(status=204))
    with pytest.raises(StreamInterruptedError, match="it was restarted") as caught:
        list(LlamaCppClient(endpoint).chat_stream("Hi", resume=True))
    assert "File Not Found" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ServerError)
