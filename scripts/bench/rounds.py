"""Run the measures: each round runs every subject once for each measure, in random order."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

from .catalogue import INSIDE, PROCESSES, Curves, Runs
from .launch import ChildFailed, Launcher
from .subjects import SCRIPTS, Place, Subject

# Measures one subject. Returns the figures by key.
Step = Callable[[Subject], Dict[str, float]]

# The process ends at the first token, so that the client's cleanup is not measured.
FIRST_TOKEN = """
import os
from bench.clients.{} import connect, texts
for text in texts(connect({!r}), 64):
    os.write(1, text.encode())
    os._exit(0)
"""


@contextlib.contextmanager
def server() -> Iterator[Tuple[str, str]]:
    """Run the benchmark's server. Yields two URLs: one sends at once, one token by token."""
    command = [sys.executable, "-m", "bench.server"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=SCRIPTS, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        assert process.stdin and process.stdout
        at_once, paced = process.stdout.readline().split()
        yield f"http://127.0.0.1:{at_once}", f"http://127.0.0.1:{paced}"
        process.stdin.close()


def measure(place: Place, subjects: Sequence[Subject], measures: Sequence[str], rounds: int) -> Runs:
    """Run the measures of the subjects. Raises ChildFailed if a process fails."""
    runs: Runs = {}
    inside = [name for name in measures if name in INSIDE]
    with server() as urls, Launcher(place.python, place.variables) as launcher:
        process = functools.partial(whole_process, place, launcher, urls[0])
        steps: Dict[str, Step] = {name: functools.partial(process, name) for name in PROCESSES if name in measures}
        for subject in subjects if steps else []:
            progress(f"warming up: {subject.name}")  # fills the page cache and compiles bytecode
            process(PROCESSES[-1], subject)
        if inside:
            steps["CPU and calls"] = functools.partial(work, place, urls, inside)
        for number in range(rounds):
            for name, step in steps.items():
                for subject in random.sample(subjects, len(subjects)):
                    progress(f"round {number + 1} of {rounds}: {name}, {subject.name}")
                    keep(runs, subject, step(subject))
    progress("")
    return runs


def keep(runs: Runs, subject: Subject, figures: Dict[str, float]) -> None:
    for key, value in figures.items():
        runs.setdefault(key, {}).setdefault(subject.name, []).append(value)


def against(
    place: Place, subjects: Sequence[Subject], url: str, streams: Sequence[int], tokens: int, rounds: int
) -> Runs:
    """Run the subjects against a real server. Raises ChildFailed if a process fails."""
    runs: Runs = {}
    able = [subject for subject in subjects if subject.module and subject.llama_server]
    for number in range(rounds):
        for subject in random.sample(able, len(able)):
            progress(f"round {number + 1} of {rounds}: {subject.name}")
            arguments = [str(subject.module), url, str(tokens), *map(str, streams)]
            keep(runs, subject, child(place, place.python_of(subject), "bench.real", *arguments))
    progress("")
    return runs


def curves(place: Place, rounds: int, share: float) -> Curves:
    """Measure the curves of bench.curves, with the sizes scaled by `share`. Raises ChildFailed if the process fails."""
    runs: Curves = {}
    with server() as (url, _):
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}: curves")
            for curve, costs in child(place, place.python, "bench.curves", url, str(share)).items():
                for size, seconds in costs.items():
                    runs.setdefault(curve, {}).setdefault(size, []).append(seconds)
    progress("")
    return runs


def whole_process(place: Place, launcher: Launcher, url: str, measure: str, subject: Subject) -> Dict[str, float]:
    if measure == "first-token" and not subject.module:
        return {}
    program = subject.imports if measure == "import" else FIRST_TOKEN.format(subject.module, url)
    process = launcher.run([place.python_of(subject), "-c", program])
    return {f"{measure}.wall": process.wall, f"{measure}.memory": process.memory}


def work(place: Place, urls: Sequence[str], measures: Sequence[str], subject: Subject) -> Dict[str, float]:
    able = [name for name in measures if subject.asynchronous or not name.startswith("async")]
    if not able or not subject.module:
        return {}
    results = child(place, place.python_of(subject), "bench.work", subject.module, *urls, *able)
    return {f"{name}.{key}": value for name, figures in results.items() for key, value in figures.items()}


def child(place: Place, python: str, module: str, *arguments: str, path: Optional[Path] = None) -> Dict[str, Any]:
    """Run `python -m module` and parse its last line as JSON. `path` is added to sys.path. Raises ChildFailed."""
    command = [python, "-m", module, *arguments]
    variables = place.variables
    if path:
        variables["PYTHONPATH"] += f"{os.pathsep}{path}"
    # Change the folder: `-m` puts it on sys.path, and a checkout may contain an egg-info of Flynn.
    done = subprocess.run(command, capture_output=True, env=variables, cwd=place.folder)
    if done.returncode:
        sys.stderr.write(done.stderr.decode(errors="replace"))
        raise ChildFailed(f"command ended with status {done.returncode}: {' '.join(command)}")
    result: Dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{'':70}\r{text}", end="", file=sys.stderr, flush=True)
