"""Trials of any size: a small one is a test, a large one is part of `make stress`.

Each raises AssertionError, or returns what it counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterable, List, Tuple

import mutations
from llama import STREAMS, LlamaServer, events_of
from scripted import LAST_CHUNK, STREAM_HEAD, chunk, eventually

from flynn import (
    AsyncLlamaCppClient,
    ConnectionLostError,
    FlynnError,
    LlamaCppClient,
    RequestTimeoutError,
    ServerError,
    StreamInterruptedError,
)
from flynn.models.local import server as routes
from flynn.models.local.decode import ChatStreamDecoder, decode_chat, decode_error, decode_json
from flynn.models.local.sse import SSEDecoder

Run = Callable[[Any], Any]  # of a coroutine, in an event loop of its own

GUARD = 120.0  # seconds after which something hangs


# --- a cut at every byte ----------------------------------------------------------------------------------------------


def what_was_said(body: bytes) -> List[Tuple[str, str, List[List[str]]]]:
    """Of each choice its text, its reasoning and its tool calls, by no code of Flynn's."""
    choices: Dict[int, Tuple[List[str], List[str], Dict[int, List[str]]]] = {}
    for event in events_of(body):
        data = event[len(b"data: ") :].strip()
        for item in json.loads(data)["choices"] if data != b"[DONE]" else ():
            texts, thoughts, calls = choices.setdefault(item["index"], ([], [], {}))
            texts.append(item["delta"].get("content") or "")
            thoughts.append(item["delta"].get("reasoning_content") or "")
            for call in item["delta"].get("tool_calls", ()):
                made = calls.setdefault(call["index"], ["", "", ""])
                pieces = (call.get("id", ""), call["function"].get("name", ""), call["function"]["arguments"])
                made[:] = [so_far + piece for so_far, piece in zip(made, pieces)]
    return [
        ("".join(texts), "".join(thoughts), [calls[number] for number in sorted(calls)])
        for _, (texts, thoughts, calls) in sorted(choices.items())
    ] or [("", "", [])]


def said(response: Any) -> List[Tuple[str, str, List[List[str]]]]:
    """The same, out of a ChatResponse."""
    return [
        (
            choice.message.content,
            choice.message.reasoning or "",
            [[call.id, call.name, call.arguments] for call in choice.message.tool_calls],
        )
        for choice in response.choices
    ]


def on_the_wire(stream: str) -> List[int]:
    """How many bytes of a recorded stream's body are in the first 0, 1, 2, … bytes of the response that carries it."""
    lengths = [0] * len(STREAM_HEAD)
    so_far = 0
    for event in events_of(STREAMS[stream]):
        before = len(chunk(event)) - len(event) - len(b"\r\n")
        lengths += [so_far] * before
        lengths += range(so_far, so_far + len(event))
        so_far += len(event)
        lengths += [so_far] * len(b"\r\n")
    return lengths + [so_far] * (len(LAST_CHUNK) + 1)


def cut_everywhere(server: LlamaServer, stream: str, how: str, *, resume: bool, step: int = 1, first: int = 0) -> int:
    """Cut a recorded stream after every `step`-th byte of its response; how many cuts that were."""
    lengths = on_the_wire(stream)
    done = len(STREAMS[stream])
    offsets = range(first, len(lengths) - 1, step)
    with LlamaCppClient(server.endpoint, timeout=GUARD) as client:
        whole = list(client.chat_stream("Hi", extra={"script": {"stream": stream}}))
        assert said(whole[-1].response) == what_was_said(STREAMS[stream])
        for offset in offsets:
            script = {"stream": stream, "faults": [["cut", offset, how]]}
            came = client.chat_stream("Hi", resume=resume, extra={"script": script})
            events = []
            place = f"{stream} cut with {how} after {offset} bytes"
            try:
                for event in came:
                    events.append(event)
            except StreamInterruptedError as error:
                assert not resume, f"{place}: {error!r}"
                assert error.partial is not None
                assert came.resumes == 0
                assert events == whole[: len(events)], place
                assert len(events) < len(whole), place
                possible = [lengths[offset]] if how == "fin" else lengths[: offset + 1]  # a RST overtakes what was sent
                assert any(said(error.partial) == what_was_said(STREAMS[stream][:n]) for n in possible[::-1]), place
            else:
                assert events == whole, place
                # All of the stream may have come before the cut.
                assert came.resumes == (lengths[offset] < done) or (how == "rst" and came.resumes == 1), place
                assert resume or lengths[offset] == done, place
    return len(offsets)


