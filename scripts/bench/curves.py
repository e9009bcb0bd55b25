"""Measure how Flynn's CPU time grows with its input: one long line, many tiny events, a long history.

    python -m bench.curves URL SHARE     # prints a line of JSON: curve to size to CPU seconds

SHARE scales the sizes down: 1 for the full sizes, 0.01 for a quick run.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Callable, Dict

# The largest size of each curve: bytes, events, messages. The other sizes are 1/2, 1/4, 1/8 and 1/16 of it.
LARGEST: Dict[str, int] = {"line": 16 * 2**20, "events": 1_000_000, "history": 10_000}


def main(url: str, share: str) -> None:
    from flynn import LlamaCppClient, Message

    client = LlamaCppClient(url)

    def stream(model: str, size: int) -> int:
        return sum(len(text) for text in client.chat_stream("Hi", model=model, max_tokens=size).text())

    def line(size: int) -> None:
        expect(stream("line", size) > size - 100)

    def events(size: int) -> None:
        expect(stream("tiny", size) == size)

    def history(size: int) -> None:
        client.chat(messages[:size])

    text = "Thank you. And how long does it take until the bread is done, if the oven is only half as hot?"
    messages = [Message("user" if number % 2 == 0 else "assistant", text) for number in range(LARGEST["history"])]
    curves: Dict[str, Callable[[int], None]] = {"line": line, "events": events, "history": history}
    client.chat("Hi")
    print(json.dumps({name: cpu_seconds(curve, sizes(name, float(share))) for name, curve in curves.items()}))


def sizes(curve: str, share: float) -> list[int]:
    """Return the sizes of a curve in ascending order."""
    largest = int(LARGEST[curve] * share)
    return [largest // part for part in (16, 8, 4, 2, 1)]


def cpu_seconds(curve: Callable[[int], None], sizes: list[int]) -> Dict[int, float]:
    """Run a curve with each size. Returns the CPU seconds by size."""
    seconds = {}
    for size in sizes:
        cpu = time.process_time()
        curve(size)
        seconds[size] = time.process_time() - cpu
    return seconds


def expect(complete: bool) -> None:
    if not complete:
        raise SystemExit("the client received less text than the server sent")


if __name__ == "__main__":
    main(*sys.argv[1:])
