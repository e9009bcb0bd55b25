"""Measure one client against a real server, from inside its process, and print a line of JSON.

    python -m bench.real CLIENT URL TOKENS STREAMS...     # CLIENT: a module of bench.clients

`real-sync-32.rate` is the total of tokens/s of 32 streams in threads, `first` is the median of the seconds to their
first tokens, `cpu` is the client's CPU seconds per token.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Tuple

StreamTimes = Tuple[float, int]  # the time of a stream's first token, and the number of its tokens


def main(client: str, url: str, tokens: str, *streams: str) -> None:
    module = importlib.import_module(f"bench.clients.{client}")
    figures = {}
    for count in map(int, streams):
        for mode, make in MODES.items():
            if mode == "sync" or hasattr(module, "connect_async"):
                for name, value in measure(make(module, url), count, int(tokens)).items():
                    figures[f"real-{mode}-{count}.{name}"] = value
    print(json.dumps(figures), flush=True)
    os._exit(0)  # skip cleanup: some clients fail when they close after their event loop


def measure(run: Callable[[int, int], List[StreamTimes]], streams: int, tokens: int) -> Dict[str, float]:
    """Run the streams once to warm up and once to measure. Returns the figures by name."""
    run(streams, 4)
    wall, cpu = time.perf_counter(), time.process_time()
    times = run(streams, tokens)
    cpu, end = time.process_time() - cpu, time.perf_counter()
    total = sum(count for _, count in times)
    return {
        "first": statistics.median(first - wall for first, _ in times),
        "rate": total / (end - wall),
        "cpu": cpu / total,
    }


def synchronous(module: Any, url: str) -> Callable[[int, int], List[StreamTimes]]:
    clients: List[Any] = []

    def read(client: Any, tokens: int) -> StreamTimes:
        first, count = 0.0, 0
        for _ in module.texts(client, tokens):
            first = first or time.perf_counter()
            count += 1
        return first, count

    def run(streams: int, tokens: int) -> List[StreamTimes]:
        if hasattr(module, "RECONNECT"):
            clients.clear()
        while len(clients) < streams:
            clients.append(module.connect(url))
        with ThreadPoolExecutor(streams) as pool:
            return list(pool.map(read, clients[:streams], [tokens] * streams))

    return run


def asynchronous(module: Any, url: str) -> Callable[[int, int], List[StreamTimes]]:
    loop = asyncio.new_event_loop()
    client = module.connect_async(url)

    async def read(tokens: int) -> StreamTimes:
        first, count = 0.0, 0
        async for _ in module.texts_async(client, tokens):
            first = first or time.perf_counter()
            count += 1
        return first, count

    async def together(streams: int, tokens: int) -> List[StreamTimes]:
        return await asyncio.gather(*[read(tokens) for _ in range(streams)])

    return lambda streams, tokens: loop.run_until_complete(together(streams, tokens))


MODES = {"sync": synchronous, "async": asynchronous}


if __name__ == "__main__":
    main(*sys.argv[1:])