# --- streams that are cancelled ---------------------------------------------------------------------------------------


class Resources:
    """What this process holds: threads, file descriptors, objects of Flynn's classes, and bytes of memory.

    `Resources()` once, then `settle()`: waits until no more is held than then, and returns how much memory has grown.
    """

    def __init__(self) -> None:
        gc.collect()
        self.threads = set(threading.enumerate())
        self.descriptors = self._descriptors()
        self.objects = self._objects()
        self.memory = self._memory()

    def settle(self, idle: int = 0) -> int:
        """Args: `idle` connections may be kept."""
        gc.collect()
        eventually(lambda: set(threading.enumerate()) <= self.threads)
        eventually(lambda: self._descriptors() <= self.descriptors + idle)
        more = self._objects() - self.objects
        assert more <= 50 + 10 * idle, f"{more} more objects than before"
        return self._memory() - self.memory

    @staticmethod
    def _descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    @staticmethod
    def _objects() -> int:
        return sum(str(type(thing).__module__).startswith("flynn") for thing in gc.get_objects())

    @staticmethod
    def _memory() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Two seconds or more, unless it is cancelled; the first token may take a while.
_LONG = {"tokens": 400, "pace": 0.005}


def _some_stream(random_: random.Random) -> Dict[str, Any]:
    script = {**_LONG, "silent": random_.choice((0.0, 0.0, 0.1))}
    if random_.random() < 0.2:
        script["faults"] = [["cut", random_.randrange(3000), random_.choice(("fin", "rst"))]]
    return {"resume": random_.random() < 0.5, "extra": {"script": script}}


def _expect_nothing_left(server: LlamaServer) -> None:
    eventually(lambda: server.processing == 0)
    eventually(lambda: server.state["sessions"] == 0)


