"""Cancel streams at random moments, in every possible way: they must leave no resources."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterable

from llama import LlamaServer
from scripted import eventually

from flynn import AsyncLlamaCppClient, LlamaCppClient, StreamInterruptedError

from . import GUARD, Run
from .resources import Resources

# Takes two seconds or more unless it is cancelled.
_LONG = {"tokens": 400, "pace": 0.005}


def _random_stream(random_: random.Random) -> Dict[str, Any]:
    script = {**_LONG, "silent": random_.choice((0.0, 0.0, 0.1))}
    if random_.random() < 0.2:
        script["faults"] = [["cut", random_.randrange(3000), random_.choice(("fin", "rst"))]]
    return {"resume": random_.random() < 0.5, "extra": {"script": script}}


def _expect_idle(server: LlamaServer) -> None:
    eventually(lambda: server.processing == 0)
    eventually(lambda: server.state["sessions"] == 0)


def cancel_streams(server: LlamaServer, count: int, *, seed: int = 1, threads: int = 16) -> Dict[str, int]:
    """Cancel streams at random moments, in every possible way; some connections are cut. Returns the counts."""

    def close_from_another_thread(stream: Any, after: float) -> None:
        timer = threading.Timer(after, stream.close)
        timer.start()
        for _ in stream:
            pass
        timer.join()

    def break_out(stream: Any, after: float) -> None:
        deadline = time.monotonic() + after
        for _ in stream:
            if time.monotonic() > deadline:
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

    ways = [close_from_another_thread, break_out, leave_the_block, raise_in_the_block, leave_the_text]
    counts = {"cancelled": 0, "ended": 0, "cut": 0}

    def cancel(number: int) -> None:
        random_ = random.Random(f"{seed} {number}")
        stream = client.chat_stream("Hi", **_random_stream(random_))
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
            growth = before.settle(idle=32)
            _expect_idle(server)
            if part == count // 5:
                before.memory += growth  # do not count memory that is allocated once
    assert sum(counts.values()) == count
    before.settle()
    return {**counts, "memory": growth}


def cancel_streams_async(
    server: LlamaServer, count: int, *, seed: int = 1, at_once: int = 64, run: Run = asyncio.run
) -> Dict[str, int]:
    """Do the same in event loops that `run` creates."""

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
        deadline = time.monotonic() + after
        async for _ in stream:
            if time.monotonic() > deadline:
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
            stream = client.chat_stream("Hi", **_random_stream(random_))
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
    run(asyncio.sleep(0))  # the first event loop of a process allocates what later ones reuse
    before = Resources()
    client = AsyncLlamaCppClient(server.endpoint, timeout=GUARD)
    for part in (count // 5, count - count // 5):
        run(cancel_all(range(part)))
        growth = before.settle(idle=32)
        _expect_idle(server)
        if part == count // 5:
            before.memory += growth
    assert sum(counts.values()) == count
    run(client.close())
    before.settle()
    return {**counts, "memory": growth}
