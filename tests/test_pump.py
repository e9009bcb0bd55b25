"""Streams that wait are read by one thread; whatever else happens to them, each has a thread of its own for it."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import threading
import time
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from scripted import DONE, LAST_CHUNK, STREAM_HEAD, Peer, chunk, delta, error, event, eventually, response, serve

from flynn import AsyncLlamaCppClient, ProtocolError, RequestTimeoutError, ServerError, StreamInterruptedError

END = chunk(DONE) + LAST_CHUNK


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    yield
    eventually(lambda: set(threading.enumerate()) <= threads)
    gc.collect()  # an exception and its traceback may refer to each other, and to a client
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def iterator_threads() -> int:
    return sum(thread.name == "flynn-iterator" for thread in threading.enumerate())


def in_steps(*steps: bytes, pause: float = 0.05) -> Callable[[Peer], None]:
    """A script that sends the head and the first step at once, and the others one by one."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD)
        for step in steps:
            peer.send(step)
            time.sleep(pause)

    return script


async def read(client: AsyncLlamaCppClient, **options: Any) -> Tuple[List[str], Any]:
    """The pieces that came, and how it ended."""
    pieces: List[str] = []
    try:
        async with client.chat_stream("Hi", **options) as stream:
            async for piece in stream:
                if piece.type == "content":
                    pieces.append(piece.text)
    except Exception as error:
        return pieces, error
    return pieces, stream.response.content


def test_streams_that_wait_share_one_thread() -> None:
    everybody_waits = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD + chunk(delta("a")))
        everybody_waits.wait(20)
        for text in "bcd":
            peer.send(chunk(delta(text)))
            time.sleep(0.02)
        peer.send(chunk(delta("e")) + END)

    async def main() -> List[Any]:
        async with AsyncLlamaCppClient(server.endpoint) as client:
            tasks = [asyncio.ensure_future(read(client)) for _ in range(30)]
            while len(server.requests) < 30 or iterator_threads() > 1:
                await asyncio.sleep(0.01)
            everybody_waits.set()
            return await asyncio.gather(*tasks)

    with serve(script) as server:
        for pieces, response in asyncio.run(main()):
            assert pieces == list("abcde")
            assert response == "abcde"


def test_one_stream_needs_one_thread_from_its_beginning_to_its_end() -> None:
    seen: List[threading.Thread] = []

    async def main() -> None:
        async with AsyncLlamaCppClient(server.endpoint).chat_stream("Hi") as stream:
            async for _ in stream:
                seen.extend(thread for thread in threading.enumerate() if thread.name == "flynn-iterator")

    with serve(in_steps(chunk(delta("a")), chunk(delta("b")), chunk(delta("c")), END)) as server:
        asyncio.run(main())
    assert len(set(seen)) == 1


@pytest.mark.parametrize("size", [1, 7, 50])
def test_chunks_and_events_may_come_in_pieces(size: int) -> None:
    data = chunk(delta("a")) + chunk(delta("\n")) + chunk(b": ping\n\n") + chunk(delta("c")) + END
    steps = [data[start : start + size] for start in range(0, len(data), size)]
    with serve(in_steps(*steps, pause=0.002)) as server:
        assert asyncio.run(read(AsyncLlamaCppClient(server.endpoint))) == (["a", "\n", "c"], "a\nc")


def test_more_than_the_buffer_holds_comes_in_order() -> None:
    texts = [str(number) for number in range(3000)]
    steps = [b"".join(chunk(delta(text)) for text in texts[start : start + 500]) for start in range(0, 3000, 500)]

    async def main() -> List[str]:
        pieces = []
        async for piece in AsyncLlamaCppClient(server.endpoint).chat_stream("Hi"):
            if piece.type == "content":
                pieces.append(piece.text)
                if not len(pieces) % 100:
                    await asyncio.sleep(0.005)  # slower than they come
        return pieces

    with serve(in_steps(*steps, END, pause=0.01)) as server:
        assert asyncio.run(main()) == texts


def test_silence_ends_a_stream_and_pings_are_none() -> None:
    pings = [chunk(b": ping\n\n")] * 8

    def script(peer: Peer) -> None:
        in_steps(chunk(delta("a")), chunk(delta("b")), *pings, chunk(delta("c")), pause=0.15)(peer)
        peer.stall()

    with serve(script) as server:
        started = time.monotonic()
        pieces, ended = asyncio.run(read(AsyncLlamaCppClient(server.endpoint), timeout=0.5))
        assert (pieces, type(ended)) == (["a", "b", "c"], RequestTimeoutError)
        assert time.monotonic() > started + 1.5


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (b"", StreamInterruptedError),
        (chunk(event({"error": {"message": "no", "code": 500, "type": "server_error"}})), ServerError),
        (chunk(b"data: nonsense\n\n"), ProtocolError),
        (b"nonsense\r\n", ProtocolError),
    ],
)
def test_what_goes_wrong_is_raised_after_what_came_before(last: bytes, kind: type) -> None:
    with serve(in_steps(chunk(delta("a")), chunk(delta("b")), chunk(delta("c")) + last)) as server:
        pieces, ended = asyncio.run(read(AsyncLlamaCppClient(server.endpoint)))
        assert type(ended) is kind
        assert pieces == ["a", "b", "c"] or (kind is ProtocolError and pieces == ["a", "b"])


