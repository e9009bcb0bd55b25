"""What is measured, and the rounds in which it is: every subject once in each round, each round in another order."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import Dict, Iterator, List, Sequence, Tuple

from .launch import ChildFailed, Launcher
from .subjects import BARE, HTTP_CLIENT, RAW, SCRIPTS, Place, Subject

# The runs of each subject, by figure: `runs["import.wall"]["flynn"]`.
Runs = Dict[str, Dict[str, List[float]]]

IN_PROCESS = ("sync-1", "sync-64", "async-1", "async-64", "one-shot")
MEASURES = ("import", "first-token", *IN_PROCESS)


@dataclass(frozen=True)
class Figure:
    """A figure of a measure: what it is called, its unit and how many of them make one of the measured unit, its floor.

    The floor is a figure and the name of a subject.
    """

    key: str
    title: str
    unit: str
    scale: float
    floor: Tuple[str, str]


_MS, _US, _MIB = ("ms", 1e3), ("µs", 1e6), ("MiB", 1 / 2**20)
_TOKEN = ("sync-1.cpu", RAW.name)
FIGURES = [
    Figure("import.wall", "import, the whole process", *_MS, ("import.wall", BARE.name)),
    Figure("first-token.wall", "new process to its first token", *_MS, ("first-token.wall", HTTP_CLIENT.name)),
    Figure("first-token.memory", "peak memory of that process", *_MIB, ("first-token.memory", HTTP_CLIENT.name)),
    Figure("sync-1.cpu", "CPU per token, one stream", *_US, _TOKEN),
    Figure("sync-1.wall", "wall per token, one stream", *_US, ("sync-1.wall", RAW.name)),
    Figure("sync-64.cpu", "CPU per token, 64 streams in threads", *_US, _TOKEN),
    Figure("sync-64.wall", "wall per token, 64 streams in threads", *_US, ("sync-1.wall", RAW.name)),
    Figure("async-1.cpu", "CPU per token, one asynchronous stream", *_US, _TOKEN),
    Figure("async-1.wall", "wall per token, one asynchronous stream", *_US, ("sync-1.wall", RAW.name)),
    Figure("async-64.cpu", "CPU per token, 64 asynchronous streams", *_US, _TOKEN),
    Figure("async-64.wall", "wall per token, 64 asynchronous streams", *_US, ("sync-1.wall", RAW.name)),
    Figure("one-shot.wall", "one-shot call on a kept connection", *_US, ("one-shot.wall", HTTP_CLIENT.name)),
    Figure("one-shot.cpu", "CPU of that call", *_US, ("one-shot.cpu", HTTP_CLIENT.name)),
]

# The process ends with the token: what a client does at its end is not measured.
FIRST_TOKEN = """
import os
from bench.clients.{} import connect, texts
for text in texts(connect({!r}), 64):
    os.write(1, text.encode())
    os._exit(0)
"""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of the benchmark's server."""
    command = [sys.executable, "-m", "bench.server"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=SCRIPTS, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


def measure(place: Place, subjects: Sequence[Subject], measures: Sequence[str], rounds: int) -> Runs:
    """Raises ChildFailed."""
    runs: Runs = {}
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(server())
        launcher = stack.enter_context(Launcher(place.python, place.variables))
        for number in range(-1, rounds):  # the first only warms up: files into memory, source to bytecode
            for subject in random.sample(subjects, len(subjects)):
                _progress(f"round {number + 1} of {rounds}: {subject.name}" if number >= 0 else "warming up")
                for key, value in measured(place, launcher, subject, measures, url, warm=number < 0):
                    runs.setdefault(key, {}).setdefault(subject.name, []).append(value)
    _progress("")
    return runs


def measured(
    place: Place, launcher: Launcher, subject: Subject, measures: Sequence[str], url: str, *, warm: bool
) -> Iterator[Tuple[str, float]]:
    """The figures of one subject in one round; none while warming up."""
    python = place.python_of(subject)
    programs = {"import": subject.imports}
    if subject.module:
        programs["first-token"] = FIRST_TOKEN.format(subject.module, url)
    for name, program in programs.items():
        if name in measures:
            process = launcher.run([python, "-c", program])
            if not warm:
                yield f"{name}.wall", process.wall
                yield f"{name}.memory", process.memory
    inside = [name for name in measures if name in IN_PROCESS]
    if not subject.asynchronous:
        inside = [name for name in inside if not name.startswith("async")]
    if inside and subject.module and not warm:
        command = [python, "-m", "bench.work", subject.module, url, *inside]
        done = subprocess.run(command, capture_output=True, env=place.variables)
        if done.returncode:
            sys.stderr.write(done.stderr.decode(errors="replace"))
            raise ChildFailed(f"this ended with status {done.returncode}: {' '.join(command)}")
        for name, figures in json.loads(done.stdout.splitlines()[-1]).items():
            for key, value in figures.items():
                yield f"{name}.{key}", value


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}\r{text}", end="", file=sys.stderr, flush=True)
