"""Many concurrent streams in one event loop, and one client shared by many threads."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

from llama import LlamaServer

from flynn import AsyncLlamaCppClient, ConnectionLostError, LlamaCppClient

from . import GUARD, Run
from .resources import Resources


def streams_at_once(server: LlamaServer, count: int, *, run: Run = asyncio.run) -> int:
    """Run concurrent streams in one event loop. Returns the largest number that the server saw at once."""
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
    """Call one client from many threads while the server closes connections at random. Returns the counts."""
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
