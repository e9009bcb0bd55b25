"""Signals during a call: what a handler raises ends the call at once, and reaches the program unchanged."""

from __future__ import annotations

import functools
import signal
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import pytest
from scripted import STREAM_HEAD, Peer, chunk, delta, full_endpoint, head, serve, stalling

from flynn import LlamaCppClient

GUARD = 60.0  # seconds, far above what is expected: it only tells slow from stuck


@contextmanager
def handling(number: int, handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def alarm(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Send SIGALRM to this process in 0.3 seconds."""
    with handling(signal.SIGALRM, handler):
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_signal_that_interrupts_no_wait_is_handled_soon() -> None:
    """Like one that arrives just before the wait. Here the system delivers it to a thread that never handles it."""

    class Handled(BaseException):  # like KeyboardInterrupt
        pass

    def handle(number: int, frame: object) -> None:
        raise Handled

    def send() -> None:
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    with handling(signal.SIGUSR1, handle), serve(stalling()) as server:
        start = time.monotonic()
        threading.Thread(target=send).start()
        with pytest.raises(Handled):
            LlamaCppClient(server.endpoint, timeout=None).chat("Hi")
        assert time.monotonic() < start + 10


class Alarm(Exception):
    pass


@pytest.mark.parametrize("kind", [Alarm, TimeoutError, OSError, ConnectionResetError])
@pytest.mark.parametrize("moment", ["connecting", "handshake", "request", "head", "body", "stream"])
def test_an_exception_of_a_handler_is_raised_unchanged_at_any_moment_of_a_call(moment: str, kind: type) -> None:
    """Whatever its class: a program with a time limit of its own must learn of it."""

    def handler(number: int, frame: object) -> None:
        raise kind("of the handler")

    def script(peer: Peer) -> None:
        if moment not in ("handshake", "request") and peer.request().method == "DELETE":
            peer.send(head(status="204 No Content"))
        elif moment == "body":
            peer.send(head("Content-Type: application/json", "Content-Length: 10") + b"[")
        elif moment == "stream":
            peer.send(STREAM_HEAD + chunk(delta("x")))
        peer.client_closes(GUARD)

    with serve(script) as server, full_endpoint() as unanswering:
        endpoint = {"connecting": unanswering, "handshake": server.endpoint.replace("http:", "https:")}
        prompt = "Hi" * 20_000_000 if moment == "request" else "Hi"  # more than buffers hold
        client = LlamaCppClient(endpoint.get(moment, server.endpoint), timeout=GUARD)
        with client, alarm(handler), pytest.raises(kind) as caught:
            list(client.chat_stream(prompt, resume=True)) if moment == "stream" else client.chat(prompt)
        assert (type(caught.value), str(caught.value)) == (kind, "of the handler")


class Handler:
    def __call__(self, number: int, frame: object) -> None:
        raise TimeoutError("of the handler")

    def method(self, number: int, frame: object) -> None:
        raise TimeoutError("of the handler")


def function(text: str, number: int, frame: object) -> None:
    raise TimeoutError(text)


@pytest.mark.parametrize("handler", [Handler(), Handler().method, functools.partial(function, "of the handler")])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_handler_may_be_any_callable(handler: Any, streamed: bool) -> None:
    with serve(stalling(STREAM_HEAD + chunk(delta("x")) if streamed else b"")) as server:
        client = LlamaCppClient(server.endpoint, timeout=GUARD)
        with alarm(handler), pytest.raises(TimeoutError, match="^of the handler$"):
            list(client.chat_stream("Hi")) if streamed else client.chat("Hi")
