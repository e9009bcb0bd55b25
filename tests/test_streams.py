"""A stream's life: when its request is sent, what it gives, how it ends, and that it can be ended at any moment."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest
from scripted import (
    DATA,
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    ScriptedServer,
    answering,
    chunk,
    delta,
    eventually,
    head,
    response,
    serve,
    stream,
)

from flynn import LlamaCppClient
from flynn.models.local.stream import ChatStream

HELLO = stream(delta("Hel"), delta("lo"), delta("second", choice=1), delta(finish_reason="stop"))


def endless(peer: Peer) -> None:
    """Generates until the client goes."""
    peer.request()
    peer.send(STREAM_HEAD)
    while True:
        peer.send(chunk(delta("x")))
        time.sleep(0.005)


def stalling_after(sent: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(sent)
        peer.stall()

    return script


def stopped(server: ScriptedServer) -> bool:
    return server.closed == server.connections


# --- what a stream gives ----------------------------------------------------------------------------------------------


def test_what_a_carriage_return_ended_counts_although_an_unfinished_line_follows() -> None:
    whole = delta("Hello").replace(b"\n", b"\r") + DONE.replace(b"\n", b"\r") + b": unfinished"
    with serve(answering(STREAM_HEAD + chunk(whole) + LAST_CHUNK)) as server:
        assert "".join(LlamaCppClient(server.endpoint).chat_stream("Hi").text()) == "Hello"


def test_nothing_is_sent_before_iteration_begins() -> None:
    with serve(answering(HELLO, HELLO)) as server:
        client = LlamaCppClient(server.endpoint)
        made = client.chat_stream("Hi")
        time.sleep(0.1)
        assert server.connections == 0
        next(made)
        assert len(server.requests) == 1
        made.close()
        with client.chat_stream("Hi"):
            assert len(server.requests) == 2


def test_a_stream_gives_events_and_then_the_response() -> None:
    with serve(answering(HELLO)) as server, LlamaCppClient(server.endpoint).chat_stream("Hi") as made:
        events = list(made)
    assert [event.type for event in events] == ["content", "content", "content", "done"]
    assert events[-1].response == made.response  # type: ignore[union-attr]
    assert made.response.content == "Hello"
    assert made.response.finish_reason == "stop"
    assert [choice.message.content for choice in made.response.choices] == ["Hello", "second"]
    assert list(made) == []


def test_events_are_given_as_they_come() -> None:
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


def test_text_is_that_of_the_first_choice() -> None:
    with serve(answering(HELLO)) as server:
        assert list(LlamaCppClient(server.endpoint).chat_stream("Hi").text()) == ["Hel", "lo"]


def test_the_response_so_far_can_be_had_at_any_time() -> None:
    with serve(stalling_after(STREAM_HEAD + chunk(delta("Hel")))) as server:
        made = LlamaCppClient(server.endpoint).chat_stream("Hi")
        assert made.response.content == ""
        next(made)
        assert (made.response.content, made.response.finish_reason) == ("Hel", None)
        made.close()
        assert made.response.content == "Hel"


def test_the_recorded_stream_gives_the_same_whatever_its_chunks() -> None:
    recorded = (DATA / "chat_stream.sse").read_bytes()
    sizes = [1, 7, 100, 4096, len(recorded)]
    bodies = [
        STREAM_HEAD + b"".join(chunk(recorded[i : i + size]) for i in range(0, len(recorded), size)) + LAST_CHUNK
        for size in sizes
    ]
    with serve(answering(*bodies)) as server:
        client = LlamaCppClient(server.endpoint)
        responses = [list(client.chat_stream("Hi"))[-1].response for _ in sizes]  # type: ignore[union-attr]
    assert all(made == responses[0] for made in responses)
    assert responses[0].content


# --- ending it --------------------------------------------------------------------------------------------------------


def leave_the_block(made: ChatStream) -> None:
    with made:
        next(made)


def break_the_loop(made: ChatStream) -> None:
    with made:
        for _ in made:
            break


def drop_the_text(made: ChatStream) -> None:
    text = made.text()
    next(text)
    del text


def raise_in_the_block(made: ChatStream) -> None:
    with pytest.raises(KeyError), made:
        raise KeyError(next(made))


def close_twice(made: ChatStream) -> None:
    next(made)
    made.close()
    made.close()


def close_unread(made: ChatStream) -> None:
    with made:
        pass


@pytest.mark.parametrize(
    "end", [leave_the_block, break_the_loop, drop_the_text, raise_in_the_block, close_twice, close_unread, next]
)
def test_ending_a_stream_ends_its_connection(end: Callable[[ChatStream], Any]) -> None:
    """`next` leaves it: it ends since nobody refers to it any more."""
    with serve(endless) as server:
        client = LlamaCppClient(server.endpoint)
        end(client.chat_stream("Hi"))
        assert len(server.requests) == 1
        eventually(lambda: stopped(server))


def test_a_stream_in_a_loop_that_breaks_ends_when_it_is_forgotten() -> None:
    with serve(endless) as server:
        client = LlamaCppClient(server.endpoint)
        for _ in client.chat_stream("Hi"):
            break
        eventually(lambda: stopped(server))


def test_a_stream_in_a_cycle_ends_when_it_is_collected() -> None:
    with serve(endless) as server:
        client = LlamaCppClient(server.endpoint)
        cycle: List[Any] = [client.chat_stream("Hi")]
        cycle.append(cycle)
        next(cycle[0])
        del cycle
        gc.collect()
        eventually(lambda: stopped(server))


def test_the_connection_of_an_aborted_stream_is_not_used_again() -> None:
    with serve(endless, answering(HELLO)) as server:
        client = LlamaCppClient(server.endpoint)
        close_twice(client.chat_stream("Hi"))
        assert "".join(client.chat_stream("Hi").text()) == "Hello"
    assert [request.connection for request in server.requests] == [0, 1]


def test_closing_before_the_start_sends_nothing() -> None:
    with serve(endless) as server:
        made = LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True)
        made.close()
        assert list(made) == []
        with made:
            assert list(made) == []
        assert list(made.text()) == []
    assert server.requests == []


def test_a_closed_stream_gives_no_more_events() -> None:
    with serve(stalling_after(STREAM_HEAD + chunk(delta("a") + delta("b") + delta("c")))) as server:
        made = LlamaCppClient(server.endpoint).chat_stream("Hi")
        next(made)
        made.close()
        assert list(made) == []


MOMENTS: List[Tuple[str, Callable[[Peer], None]]] = [
    ("unread", lambda peer: peer.stall()),
    ("before the head", stalling_after(b"")),
    ("in the head", stalling_after(STREAM_HEAD[:20])),
    ("before the body", stalling_after(STREAM_HEAD)),
    ("in the body", stalling_after(STREAM_HEAD + chunk(delta("x")))),
    ("in a chunk", stalling_after(STREAM_HEAD + b"ff\r\ndata:")),
    ("before the last chunk", stalling_after(STREAM_HEAD + chunk(delta("x") + DONE))),
    ("while it generates", endless),
]


@pytest.mark.parametrize("entered", [False, True])
@pytest.mark.parametrize("script", [script for _, script in MOMENTS], ids=[name for name, _ in MOMENTS])
def test_another_thread_can_close_a_stream_that_is_being_read(script: Callable[[Peer], None], entered: bool) -> None:
    failures: List[BaseException] = []

    def read(made: ChatStream) -> None:
        try:
            if entered:
                with made:
                    list(made)
            else:
                list(made)
        except BaseException as failure:
            failures.append(failure)

    with serve(script) as server:
        made = LlamaCppClient(server.endpoint, timeout=60).chat_stream("Hi")
        reader = threading.Thread(target=read, args=(made,))
        reader.start()
        eventually(lambda: server.connections == 1)
        time.sleep(0.1)
        made.close()
        reader.join(10)
        assert not reader.is_alive()
        assert failures == []
        eventually(lambda: stopped(server))


def test_a_stream_in_a_tls_handshake_can_be_closed() -> None:
    with serve(lambda peer: peer.stall()) as server:
        made = LlamaCppClient(server.endpoint.replace("http:", "https:"), timeout=60).chat_stream("Hi")
        reader = threading.Thread(target=list, args=(made,))
        reader.start()
        eventually(lambda: server.connections == 1)
        time.sleep(0.1)
        made.close()
        reader.join(10)
        assert not reader.is_alive()
        eventually(lambda: stopped(server))


def test_a_stream_can_be_closed_at_any_moment() -> None:
    """The moments are spread over a whole stream: connecting, head, body, end."""
    body = stream(*[delta("x")] * 20)

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            for start in range(0, len(body), 50):
                peer.send(body[start : start + 50])

    failures: List[BaseException] = []

    def read(made: ChatStream) -> None:
        try:
            with made:
                list(made)
        except BaseException as failure:
            failures.append(failure)

    with serve(script) as server:
        client = LlamaCppClient(server.endpoint, timeout=60)
        for moment in range(200):
            made = client.chat_stream("Hi")
            reader = threading.Thread(target=read, args=(made,))
            reader.start()
            time.sleep(moment * 0.00003)
            made.close()
            reader.join(10)
            assert not reader.is_alive()
        assert failures == []
        assert "".join(client.chat_stream("Hi").text()) == "x" * 20
        client.close()
        del client, made
        gc.collect()
        eventually(lambda: stopped(server))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("name", [name for name, _ in MOMENTS if name != "before the last chunk"])
def test_keyboard_interrupt_ends_the_stream(name: str) -> None:
    with serve(dict(MOMENTS)[name]) as server:
        client = LlamaCppClient(server.endpoint, timeout=60)
        made = client.chat_stream("Hi")
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                list(made)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        eventually(lambda: stopped(server))
        assert list(made) == []


def test_a_program_that_ends_with_an_open_stream_ends_in_silence() -> None:
    program = """
