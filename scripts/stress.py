"""Run the stress tests ("trials"): long random tests of the client, its decoders and the installer.

    python scripts/stress.py               # all trials, about five minutes on two cores
    python scripts/stress.py --seed 7      # with other random numbers
    python scripts/stress.py --only fuzz   # trials with this text in their name

Each trial runs in its own process; two run at a time. If uvloop is installed, asynchronous trials run a second time
with it. Exit codes: 0 all trials passed, 1 a trial failed; its output contains the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from llama import STREAMS, llama_server  # type: ignore[import-not-found]  # noqa: E402
from trials import batches, cancels, crowds, cuts, decoding, fuzzing, installs  # type: ignore[import-not-found]  # noqa: E402

# A trial takes a server and a seed, and returns a line about its result.
Trial = Callable[[Any, str], str]
_MAX_MEMORY = 8 * 1024 * 1024  # bytes that the allocator may keep after a thousand streams


def _cuts(stream: str, resume: bool) -> Trial:
    def trial(server: Any, seed: str) -> str:
        counts = [cuts.cut_everywhere(server, stream, end, resume=resume) for end in ("fin", "rst")]
        assert server.state["sessions"] == 0
        return f"{counts[0]:,} bytes, with FIN and with RST"

    return trial


def _fuzz_decoders(server: Any, seed: str) -> str:
    counts = fuzzing.fuzz_decoders(seed, 200_000)
    return f"{sum(counts.values()):,} responses, {counts['refused']:,} of them refused"


def _fuzz_client(server: Any, seed: str) -> str:
    counts = fuzzing.fuzz_client(server, seed, 20_000)
    return f"{sum(counts.values()):,} responses, {counts['refused']:,} of them refused"


def _compare_streams(server: Any, seed: str) -> str:
    counts = decoding.compare_streams(seed, 100_000)
    return f"{sum(counts.values()):,} streams read like json.loads, {counts['refused']:,} of them refused"


def _share(server: Any, seed: str) -> str:
    counts = crowds.share_a_client(server, 5_000, seed=seed)
    return f"{counts['replies']:,} replies, each to its own request, {counts['lost']:,} lost connections reported"


def _kill_installers(server: Any, seed: str) -> str:
    counts = installs.kill_everywhere(seed, limit=200)
    return f"{counts['installations']} installations, {counts['removals']} removals, each completed by a second run"


def _kill_batches(server: Any, seed: str) -> str:
    counts = batches.kill_at_random(seed, 100)
    return f"{counts['killed']} kills, {counts['batches']} x 400 requests, {counts['refused']} misused files refused"


def _kill_batches_at_writes(server: Any, seed: str) -> str:
    return f"{batches.kill_everywhere()} kills, each completed by the next run"


def _report_cancelled(counts: Dict[str, int]) -> str:
    assert counts["memory"] < _MAX_MEMORY, counts
    return f"{counts['cancelled']} cancelled, {counts['cut']} cut, memory {counts['memory'] / 2**20:+.1f} MiB"


def _cancel(server: Any, seed: str) -> str:
    return _report_cancelled(cancels.cancel_streams(server, 1_000, seed=seed))


def _cancel_async(run: Callable[[Any], Any]) -> Trial:
    return lambda server, seed: _report_cancelled(cancels.cancel_streams_async(server, 1_000, seed=seed, run=run))


def _at_once(run: Callable[[Any], Any]) -> Trial:
    return lambda server, seed: f"{crowds.streams_at_once(server, 256, run=run)} concurrent streams"


def _uvloop_run(main: Any) -> Any:
    import uvloop  # type: ignore[import-not-found,unused-ignore]

    return uvloop.run(main)


def all_trials() -> Dict[str, Trial]:
    """Return the trials by name, the longest first."""
    trials: Dict[str, Trial] = {"fuzz: decoders": _fuzz_decoders}
    for resume in (True, False):
        for stream in STREAMS:
            trials[f"cut at every byte: {stream}{', resumed' if resume else ''}"] = _cuts(stream, resume)
    trials["installers killed before a change of a file"] = _kill_installers
    trials["batches killed at random moments"] = _kill_batches
    trials["batches killed before each write of a file"] = _kill_batches_at_writes
    trials["decoder of streams compared with json.loads"] = _compare_streams
    trials["fuzz: client"] = _fuzz_client
    trials["streams cancelled at random moments"] = _cancel
    trials["async streams cancelled at random moments"] = _cancel_async(asyncio.run)
    trials["async streams at once"] = _at_once(asyncio.run)
    if importlib.util.find_spec("uvloop"):
        trials["async streams cancelled at random moments, uvloop"] = _cancel_async(_uvloop_run)
        trials["async streams at once, uvloop"] = _at_once(_uvloop_run)
    trials["a client shared by 32 threads"] = _share
    return trials


def run_alone(name: str, seed: str) -> Tuple[bool, str]:
    """Run one trial in its own process. Returns True if it passed, and its output."""
    command = [sys.executable, "-W", "error", __file__, "--trial", name, "--seed", seed]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode == 0, done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the long trials.", epilog="Example: stress.py --only cut")
    parser.add_argument("--seed", default="1", help="seed of the random numbers (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only trials with TEXT in their name")
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        with llama_server() as server:
            print(all_trials()[arguments.trial](server, arguments.seed))
        return 0
    names = [name for name in all_trials() if arguments.only in name]
    if not names:
        parser.error(
            f"no trial has {arguments.only!r} in its name (expected part of one of: {'; '.join(all_trials())})"
        )
    start = time.monotonic()
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for name, (passed, output) in zip(names, pool.map(lambda name: run_alone(name, arguments.seed), names)):
            print(f"{name:52}{output if passed else 'FAILED'}", flush=True)
            if not passed:
                failed += 1
                print(output, file=sys.stderr)
    machine = f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {(time.monotonic() - start) / 60:.1f} minutes"
    print(f"{len(names) - failed} of {len(names)} passed ({machine})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
