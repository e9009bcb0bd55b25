"""Measure one client from inside its process, and print a line of JSON: measure to figures.

    python -m bench.work CLIENT URL URL MEASURE...     # CLIENT: a module of bench.clients; the server's two URLs

CPU is `time.process_time`: user and system time of all threads. The fixed cost of a stream (its request, its threads)
is excluded: the measure reads streams of two lengths and divides the difference in time by the difference in tokens.
The longer length is chosen so that most clients take about half a second.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List

Figures = Dict[str, float]
# Reads a number of concurrent streams, with a number of tokens each, to their end.
Streams = Callable[[int, int], None]


def main(client: str, url: str, slow: str, *measures: str) -> None:
    module = importlib.import_module(f"bench.clients.{client}")
    print(json.dumps({measure: MEASURES[measure](module, url, slow) for measure in measures}), flush=True)
    os._exit(0)  # skip cleanup: some clients fail when they close after their event loop


def synchronous(module: Any, url: str) -> Streams:
    """Read one stream in this thread, or each of several in its own thread, with its own client if it needs one."""
    shared = module.connect(url) if hasattr(module, "connect_async") else None

    def read(client: Any, tokens: int) -> None:
        check(sum(1 for _ in module.texts(client, tokens)), tokens)

    clients: List[Any] = []

    def run(streams: int, tokens: int) -> None:
        while len(clients) < streams:
            clients.append(shared or module.connect(url))
        if streams == 1:
            read(clients[0], tokens)
            return
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(read, clients, [tokens] * streams))

    return run


def asynchronous(module: Any, url: str) -> Streams:
    """Read the streams in one event loop."""
    loop = asyncio.new_event_loop()
    client = module.connect_async(url)

    async def read(tokens: int) -> None:
        count = 0
        async for _ in module.texts_async(client, tokens):
            count += 1
        check(count, tokens)

    async def together(streams: int, tokens: int) -> None:
        await asyncio.gather(*[read(tokens) for _ in range(streams)])

    return lambda streams, tokens: loop.run_until_complete(together(streams, tokens))


def check(count: int, tokens: int) -> None:
    if count != tokens:
        raise SystemExit(f"the client yielded {count} pieces of text, expected {tokens}")


def spent(run: Streams, streams: int, tokens: int) -> tuple[float, float]:
    """Run the streams after a garbage collection. Returns CPU and wall seconds."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    run(streams, tokens)
    return time.process_time() - cpu, time.perf_counter() - wall


def per_token(run: Streams, streams: int) -> Figures:
    """Return CPU and wall seconds per token with `streams` concurrent streams."""
    short = 200 if streams == 1 else 20
    run(streams, short)  # warm up: lazy imports, connections
    cpu, wall = spent(run, streams, short)
    long = short * max(3, min(100, round((0.3 if streams == 1 else 0.6) / cpu)))
    long_cpu, long_wall = spent(run, streams, long)
    tokens = streams * (long - short)
    return {"cpu": (long_cpu - cpu) / tokens, "wall": (long_wall - wall) / tokens}


def one_shot(module: Any, url: str, calls: int = 200) -> Figures:
    """Return the median wall seconds and the mean CPU seconds of a one-shot call on an open connection."""
    client = module.connect(url)
    for _ in range(10):
        module.ask(client)
    walls = []
    cpu = time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        module.ask(client)
        walls.append(time.perf_counter() - start)
    return {"cpu": (time.process_time() - cpu) / calls, "wall": sorted(walls)[calls // 2]}


def paced(run: Streams, streams: int, short: int = 5, long: int = 35) -> Figures:
    """Return CPU seconds per token for a server that sends token by token, as a model does."""
    run(streams, short)
    cpu, _ = spent(run, streams, short)
    long_cpu, _ = spent(run, streams, long)
    return {"cpu": (long_cpu - cpu) / (streams * (long - short))}


# Each takes the client's module, the URL that sends at once, and the URL that sends token by token.
MEASURES: Dict[str, Callable[[Any, str, str], Figures]] = {
    "sync-1": lambda module, url, slow: per_token(synchronous(module, url), 1),
    "sync-64": lambda module, url, slow: per_token(synchronous(module, url), 64),
    "sync-paced-64": lambda module, url, slow: paced(synchronous(module, slow), 64),
    "async-1": lambda module, url, slow: per_token(asynchronous(module, url), 1),
    "async-64": lambda module, url, slow: per_token(asynchronous(module, url), 64),
    "async-paced-64": lambda module, url, slow: paced(asynchronous(module, slow), 64),
    "one-shot": lambda module, url, slow: one_shot(module, url),
}


if __name__ == "__main__":
    main(*sys.argv[1:])
