"""The measures of the benchmark, and the figures that they yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

from .subjects import BARE, HTTP_CLIENT, RAW

# The runs of each subject for each figure, in seconds or bytes: `runs["import.wall"]["flynn"]`.
Runs = Dict[str, Dict[str, List[float]]]

# The runs of each curve for each size, in seconds. JSON turns the sizes into strings: `curves["events"]["1000000"]`.
Curves = Dict[str, Dict[str, List[float]]]

PROCESSES = ("import", "first-token")
INSIDE = ("sync-1", "sync-64", "sync-paced-64", "async-1", "async-64", "async-paced-64", "one-shot")
MEASURES = (*PROCESSES, *INSIDE, "curves", "wheel")


@dataclass(frozen=True)
class Figure:
    """A figure of a measure.

    Attributes:
        key: the name of the measure, a dot, and the name of the value.
        title: the title in the tables.
        unit: the unit in the tables.
        scale: the factor from seconds or bytes to the unit.
        floor: the figure and the subject to compare with.
        main: True if the README's table has it, too.
    """

    key: str
    title: str
    unit: str
    scale: float
    floor: Tuple[str, str]
    main: bool = True


# The figures against a real server, for each number of streams, in threads and asynchronous.
REAL = {
    "first": ("time to the first token", "ms", 1e3),
    "rate": ("tokens per second", "tokens/s", 1.0),
    "cpu": ("CPU per token", "µs", 1e6),
}

_MS, _US, _MIB = ("ms", 1e3), ("µs", 1e6), ("MiB", 1 / 2**20)
_CPU, _WALL, _PACED = ("sync-1.cpu", RAW.name), ("sync-1.wall", RAW.name), ("sync-paced-64.cpu", RAW.name)

FIGURES = [
    Figure("import.wall", "import: the whole process", *_MS, ("import.wall", BARE.name)),
    Figure("first-token.wall", "a new process to its first token", *_MS, ("first-token.wall", HTTP_CLIENT.name)),
    Figure("first-token.memory", "peak memory of that process", *_MIB, ("first-token.memory", HTTP_CLIENT.name)),
    Figure("sync-1.cpu", "CPU per token, one stream", *_US, _CPU),
    Figure("sync-1.wall", "wall per token, one stream", *_US, _WALL, main=False),
    Figure("sync-64.cpu", "CPU per token, 64 streams in threads", *_US, _CPU),
    Figure("sync-64.wall", "wall per token, 64 streams in threads", *_US, _WALL, main=False),
    Figure("async-1.cpu", "CPU per token, one asynchronous stream", *_US, _CPU),
    Figure("async-1.wall", "wall per token, one asynchronous stream", *_US, _WALL, main=False),
    Figure("async-64.cpu", "CPU per token, 64 asynchronous streams", *_US, _CPU),
    Figure("async-64.wall", "wall per token, 64 asynchronous streams", *_US, _WALL, main=False),
    Figure("sync-paced-64.cpu", "CPU per token, 64 streams in threads, one by one", *_US, _PACED),
    Figure("async-paced-64.cpu", "CPU per token, 64 asynchronous, one by one", *_US, _PACED),
    Figure("one-shot.wall", "a one-shot call on an open connection", *_US, ("one-shot.wall", HTTP_CLIENT.name)),
    Figure("one-shot.cpu", "CPU of that call", *_US, ("one-shot.cpu", HTTP_CLIENT.name), main=False),
]


def real_figures(streams: Sequence[int]) -> List[Figure]:
    """Return the figures of bench.real. The floor of each is the http.client script in threads."""
    return [
        Figure(
            f"real-{mode}-{count}.{name}",
            f"{title}: {mode}, {count} at once",
            unit,
            scale,
            (f"real-sync-{count}.{name}", HTTP_CLIENT.name),
        )
        for count in streams
        for name, (title, unit, scale) in REAL.items()
        for mode in ("sync", "async")
    ]
