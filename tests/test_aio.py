"""AsyncLlamaCppClient: the same calls, awaited; however a task ends, the server stops and the thread is gone."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import Any, Callable, Iterator, List

import pytest
from llama import LlamaServer, llama_server
from scripted import Peer, answering, delta, error, event, eventually, full_endpoint, response, serve, stream
from trials.crowds import streams_at_once

from flynn import (
    AsyncLlamaCppClient,
    ChatRequest,
    LlamaCppClient,
    Message,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
    StreamInterruptedError,
)

ENDLESS = {"script": {"tokens": 10_000, "pace": 0.005}}
TEN = {"script": {"tokens": 10, "pace": 0.005}}
TEN_TOKENS = "0 1 2 3 4 5 6 7 8 9 "
# Silent for longer than any of these tests may take.
SILENT = {"script": {"tokens": 1, "silent": 60}}


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


@pytest.fixture
def client(server: LlamaServer) -> Iterator[AsyncLlamaCppClient]:
    """A client that must leave nothing: no thread here, no stream and no session on the server."""
    before = set(threading.enumerate())
    yield AsyncLlamaCppClient(server.endpoint)
    eventually(lambda: set(threading.enumerate()) <= before)
    eventually(lambda: server.processing == 0, 2.0)
    eventually(lambda: server.state["sessions"] == 0, 2.0)


async def text_of(stream: Any) -> str:
    return "".join([piece async for piece in stream.text()])


# --- the same calls ---------------------------------------------------------------------------------------------------


def test_the_asynchronous_client_has_the_methods_of_the_synchronous_one() -> None:
    names = {name for name, _ in inspect.getmembers(LlamaCppClient, callable) if not name.startswith("_")}
    assert names == {name for name, _ in inspect.getmembers(AsyncLlamaCppClient, callable) if not name.startswith("_")}


def test_calls_are_awaited(client: AsyncLlamaCppClient) -> None:
    async def call() -> None:
        async with client:
            assert (await client.chat("Hello")).content == "Hello"
            assert (await client.chat(ChatRequest([Message("user", "Hi")]), timeout=5)).content == "Hi"
            assert len(await client.slots()) == 4
            events = [event async for event in client.chat_stream("Hi", extra=TEN)]
            assert events[-1].type == "done"
            assert events[-1].response.content == TEN_TOKENS
            async with client.chat_stream("Hi", extra=TEN) as stream:
                async for _ in stream:
                    pass
            assert (stream.response.content, stream.resumes) == (TEN_TOKENS, 0)
            assert await text_of(client.chat_stream("Hi", extra=TEN)) == TEN_TOKENS

    asyncio.run(call())


def test_entering_a_stream_sends_its_request(client: AsyncLlamaCppClient, server: LlamaServer) -> None:
    async def enter() -> None:
        async with client.chat_stream("Hi", extra=ENDLESS):
            while server.processing == 0:
                await asyncio.sleep(0.01)

    asyncio.run(enter())


def test_nothing_is_sent_before_a_stream_is_entered_or_iterated(
    client: AsyncLlamaCppClient, server: LlamaServer
) -> None:
    before = server.state["streams"]

    async def make() -> None:
        stream = client.chat_stream("Hi", extra=ENDLESS)
        await asyncio.sleep(0.05)
        await stream.close()

    asyncio.run(make())
    assert server.state["streams"] == before


def test_errors_are_raised_where_the_call_is_awaited() -> None:
    broken = b"data: " + error(500, "out of memory", "server_error") + b"\n\n"

    async def call() -> None:
        with serve(
            answering(response(error(400, "no", "bad"), "400 Bad"), stream(delta("a"), delta("b"), broken))
        ) as server:
            client = AsyncLlamaCppClient(server.endpoint)
            with pytest.raises(ServerError, match="^no$"):
                await client.chat("Hi")
            text = []
            with pytest.raises(ServerError, match="^out of memory$"):
                async for event in client.chat_stream("Hi"):
                    text.append(event.text)
            assert text == ["a", "b"]
        with pytest.raises(ServerNotRunningError):
            await client.chat("Hi")
        with pytest.raises(ServerNotRunningError):
            await text_of(client.chat_stream("Hi"))
        with pytest.raises(TypeError, match="max_tokens"):
            await client.chat("Hi", max_token=5)
        with pytest.raises(TypeError, match="max_tokens"):
            client.chat_stream("Hi", max_token=5)

    asyncio.run(call())


def test_a_cut_stream_has_its_partial_response_or_is_resumed(client: AsyncLlamaCppClient) -> None:
    async def read(**options: Any) -> Any:
        stream = client.chat_stream("Hi", extra={"script": {**TEN["script"], "faults": [["cut", 500]]}}, **options)
        return await text_of(stream), stream.resumes

    with pytest.raises(StreamInterruptedError) as caught:
        asyncio.run(read())
    assert caught.value.partial
    assert TEN_TOKENS.startswith(caught.value.partial.content)
    assert asyncio.run(read(resume=True)) == (TEN_TOKENS, 1)


def test_a_silent_server_is_a_timeout(client: AsyncLlamaCppClient) -> None:
    async def call() -> None:
        with pytest.raises(RequestTimeoutError):
            await text_of(client.chat_stream("Hi", timeout=0.2, extra=SILENT))
        with pytest.raises(RequestTimeoutError):
            await client.chat("Hi", timeout=0.2, extra=SILENT)

    asyncio.run(call())


# --- ending -----------------------------------------------------------------------------------------------------------


async def read_on(stream: Any) -> None:
    async for _ in stream:
        pass


async def cancel(stream: Any) -> None:
    task = asyncio.ensure_future(read_on(stream))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_in_block(stream: Any) -> None:
    async def read() -> None:
        async with stream:
            await asyncio.sleep(60)

    task = asyncio.ensure_future(read())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def wait_for(stream: Any) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(read_on(stream), 0.1)


async def close_while_read(stream: Any) -> None:
    task = asyncio.ensure_future(read_on(stream))
    await asyncio.sleep(0.1)
    await stream.close()
    await task


async def leave_the_loop_running_out(stream: Any) -> None:
    """`asyncio.run` cancels the tasks that are still running."""
    task = asyncio.ensure_future(read_on(stream))
    await asyncio.sleep(0.1)
    assert not task.done()


async def enter_and_leave(stream: Any) -> None:
    async with stream:
        await asyncio.sleep(0.1)


async def break_out(stream: Any) -> None:
    async for _ in stream:
        break


async def break_out_of_text(stream: Any) -> None:
    async for _ in stream.text():
        break


async def break_out_and_close(stream: Any) -> None:
    async with stream:
        async for _ in stream:
            break
    await stream.close()


async def raise_out(stream: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with stream:
            async for _ in stream:
                1 / 0  # noqa: B018


async def abandon(stream: Any) -> None:
    generator = stream.text()
    await generator.__anext__()
    cycle = [generator]
    cycle.append(cycle)  # type: ignore[arg-type]


WHENEVER = [cancel, cancel_in_block, wait_for, close_while_read, leave_the_loop_running_out, enter_and_leave]
ONCE_IT_SPEAKS = [break_out, break_out_of_text, break_out_and_close, raise_out, abandon]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("end", "extra"),
    [(end, ENDLESS) for end in WHENEVER + ONCE_IT_SPEAKS] + [(end, SILENT) for end in WHENEVER],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_server_stops_and_the_thread_ends(
    client: AsyncLlamaCppClient, end: Callable[..., Any], extra: Any, resume: bool
) -> None:
    """The fixture `client` checks it."""
    asyncio.run(end(client.chat_stream("Hi", extra=extra, resume=resume, timeout=None)))


@pytest.mark.parametrize("resume", [False, True])
def test_closing_the_event_loop_ends_a_stream_that_is_still_referred_to(
    client: AsyncLlamaCppClient, resume: bool
) -> None:
    stream = client.chat_stream("Hi", extra=ENDLESS, resume=resume)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(stream.__anext__())
    loop.close()  # and the stream is kept


def test_closing_the_event_loop_ends_a_silent_stream_without_references(client: AsyncLlamaCppClient) -> None:
    async def enter() -> None:
        await client.chat_stream("Hi", extra=SILENT).__aenter__()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    loop.close()


@pytest.mark.parametrize("end", [cancel, wait_for, leave_the_loop_running_out])
def test_a_call_is_cancelled_with_its_task(client: AsyncLlamaCppClient, end: Callable[..., Any]) -> None:
    class Reading:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> None:
            await client.chat("Hi", extra=SILENT, timeout=None)

    start = time.monotonic()
    asyncio.run(end(Reading()))
    assert time.monotonic() < start + 10


def test_a_stream_that_waits_for_its_connection_is_cancelled_with_its_task() -> None:
    with full_endpoint() as endpoint:
        before = threading.active_count()
        start = time.monotonic()
        for _ in range(2):
            asyncio.run(wait_for(AsyncLlamaCppClient(endpoint, timeout=None).chat_stream("Hi")))
        assert time.monotonic() < start + 10
        eventually(lambda: threading.active_count() == before)


def test_a_timeout_of_asyncio_is_not_a_timeout_of_flynn(client: AsyncLlamaCppClient) -> None:
    async def call() -> None:
        with pytest.raises(asyncio.TimeoutError) as caught:
            await asyncio.wait_for(client.chat("Hi", extra=SILENT, timeout=None), 0.1)
        assert not isinstance(caught.value, RequestTimeoutError)

    asyncio.run(call())


# --- one client in many places ----------------------------------------------------------------------------------------


def test_one_client_serves_one_event_loop_after_the_other(client: AsyncLlamaCppClient, server: LlamaServer) -> None:
    for _ in range(5):
        assert asyncio.run(text_of(client.chat_stream("Hi", extra=TEN))) == TEN_TOKENS
        assert asyncio.run(asyncio.wait_for(client.chat("Hi"), 10)).content == "Hi"


def test_an_event_loop_reuses_the_connections_of_the_one_before() -> None:
    with serve(answering(*[response(b'{"tokens": [1]}')] * 3)) as server:
        client = AsyncLlamaCppClient(server.endpoint)
        for _ in range(3):
            assert asyncio.run(client.tokenize("Hi")) == [1]
        assert server.connections == 1


def test_one_client_serves_several_event_loops_at_once(client: AsyncLlamaCppClient) -> None:
    outcomes: List[str] = []

    async def read() -> None:
        outcomes.extend(await asyncio.gather(*[text_of(client.chat_stream("Hi", extra=TEN)) for _ in range(5)]))

    threads = [threading.Thread(target=lambda: asyncio.run(read())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [TEN_TOKENS] * 20


def test_256_streams_at_once(server: LlamaServer) -> None:
    assert streams_at_once(server, 256) == 256


def test_streams_and_calls_do_not_use_the_executor(client: AsyncLlamaCppClient) -> None:
    async def read() -> None:
        free = threading.Event()
        loop = asyncio.get_running_loop()
        blockers = [loop.run_in_executor(None, free.wait) for _ in range(200)]
        try:
            assert await text_of(client.chat_stream("Hi", extra=TEN)) == TEN_TOKENS
            assert (await client.chat("Hi")).content == "Hi"
            assert not any(blocker.done() for blocker in blockers)
        finally:
            free.set()
            await asyncio.gather(*blockers)

    asyncio.run(read())


def test_the_event_loop_runs_on_during_a_call(client: AsyncLlamaCppClient) -> None:
    async def read() -> int:
        ticks = 0
        task = asyncio.ensure_future(client.chat("Hi", extra={"script": {"silent": 0.5}}))
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(read()) > 10


def test_a_slow_consumer_slows_the_server() -> None:
    sent = 0
    piece = event({"choices": [{"index": 0, "delta": {"content": "x"}, "padding": "x" * 1000}]})

    def endless(peer: Peer) -> None:
        nonlocal sent
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            peer.send(piece)
            sent += 1

    async def read() -> None:
        async with AsyncLlamaCppClient(server.endpoint).chat_stream("Hi") as stream:
            await stream.__anext__()
            before = -1
            while sent != before:  # until the kernel's buffers are full
                before = sent
                await asyncio.sleep(0.2)
            # Not much more than one block and the buffer hold; the rest waits on the server.
            assert len(stream.response.content) < 600 < sent

    with serve(endless) as server:
        asyncio.run(read())


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_a_real_server_stops_when_the_task_is_cancelled(real_server: Any, resume: bool) -> None:
    async def read() -> None:
        async with AsyncLlamaCppClient(real_server.endpoint) as client:
            stream = client.chat_stream("Tell a very long story.", max_tokens=900, resume=resume)
            task = asyncio.ensure_future(read_on(stream))
            while not stream.response.content:
                await asyncio.sleep(0.01)
            assert any(slot.is_processing for slot in await client.slots())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while any(slot.is_processing for slot in await client.slots()):
                # It takes a fraction of a second, but how many tokens that is depends on what else the machine does.
                (slot,) = [slot for slot in await client.slots() if slot.is_processing] or [None]
                assert slot is None or slot.raw["next_token"][0]["n_decoded"] < 800
                await asyncio.sleep(0.2)

    asyncio.run(read())