import sys
from flynn import LlamaCppClient
client = LlamaCppClient(sys.argv[1])
stream = client.chat_stream("Hi")
next(stream)
other = client.chat_stream("Hi", resume=True)
next(other)
"""
    with serve(endless) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, server.endpoint]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, "")
        eventually(lambda: stopped(server))


def test_a_stream_that_is_read_slowly_or_not_at_all_outlives_its_client() -> None:
    with serve(answering(HELLO)) as server:
        client = LlamaCppClient(server.endpoint)
        made = client.chat_stream("Hi")
        next(made)
        client.close()
        del client
        assert [event.type for event in made][-1] == "done"


# --- what is left on the server ---------------------------------------------------------------------------------------


def test_a_stream_that_can_be_resumed_is_deleted_at_its_end() -> None:
    with serve(answering(HELLO, response(b"", "204 No Content"))) as server:
        list(LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True))
    post, delete = server.requests
    name = post.headers["x-conversation-id"]
    assert len(name) >= 20
    assert (delete.method, delete.target) == ("DELETE", f"/v1/stream?conv_id={name}")


def test_each_stream_has_a_name_of_its_own() -> None:
    with serve(answering(*[HELLO, response(b"", "204 No Content")] * 2)) as server:
        client = LlamaCppClient(server.endpoint, defaults={"resume": True})
        for _ in range(2):
            list(client.chat_stream("Hi"))
    assert len({request.headers["x-conversation-id"] for request in server.requests if request.method == "POST"}) == 2


def test_a_stream_that_cannot_be_resumed_names_nothing() -> None:
    with serve(answering(HELLO)) as server:
        list(LlamaCppClient(server.endpoint, defaults={"resume": True}).chat_stream("Hi", resume=False))
    assert "x-conversation-id" not in server.requests[0].headers


GUARD = 60.0  # seconds, far above what is expected: it only tells slow from stuck


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
        ended = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, cwd=Path(__file__).parent.parent)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [request.method for request in server.requests] == ["POST", "DELETE"]
