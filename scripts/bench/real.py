"""Measures one client against a real server, from inside its process, and prints a line of JSON.

    python -m bench.real CLIENT URL TOKENS STREAMS...     # CLIENT: a module of bench.clients

`real-sync-32.rate` are the tokens in a second that 32 streams in threads bring together, `first` is the median of the
seconds until their first tokens, `cpu` are the client's CPU seconds for a token.
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

Seen = Tuple[float, int]  # when the first token of a stream came, and how many came


def main(client: str, url: str, tokens: str, *streams: str) -> None:
    module = importlib.import_module(f"bench.clients.{client}")
    figures = {}
    for count in map(int, streams):
        for mode, make in MODES.items():
            if mode == "sync" or hasattr(module, "connect_async"):
                for name, value in measured(make(module, url), count, int(tokens)).items():
                    figures[f"real-{mode}-{count}.{name}"] = value
    print(json.dumps(figures), flush=True)
    os._exit(0)  # not every client ends well with an event loop that has ended


def measured(run: Callable[[int, int], List[Seen]], streams: int, tokens: int) -> Dict[str, float]:
    run(streams, 4)
    wall, cpu = time.perf_counter(), time.process_time()
    seen = run(streams, tokens)
    cpu, ended = time.process_time() - cpu, time.perf_counter()
    came = sum(count for _, count in seen)
    return {
        "first": statistics.median(first - wall for first, _ in seen),
        "rate": came / (ended - wall),
        "cpu": cpu / came,
    }


def synchronous(module: Any, url: str) -> Callable[[int, int], List[Seen]]:
    clients: List[Any] = []

    def read(client: Any, tokens: int) -> Seen:
        first, count = 0.0, 0
        for _ in module.texts(client, tokens):
            first = first or time.perf_counter()
            count += 1
        return first, count

    def run(streams: int, tokens: int) -> List[Seen]:
        if hasattr(module, "RECONNECT"):
            clients.clear()
        while len(clients) < streams:
            clients.append(module.connect(url))
        with ThreadPoolExecutor(streams) as pool:
            return list(pool.map(read, clients[:streams], [tokens] * streams))

    return run


def asynchronous(module: Any, url: str) -> Callable[[int, int], List[Seen]]:
    loop = asyncio.new_event_loop()
    client = module.connect_async(url)

    async def read(tokens: int) -> Seen:
        first, count = 0.0, 0
        async for _ in module.texts_async(client, tokens):
            first = first or time.perf_counter()
            count += 1
        return first, count

    async def together(streams: int, tokens: int) -> List[Seen]:
        return await asyncio.gather(*[read(tokens) for _ in range(streams)])

    return lambda streams, tokens: loop.run_until_complete(together(streams, tokens))


MODES = {"sync": synchronous, "async": asynchronous}


if __name__ == "__main__":
    main(*sys.argv[1:])