def cancel_streams(server: LlamaServer, count: int, *, seed: int = 1, threads: int = 16) -> Dict[str, int]:
    """Stop streams at random moments, in every way there is, some of them cut meanwhile."""

    def close_from_elsewhere(stream: Any, after: float) -> None:
        timer = threading.Timer(after, stream.close)
        timer.start()
        for _ in stream:
            pass
        timer.join()

    def break_out(stream: Any, after: float) -> None:
        until = time.monotonic() + after
        for _ in stream:
            if time.monotonic() > until:
                break

    def leave_the_block(stream: Any, after: float) -> None:
        with stream:
            break_out(stream, after)

    def raise_in_the_block(stream: Any, after: float) -> None:
        with contextlib.suppress(ZeroDivisionError), stream:
            break_out(stream, after)
            1 / 0  # noqa: B018

    def leave_the_text(stream: Any, after: float) -> None:
        break_out(stream.text(), after)

    ways = [close_from_elsewhere, break_out, leave_the_block, raise_in_the_block, leave_the_text]
    counts = {"cancelled": 0, "ended": 0, "cut": 0}

    def cancel(number: int) -> None:
        random_ = random.Random(f"{seed} {number}")
        stream = client.chat_stream("Hi", **_some_stream(random_))
        way = random_.choice(ways)
        try:
            way(stream, random_.random() * 0.4)
            outcome = "ended" if stream.response.finish_reason else "cancelled"
        except StreamInterruptedError:
            outcome = "cut"
        with lock:
            counts[outcome] += 1

    lock = threading.Lock()
    before = Resources()
    with LlamaCppClient(server.endpoint, timeout=GUARD) as client:
        for part in (count // 5, count - count // 5):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(cancel, range(part)))
            grown = before.settle(idle=32)
            _expect_nothing_left(server)
            if part == count // 5:
                before.memory += grown  # what the first ones have warmed up
    assert sum(counts.values()) == count
    before.settle()
    return {**counts, "memory": grown}


def cancel_streams_async(
    server: LlamaServer, count: int, *, seed: int = 1, at_once: int = 64, run: Run = asyncio.run
) -> Dict[str, int]:
    """The same in event loops."""

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    async def cancel_the_task(stream: Any, after: float) -> None:
        task = asyncio.ensure_future(read(stream))
        await asyncio.sleep(after)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def wait_for(stream: Any, after: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(stream), after)

    async def break_out(stream: Any, after: float) -> None:
        until = time.monotonic() + after
        async for _ in stream:
            if time.monotonic() > until:
                break

    async def leave_the_block(stream: Any, after: float) -> None:
        async with stream:
            await break_out(stream, after)

    async def leave_the_text(stream: Any, after: float) -> None:
        await break_out(stream.text(), after)

    ways = [cancel_the_task, wait_for, break_out, leave_the_block, leave_the_text]
    counts = {"cancelled": 0, "ended": 0, "cut": 0}

    async def cancel(number: int) -> None:
        random_ = random.Random(f"{seed} {number}")
        async with slots:
            stream = client.chat_stream("Hi", **_some_stream(random_))
            try:
                await random_.choice(ways)(stream, random_.random() * 0.4)
                counts["ended" if stream.response.finish_reason else "cancelled"] += 1
            except StreamInterruptedError:
                counts["cut"] += 1

    async def cancel_all(numbers: Iterable[int]) -> None:
        nonlocal slots
        slots = asyncio.Semaphore(at_once)
        await asyncio.gather(*[cancel(number) for number in numbers])

    slots: asyncio.Semaphore
    run(asyncio.sleep(0))  # what an event loop keeps for the next one is not ours
    before = Resources()
    client = AsyncLlamaCppClient(server.endpoint, timeout=GUARD)
    for part in (count // 5, count - count // 5):
        run(cancel_all(range(part)))
        grown = before.settle(idle=32)
        _expect_nothing_left(server)
        if part == count // 5:
            before.memory += grown
    assert sum(counts.values()) == count
    run(client.close())
    before.settle()
    return {**counts, "memory": grown}


# --- many at once -----------------------------------------------------------------------------------------------------


def streams_at_once(server: LlamaServer, count: int, *, run: Run = asyncio.run) -> int:
    """Streams in one event loop that are all under way at the same time; how many the server saw at once."""
    script = {"tokens": 10, "pace": 0.01, "together": count}
    expected = "".join(f"{number} " for number in range(10))

    async def read(client: AsyncLlamaCppClient) -> str:
        return "".join([piece async for piece in client.chat_stream("Hi", extra={"script": script}).text()])

    async def read_all() -> List[str]:
        async with AsyncLlamaCppClient(server.endpoint, timeout=GUARD) as client:
            return list(await asyncio.gather(*[read(client) for _ in range(count)]))

    run(asyncio.sleep(0))
    before = Resources()
    assert server.state["generating"] == 0
    assert run(read_all()) == [expected] * count
    before.settle()
    return server.state["most"]


def share_a_client(server: LlamaServer, calls: int, *, seed: int = 1, threads: int = 32) -> Dict[str, int]:
    """Calls of many threads through one client, while the server closes connections at random."""
    counts = {"replies": 0, "lost": 0}
    lock = threading.Lock()

    def call(number: int) -> None:
        random_ = random.Random(f"{seed} {number}")
        script: Dict[str, Any] = {"close": random_.choice(("after", "before", None, None))}
        if random_.random() < 0.1:
            script["faults"] = [["cut", random_.randrange(150), random_.choice(("fin", "rst"))]]
        question = f"{seed} {number} {random_.random()}"
        try:
            assert client.chat(question, extra={"script": script}).content == question
            outcome = "replies"
        except ConnectionLostError:
            assert "faults" in script
            outcome = "lost"
        with lock:
            counts[outcome] += 1

    before = Resources()
    with LlamaCppClient(server.endpoint, timeout=GUARD) as client, ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(calls)))
    before.settle()
    return counts


