"""Trials: random tests of any size. The tests run small ones, `make stress` runs large ones.

    cuts      streams cut at every byte
    cancels   streams cancelled at random moments, and the resources they leave
    crowds    many concurrent streams, and one client shared by many threads
    fuzzing   mutated responses
    decoding  random streams, decoded in two ways
    installs  installers killed before a change of a file
    batches   batches killed at random moments, and before each write

Each raises AssertionError or returns counts.
"""

from __future__ import annotations

from typing import Any, Callable

Run = Callable[[Any], Any]  # runs a coroutine in a new event loop, like asyncio.run

GUARD = 120.0  # seconds; longer means that something hangs
