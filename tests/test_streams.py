"""Streams: when the request is sent, what a stream yields, and what is left on the server."""

from __future__ import annotations

import threading
import time

from scripted import (
    DATA,
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    answering,
    chunk,
    delta,
    response,
    serve,
    stalling,
    stream,
)

from flynn import LlamaCppClient

HELLO = stream(delta("Hel"), delta("lo"), delta("second", choice=1), delta(finish_reason="stop"))


# --- what a stream yields ---------------------------------------------------------------------------------------------


def test_an_event_ended_by_carriage_returns_counts_although_an_unfinished_line_follows() -> None:
    whole = delta("Hello").replace(b"\n", b"\r") + DONE.replace(b"\n", b"\r") + b": unfinished"
    with serve(answering(STREAM_HEAD + chunk(whole) + LAST_CHUNK)) as server:
        assert "".join(LlamaCppClient(server.endpoint).chat_stream("Hi").text()) == "Hello"


def test_nothing_is_sent_before_iteration_begins() -> None:
    with serve(answering(HELLO, HELLO)) as server:
        client = LlamaCppClient(server.endpoint)
        answer = client.chat_stream("Hi")
        time.sleep(0.1)
        assert server.connections == 0
        next(answer)
        assert len(server.requests) == 1
        answer.close()
        with client.chat_stream("Hi"):
            assert len(server.requests) == 2


def test_a_stream_yields_events_and_assembles_the_response() -> None:
    with serve(answering(HELLO)) as server, LlamaCppClient(server.endpoint).chat_stream("Hi") as answer:
        events = list(answer)
    assert [event.type for event in events] == ["content", "content", "content", "done"]
    assert events[-1].response == answer.response  # type: ignore[union-attr]
    assert answer.response.content == "Hello"
    assert answer.response.finish_reason == "stop"
    assert [choice.message.content for choice in answer.response.choices] == ["Hello", "second"]
    assert list(answer) == []


def test_events_are_yielded_as_they_arrive() -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD + chunk(delta("first")))
        assert go_on.wait(10)
        peer.send(chunk(delta("last") + DONE) + LAST_CHUNK)

    with serve(script) as server:
        text = LlamaCppClient(server.endpoint).chat_stream("Hi").text()
        assert next(text) == "first"
        go_on.set()
        assert list(text) == ["last"]


def test_text_yields_only_the_text_of_the_first_choice() -> None:
    with serve(answering(HELLO)) as server:
        assert list(LlamaCppClient(server.endpoint).chat_stream("Hi").text()) == ["Hel", "lo"]


def test_the_response_so_far_is_there_at_any_time() -> None:
    with serve(stalling(STREAM_HEAD + chunk(delta("Hel")))) as server:
        answer = LlamaCppClient(server.endpoint).chat_stream("Hi")
        assert answer.response.content == ""
        next(answer)
        assert (answer.response.content, answer.response.finish_reason) == ("Hel", None)
        answer.close()
        assert answer.response.content == "Hel"


def test_a_recorded_stream_is_read_the_same_whatever_its_chunks() -> None:
    recorded = (DATA / "chat_stream.sse").read_bytes()
    sizes = [1, 7, 100, 4096, len(recorded)]
    bodies = [
        STREAM_HEAD + b"".join(chunk(recorded[i : i + size]) for i in range(0, len(recorded), size)) + LAST_CHUNK
        for size in sizes
    ]
    with serve(answering(*bodies)) as server:
        client = LlamaCppClient(server.endpoint)
        responses = [list(client.chat_stream("Hi"))[-1].response for _ in sizes]  # type: ignore[union-attr]
    assert all(answer == responses[0] for answer in responses)
    assert responses[0].content


# --- what is left on the server ---------------------------------------------------------------------------------------


def test_a_resumable_stream_is_deleted_from_the_server_at_its_end() -> None:
    with serve(answering(HELLO, response(b"", "204 No Content"))) as server:
        list(LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True))
    post, delete = server.requests
    name = post.headers["x-conversation-id"]
    assert len(name) >= 20
    assert (delete.method, delete.target) == ("DELETE", f"/v1/stream?conv_id={name}")


def test_each_resumable_stream_has_a_name_of_its_own() -> None:
    with serve(answering(*[HELLO, response(b"", "204 No Content")] * 2)) as server:
        client = LlamaCppClient(server.endpoint, defaults={"resume": True})
        for _ in range(2):
            list(client.chat_stream("Hi"))
    assert len({request.headers["x-conversation-id"] for request in server.requests if request.method == "POST"}) == 2


def test_a_stream_without_resuming_has_no_name() -> None:
    with serve(answering(HELLO)) as server:
        list(LlamaCppClient(server.endpoint, defaults={"resume": True}).chat_stream("Hi", resume=False))
    assert "x-conversation-id" not in server.requests[0].headers