# --- mutated responses ------------------------------------------------------------------------------------------------


def _expect_types(response: Any) -> None:
    """That a response is what its annotations say, whatever the server sent."""
    for choice in response.choices:
        assert isinstance(choice.message.content, str)
        assert isinstance(choice.message.reasoning, (str, type(None)))
        assert isinstance(choice.finish_reason, (str, type(None)))
        for call in choice.message.tool_calls:
            assert isinstance(call.id + call.name + call.arguments, str)
    assert isinstance(response.id + response.model, str)
    if response.usage:
        assert isinstance(response.usage.total_tokens + response.usage.cached_tokens, int)
    repr(response)


def fuzz_decoders(seed: object, count: int) -> Dict[str, int]:
    """Give mutated streams and replies to the decoders; how many they took, and how many they refused as documented."""
    outcomes = {"taken": 0, "refused": 0}
    for number in range(count):
        random_ = random.Random(f"{seed} {number}")
        try:
            if number % 2:
                _decode_stream(random_, mutations.of_stream(random_, random_.choice(mutations.STREAMS)))
            else:
                _decode_reply(mutations.of_reply(random_))
            outcomes["taken"] += 1
        except FlynnError as error:
            assert len(str(error)) < 6000  # an error is in the server's own words, which may be many
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed!r}, number {number}: {error!r}") from error
    return outcomes


def _decode_stream(random_: random.Random, body: bytes) -> None:
    lines, decoder = SSEDecoder(), ChatStreamDecoder(progress=True)
    size = random_.choice((1, *[30, 300, 3000, 100_000] * 5))
    try:
        for at in range(0, len(body), size):
            for data in lines.feed(body[at : at + size]):
                for event in decoder.feed(data) if data else ():
                    repr(event)
    finally:
        _expect_types(decoder.response())


def _decode_reply(data: bytes) -> None:
    decode_error(None, data)
    _expect_types_of_error(decode_error(400, data))
    value = decode_json(data)
    refusals: List[FlynnError] = []
    for decode in _OF_VALUES:
        try:
            repr(decode(value))
        except FlynnError as error:
            refusals.append(error)
    try:
        _expect_types(decode_chat(data))
    except FlynnError as error:
        if len(refusals) == len(_OF_VALUES):
            raise error


def _expect_types_of_error(error: ServerError) -> None:
    assert isinstance(str(error) + error.body, str)
    assert isinstance(error.type, (str, type(None)))
    assert error.status == 400


_OF_VALUES: List[Callable[[Any], object]] = [
    getattr(routes, name) for name in sorted(vars(routes)) if name.startswith("decode_")
]


def fuzz_client(server: LlamaServer, seed: object, count: int) -> Dict[str, int]:
    """Give mutated responses to a client; now and then a good one, that must be taken for what it is."""
    outcomes = {"taken": 0, "refused": 0}
    with LlamaCppClient(server.endpoint, timeout=GUARD) as client:
        for number in range(count):
            extra = {"script": {"mutated": [str(seed), number]}}
            try:
                if number % 2:
                    _expect_types(client.chat("Hi", extra=extra))
                else:
                    for event in client.chat_stream("Hi", extra=extra):
                        repr(event)
                outcomes["taken"] += 1
            except RequestTimeoutError as error:
                raise AssertionError(f"seed {seed!r}, number {number}: a hang") from error
            except FlynnError:
                outcomes["refused"] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed!r}, number {number}: {error!r}") from error
            if number % 5 == 0:
                assert client.chat(f"Number {number}").content == f"Number {number}", f"seed {seed!r}, number {number}"
    return outcomes
