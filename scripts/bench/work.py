"""Measures one client from inside its process, and prints a line of JSON: measure to figures.

    python -m bench.work CLIENT URL URL MEASURE...     # CLIENT: a module of bench.clients; the server's two URLs

CPU is `time.process_time`: user and system time of all threads. What a stream costs once (its request, its threads) is
taken out: streams of two lengths are read and the difference divided by the tokens between. The longer length is chosen
so that most clients take about half a second.
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
# What is measured of a client, of streams at once and tokens in each: runs them all to their end.
Streams = Callable[[int, int], None]


def main(client: str, url: str, slow: str, *measures: str) -> None:
    module = importlib.import_module(f"bench.clients.{client}")
    print(json.dumps({measure: MEASURES[measure](module, url, slow) for measure in measures}), flush=True)
    os._exit(0)  # not every client ends well with an event loop that has ended


def synchronous(module: Any, url: str) -> Streams:
    """One stream in this thread, or several in a thread each. Clients that are for one thread are made for each."""
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
        raise SystemExit(f"{count} pieces of text came instead of {tokens}")


def spent(run: Streams, streams: int, tokens: int) -> tuple[float, float]:
    """CPU and wall seconds, from a heap without garbage."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    run(streams, tokens)
    return time.process_time() - cpu, time.perf_counter() - wall


def per_token(run: Streams, streams: int) -> Figures:
    """CPU and wall seconds for each token, when so many streams run at once."""
    short = 200 if streams == 1 else 20
    run(streams, short)  # what is loaded with the first stream
    cpu, wall = spent(run, streams, short)
    long = short * max(3, min(100, round((0.3 if streams == 1 else 0.6) / cpu)))
    long_cpu, long_wall = spent(run, streams, long)
    between = streams * (long - short)
    return {"cpu": (long_cpu - cpu) / between, "wall": (long_wall - wall) / between}


def one_shot(module: Any, url: str, calls: int = 200) -> Figures:
    """The median wall seconds of a one-shot call on a connection that is there already, and the CPU of one."""
    client = module.connect(url)
    for _ in range(10):
        module.ask(client)
    walls = []
    cpu = time.process_time()
    for _ in range(calls):
        began = time.perf_counter()
        module.ask(client)
        walls.append(time.perf_counter() - began)
    return {"cpu": (time.process_time() - cpu) / calls, "wall": sorted(walls)[calls // 2]}


def paced(run: Streams, streams: int, short: int = 5, long: int = 35) -> Figures:
    """CPU seconds for each token that comes by itself, as a model generates them."""
    run(streams, short)
    cpu, _ = spent(run, streams, short)
    long_cpu, _ = spent(run, streams, long)
    return {"cpu": (long_cpu - cpu) / (streams * (long - short))}


# Of the module, the URL that sends at once and the one that sends token by token.
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
