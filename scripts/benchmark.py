#!/usr/bin/env python3
"""`make bench`: measure the cost of Flynn, of its peers, and of the floors, the least code that does the same.

Examples:
    make bench                                                  # all measures
    make bench ARGS="--only import,first-token --rounds 15"
    make bench ARGS="--no-peers"                                # only Flynn and the floors; installs nothing
    make bench ARGS="--quick"                                   # a check that it works; its figures mean nothing
    make bench ARGS="--readme"                                  # also update the table and the chart of its README

    make bench ARGS="--endpoint"                                # with the small model of make demo, on the CPU
    make bench ARGS="--endpoint http://localhost:8080 --streams 1,32 --tokens 256"

The last example uses your own server. On a GPU, start it with a slot for each stream, e.g.
    llama-server -m model.gguf -ngl 99 -np 32 -c 65536 --backend-sampling
With --endpoint only tokens/s, the seconds to the first token and the client's CPU time are measured.

Needs Linux and an otherwise idle machine. Prints a table; --output gets every run. Exit codes: 0 success, 1 failure,
2 usage error, 130 interrupted.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import environment  # must come first: it prints a message if Python is too old
from bench import report, rounds
from bench.catalogue import MEASURES, real_figures
from bench.launch import ChildFailed
from bench.readme import CHART, README, with_table
from bench.subjects import OURS, PEERS, SCRIPTS, Place
from bench.wheel import flynn_wheel
from real_server import RealServer, ServerFailed

SMALL = "small"  # the value of --endpoint without a URL: start a server with the small model


def main() -> int:
    options = arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="flynn-bench-") as folder:
            place = Place(Path(folder, "place"), peers=options.peers)
            if options.endpoint:
                measure_real_server(options, place)
            else:
                measure_recorded(options, place, Path(folder))
    except (environment.Unavailable, ServerFailed, ChildFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def measure_recorded(options: argparse.Namespace, place: Place, folder: Path) -> None:
    results = empty_results(options, place)
    if "wheel" in options.only and options.peers:
        results["sizes"]["flynn"] = flynn_wheel(place, folder)
    results["runs"] = rounds.measure(place, options.subjects, options.only, options.rounds)
    if "curves" in options.only:
        results["curves"] = rounds.curves(place, options.rounds, 0.01 if options.quick else 1.0)
    print(report.table(results))
    write(results, options.output)
    if options.readme:
        readme = environment.ROOT / README
        readme.write_text(with_table(readme.read_text(encoding="utf-8"), results), encoding="utf-8")
        chart = [place.builder, "-m", "bench.chart", str(options.output), str(environment.ROOT / CHART)]
        subprocess.run(chart, check=True, cwd=SCRIPTS)


def measure_real_server(options: argparse.Namespace, place: Place) -> None:
    results = empty_results(options, place)
    with contextlib.ExitStack() as stack:
        url = options.endpoint
        if url == SMALL:
            url = stack.enter_context(
                RealServer(parallel=max(options.streams), ctx_size=1024 * max(options.streams))
            ).endpoint
        results["runs"] = rounds.against(place, options.subjects, url, options.streams, options.tokens, options.rounds)
    print(report.table(results, real_figures(options.streams)))
    write(results, options.output)


def empty_results(options: argparse.Namespace, place: Place) -> Dict[str, Any]:
    """Return results with the machine and the sizes; `runs` and `curves` are still empty."""
    sizes = {
        subject.name: rounds.child(place, place.python_of(subject), "bench.sizes", *subject.packages)
        for subject in options.subjects
        if subject.extra
    }
    return {"machine": machine(), "rounds": options.rounds, "sizes": sizes, "runs": {}, "curves": {}}


def write(results: Dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def machine() -> Dict[str, Any]:
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor or "unknown processor",
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=chosen(MEASURES), default=MEASURES, help=f"some of: {', '.join(MEASURES)}")
    known = [subject.name for subject in [*OURS, *PEERS]]
    parser.add_argument("--subjects", type=chosen(known), default=known, help=f"some of: {', '.join(known)}")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure only Flynn and the floors")
    parser.add_argument(
        "--rounds", type=positive, default=7, help="number of rounds; each measures every subject once (7)"
    )
    parser.add_argument("--quick", action="store_true", help="one round with small curves")
    parser.add_argument("--readme", action="store_true", help=f"update {README} and the chart; needs all measures")
    parser.add_argument(
        "--endpoint", type=endpoint, nargs="?", const=SMALL, metavar="URL", help="use a real llama-server"
    )
    parser.add_argument(
        "--streams", type=counts, default=[1, 4], help="with --endpoint: numbers of concurrent streams (1,4)"
    )
    parser.add_argument("--tokens", type=positive, default=128, help="with --endpoint: tokens in each stream (128)")
    parser.add_argument(
        "--output", type=Path, default=environment.ROOT / "build" / "benchmarks.json", help="file for all runs"
    )
    options = parser.parse_args()
    if options.readme and (
        options.endpoint or not options.peers or options.only != MEASURES or options.subjects != known
    ):
        parser.error("--readme cannot be combined with --only, --subjects, --no-peers or --endpoint")
    options.subjects = [
        subject
        for subject in [*OURS, *PEERS]
        if subject.name in options.subjects and (options.peers or not subject.extra)
    ]
    if options.quick:
        options.rounds = 1
    return options


def endpoint(text: str) -> str:
    """Check that a server is ready at the URL. The floors accept only `http://HOST:PORT`."""
    if text == SMALL:
        return text
    url = text.rstrip("/")
    if not re.fullmatch(r"http://[^/:]+:\d+", url):
        raise argparse.ArgumentTypeError(f"{text!r}: must be http://HOST:PORT")
    try:
        urllib.request.urlopen(f"{url}/health", timeout=10).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"no llama-server is ready at {url}: {error}") from None
    return url


def chosen(known: Sequence[str]) -> Callable[[str], List[str]]:
    def names(text: str) -> List[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown name {name!r} (expected one of: {', '.join(known)})")
        return text.split(",")

    return names


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number above 0")
    return int(text)


def counts(text: str) -> List[int]:
    return [positive(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
