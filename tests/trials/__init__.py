"""Trials of any size: a small one is a test, a large one is part of `make stress`.

    cuts      streams that are cut at every byte
    cancels   streams that are stopped at random moments, and what they leave behind
    crowds    many streams or threads at once
    fuzzing   mutated responses
    decoding  random streams, read in two ways
    installs  installers that are killed

Each raises AssertionError, or returns what it counted.
"""

from __future__ import annotations

from typing import Any, Callable

Run = Callable[[Any], Any]  # of a coroutine, in an event loop of its own

GUARD = 120.0  # seconds after which something hangs