def test_a_reset_is_a_cut() -> None:
    def script(peer: Peer) -> None:
        in_steps(chunk(delta("a")), chunk(delta("b")))(peer)
        peer.reset()

    with serve(script) as server:
        pieces, ended = asyncio.run(read(AsyncLlamaCppClient(server.endpoint)))
        assert (pieces, type(ended)) == (["a", "b"], StreamInterruptedError)
        assert ended.partial.content == "ab"


def test_a_stream_that_is_cut_goes_on_in_a_thread_of_its_own_and_then_waits_again() -> None:
    taken = len(delta("a") + delta("b"))

    def again(peer: Peer) -> None:
        assert peer.request().target.endswith(f"&from={taken}")
        peer.send(STREAM_HEAD)
        for text in "cd":
            peer.send(chunk(delta(text)))
            time.sleep(0.05)
        peer.send(END)
        peer.request()  # the session is deleted
        peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    with serve(in_steps(chunk(delta("a")), chunk(delta("b"))), again) as server:
        assert asyncio.run(read(AsyncLlamaCppClient(server.endpoint), resume=True)) == (list("abcd"), "abcd")
    assert [request.method for request in server.requests] == ["POST", "GET", "DELETE"]


def test_loops_in_several_threads_share_the_thread_too() -> None:
    results: List[Any] = []
    with serve(in_steps(*(chunk(delta(text)) for text in "abcdef"), END)) as server:

        def loop() -> None:
            results.append(asyncio.run(read(AsyncLlamaCppClient(server.endpoint))))

        threads = [threading.Thread(target=loop) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert results == [(list("abcdef"), "abcdef")] * 8


def test_a_loop_that_is_closed_leaves_the_others_alone() -> None:
    def endless(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD)
        while True:
            peer.send(chunk(delta("x")))
            time.sleep(0.01)

    abandoned = []

    async def begin(client: AsyncLlamaCppClient) -> None:
        stream = client.chat_stream("Hi")
        abandoned.append(stream)
        for _ in range(3):
            await stream.__anext__()

    with serve(endless, in_steps(*(chunk(delta(text)) for text in "abcdef"), END)) as server:
        client = AsyncLlamaCppClient(server.endpoint)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin(client))
        loop.close()
        assert asyncio.run(read(client)) == (list("abcdef"), "abcdef")
        eventually(lambda: server.left >= 1)  # the first stream's connection is closed, though it is still referred to


def test_a_forked_child_has_a_thread_of_its_own() -> None:
    async def main() -> None:
        client = AsyncLlamaCppClient(server.endpoint)
        stream = client.chat_stream("Hi")
        await stream.__anext__()
        await stream.__anext__()
        child = os.fork()
        if not child:
            try:
                loop = asyncio.new_event_loop()
                asyncio.events._set_running_loop(None)
                ended = loop.run_until_complete(asyncio.wait_for(read(AsyncLlamaCppClient(server.endpoint)), 10))
                os._exit(0 if ended == (list("abcdef"), "abcdef") else 1)
            finally:
                os._exit(2)
        status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status[1]) == 0
        assert "".join([piece.text async for piece in stream if piece.type == "content"]) == "cdef"

    with serve(in_steps(*(chunk(delta(text)) for text in "abcdef"), END, pause=0.1)) as server:
        asyncio.run(main())


def test_tls_keeps_its_thread(tls_server: Tuple[str, ssl.SSLContext]) -> None:
    endpoint, context = tls_server

    async def main() -> str:
        async with AsyncLlamaCppClient(endpoint, ssl_context=context) as client:
            return "".join([text async for text in client.chat_stream("Hi", max_tokens=5).text()])

    assert asyncio.run(main())


def test_errors_of_the_server_before_a_stream_begins_are_raised() -> None:
    body = error(400, "no", "invalid_request_error")

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response(body, "400 Bad Request"))

    with serve(script) as server:
        pieces, ended = asyncio.run(read(AsyncLlamaCppClient(server.endpoint)))
        assert (pieces, type(ended), str(ended)) == ([], ServerError, "no")
