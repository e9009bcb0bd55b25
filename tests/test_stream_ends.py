"""How streams end: closed, dropped or interrupted, at any moment and from any thread; what a fork leaves alone."""

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
    serve,
    stalling,
    stream,
)

from flynn import LlamaCppClient
from flynn.models.local.stream import ChatStream

HELLO = stream(delta("Hel"), delta("lo"), delta(finish_reason="stop"))
GUARD = 60.0  # seconds, far above what is expected: it only tells slow from stuck


def endless(peer: Peer) -> None:
    """Generates until the client goes."""
    peer.request()
    peer.send(STREAM_HEAD)
    while True:
        peer.send(chunk(delta("x")))
        time.sleep(0.005)


def stopped(server: ScriptedServer) -> bool:
    return server.closed == server.connections


def leave_the_block(answer: ChatStream) -> None:
    with answer:
        next(answer)


def break_the_loop(answer: ChatStream) -> None:
    with answer:
        for _ in answer:
            break


def drop_the_text(answer: ChatStream) -> None:
    text = answer.text()
    next(text)
    del text


def raise_in_the_block(answer: ChatStream) -> None:
    with pytest.raises(KeyError), answer:
        raise KeyError(next(answer))


def close_twice(answer: ChatStream) -> None:
    next(answer)
    answer.close()
    answer.close()


def close_unread(answer: ChatStream) -> None:
    with answer:
        pass


@pytest.mark.parametrize(
    "end", [leave_the_block, break_the_loop, drop_the_text, raise_in_the_block, close_twice, close_unread, next]
)
def test_ending_a_stream_ends_its_connection(end: Callable[[ChatStream], Any]) -> None:
    """`next` only drops the stream: nothing refers to it afterwards."""
    with serve(endless) as server:
        client = LlamaCppClient(server.endpoint)
        end(client.chat_stream("Hi"))
        assert len(server.requests) == 1
        eventually(lambda: stopped(server))


def test_a_stream_that_a_loop_breaks_out_of_ends_when_it_is_dropped() -> None:
    with serve(endless) as server:
        client = LlamaCppClient(server.endpoint)
        for _ in client.chat_stream("Hi"):
            break
        eventually(lambda: stopped(server))


def test_a_stream_in_a_reference_cycle_ends_when_it_is_collected() -> None:
    with serve(endless) as server:
        client = LlamaCppClient(server.endpoint)
        cycle: List[Any] = [client.chat_stream("Hi")]
        cycle.append(cycle)
        next(cycle[0])
        del cycle
        gc.collect()
        eventually(lambda: stopped(server))


def test_the_connection_of_a_closed_stream_is_not_reused() -> None:
    with serve(endless, answering(HELLO)) as server:
        client = LlamaCppClient(server.endpoint)
        close_twice(client.chat_stream("Hi"))
        assert "".join(client.chat_stream("Hi").text()) == "Hello"
    assert [request.connection for request in server.requests] == [0, 1]


def test_a_stream_closed_before_it_starts_sends_nothing() -> None:
    with serve(endless) as server:
        answer = LlamaCppClient(server.endpoint).chat_stream("Hi", resume=True)
        answer.close()
        assert list(answer) == []
        with answer:
            assert list(answer) == []
        assert list(answer.text()) == []
    assert server.requests == []


def test_a_closed_stream_yields_no_more_events() -> None:
    with serve(stalling(STREAM_HEAD + chunk(delta("a") + delta("b") + delta("c")))) as server:
        answer = LlamaCppClient(server.endpoint).chat_stream("Hi")
        next(answer)
        answer.close()
        assert list(answer) == []


def reading(answer: ChatStream, failures: List[BaseException], entered: bool = True) -> threading.Thread:
    """Start a thread that reads the stream to its end."""

    def read() -> None:
        try:
            if entered:
                with answer:
                    list(answer)
            else:
                list(answer)
        except BaseException as failure:
            failures.append(failure)

    reader = threading.Thread(target=read)
    reader.start()
    return reader


MOMENTS: List[Tuple[str, Callable[[Peer], None]]] = [
    ("unread", lambda peer: peer.stall()),
    ("before the head", stalling(b"")),
    ("in the head", stalling(STREAM_HEAD[:20])),
    ("before the body", stalling(STREAM_HEAD)),
    ("in the body", stalling(STREAM_HEAD + chunk(delta("x")))),
    ("in a chunk", stalling(STREAM_HEAD + b"ff\r\ndata:")),
    ("before the last chunk", stalling(STREAM_HEAD + chunk(delta("x") + DONE))),
    ("while it generates", endless),
]


@pytest.mark.parametrize("entered", [False, True])
@pytest.mark.parametrize("script", [script for _, script in MOMENTS], ids=[name for name, _ in MOMENTS])
def test_another_thread_can_close_a_stream_that_is_being_read(script: Callable[[Peer], None], entered: bool) -> None:
    failures: List[BaseException] = []
    with serve(script) as server:
        answer = LlamaCppClient(server.endpoint, timeout=60).chat_stream("Hi")
        reader = reading(answer, failures, entered)
        eventually(lambda: server.connections == 1)
        time.sleep(0.1)
        answer.close()
        reader.join(10)
        assert not reader.is_alive()
        assert failures == []
        eventually(lambda: stopped(server))


def test_a_stream_in_a_tls_handshake_can_be_closed() -> None:
    with serve(lambda peer: peer.stall()) as server:
        answer = LlamaCppClient(server.endpoint.replace("http:", "https:"), timeout=60).chat_stream("Hi")
        reader = threading.Thread(target=list, args=(answer,))
        reader.start()
        eventually(lambda: server.connections == 1)
        time.sleep(0.1)
        answer.close()
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
    with serve(script) as server:
        client = LlamaCppClient(server.endpoint, timeout=60)
        for moment in range(200):
            answer = client.chat_stream("Hi")
            reader = reading(answer, failures)
            time.sleep(moment * 0.00003)
            answer.close()
            reader.join(10)
            assert not reader.is_alive()
        assert failures == []
        assert "".join(client.chat_stream("Hi").text()) == "x" * 20
        client.close()
        del client, answer
        gc.collect()
        eventually(lambda: stopped(server))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("name", [name for name, _ in MOMENTS if name != "before the last chunk"])
def test_keyboard_interrupt_ends_the_stream(name: str) -> None:
    with serve(dict(MOMENTS)[name]) as server:
        client = LlamaCppClient(server.endpoint, timeout=60)
        answer = client.chat_stream("Hi")
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                list(answer)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        eventually(lambda: stopped(server))
        assert list(answer) == []


def test_a_program_that_ends_with_an_open_stream_prints_nothing() -> None:
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


def test_a_stream_outlives_its_client() -> None:
    with serve(answering(HELLO)) as server:
        client = LlamaCppClient(server.endpoint)
        answer = client.chat_stream("Hi")
        next(answer)
        client.close()
        del client
        assert [event.type for event in answer][-1] == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()", "del stream; sys.exit()", "stream.close(); sys.exit()"])
def test_a_forked_child_that_ends_leaves_the_stream_of_its_parent_alone(end: str) -> None:
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
        peer.send(chunk(delta("b") + DONE) + LAST_CHUNK)

    with serve(script, lambda peer: (peer.request(), peer.send(head(status="204 No Content")))) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, server.endpoint]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, cwd=Path(__file__).parent.parent)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [request.method for request in server.requests] == ["POST", "DELETE"]
