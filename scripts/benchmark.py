#!/usr/bin/env python3
"""`make bench`: what Flynn costs, measured beside its peers and the floors that no client can pass.

Examples:
    make bench                                                  # all of it
    make bench ARGS="--only import,first-token --rounds 15"
    make bench ARGS="--no-peers"                                # Flynn and the floors alone; installs nothing
    make bench ARGS="--quick"                                   # does it work? The figures are worth nothing
    make bench ARGS="--readme"                                  # and renew the table and the chart of its README

    make bench ARGS="--endpoint"                                # with the small model of make demo, on the CPU
    make bench ARGS="--endpoint http://localhost:8080 --streams 1,32 --tokens 256"

The last one is for a server of yours. On a GPU start it first, with a slot for each stream, as in
    llama-server -m model.gguf -ngl 99 -np 32 -c 65536 --backend-sampling
Then tokens/s, the seconds to the first token and the client's CPU are measured, and nothing else.

Wants Linux and a machine that does nothing else. A table goes to standard output, every run to --output. Exit codes:
0 done, 1 failed, 2 usage, 130 interrupted.
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

import environment  # the first of ours: it is what an old Python can still read
from bench import report, rounds
from bench.catalogue import MEASURES, real_figures
from bench.launch import ChildFailed
from bench.readme import CHART, README, replaced
from bench.subjects import OURS, PEERS, SCRIPTS, Place
from bench.wheel import flynn_wheel
from real_server import RealServer, ServerFailed

SMALL = "small"  # an --endpoint of our own


def main() -> int:
    options = arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="flynn-bench-") as folder:
            place = Place(Path(folder, "place"), peers=options.peers)
            if options.endpoint:
                against_a_real_server(options, place)
            else:
                against_a_recording(options, place, Path(folder))
    except (environment.Unavailable, ServerFailed, ChildFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def against_a_recording(options: argparse.Namespace, place: Place, folder: Path) -> None:
    results = described(options, place)
    if "wheel" in options.only and options.peers:
        results["sizes"]["flynn"] = flynn_wheel(place, folder)
    results["runs"] = rounds.measure(place, options.subjects, options.only, options.rounds)
    if "curves" in options.only:
        results["curves"] = rounds.curves(place, options.rounds, 0.01 if options.quick else 1.0)
    print(report.table(results))
    write(results, options.output)
    if options.readme:
        readme = environment.ROOT / README
        readme.write_text(replaced(readme.read_text(encoding="utf-8"), results), encoding="utf-8")
        chart = [place.builder, "-m", "bench.chart", str(options.output), str(environment.ROOT / CHART)]
        subprocess.run(chart, check=True, cwd=SCRIPTS)


def against_a_real_server(options: argparse.Namespace, place: Place) -> None:
    results = described(options, place)
    with contextlib.ExitStack() as stack:
        url = options.endpoint
        if url == SMALL:
            url = stack.enter_context(
                RealServer(parallel=max(options.streams), ctx_size=1024 * max(options.streams))
            ).endpoint
        results["runs"] = rounds.against(place, options.subjects, url, options.streams, options.tokens, options.rounds)
    print(report.table(results, real_figures(options.streams)))
    write(results, options.output)


def described(options: argparse.Namespace, place: Place) -> Dict[str, Any]:
    """Results with all but what is measured."""
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
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Flynn and the floors alone")
    parser.add_argument("--rounds", type=positive, default=7, help="how often each is measured (7)")
    parser.add_argument("--quick", action="store_true", help="one round, small curves")
    parser.add_argument("--readme", action="store_true", help=f"renew {README} and the chart; wants all measures")
    parser.add_argument(
        "--endpoint", type=endpoint, nargs="?", const=SMALL, metavar="URL", help="measure with a real llama-server"
    )
    parser.add_argument("--streams", type=counts, default=[1, 4], help="with --endpoint: how many at once (1,4)")
    parser.add_argument("--tokens", type=positive, default=128, help="with --endpoint: in each stream (128)")
    parser.add_argument("--output", type=Path, default=environment.ROOT / "build" / "benchmarks.json", help="all runs")
    options = parser.parse_args()
    if options.readme and (
        options.endpoint or not options.peers or options.only != MEASURES or options.subjects != known
    ):
        parser.error("--readme wants everything measured")
    options.subjects = [
        subject
        for subject in [*OURS, *PEERS]
        if subject.name in options.subjects and (options.peers or not subject.extra)
    ]
    if options.quick:
        options.rounds = 1
    return options


def endpoint(text: str) -> str:
    """The URL of a server that answers: the floors take nothing but `http://HOST:PORT`."""
    if text == SMALL:
        return text
    url = text.rstrip("/")
    if not re.fullmatch(r"http://[^/:]+:\d+", url):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form http://HOST:PORT")
    try:
        urllib.request.urlopen(f"{url}/health", timeout=10).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"no llama-server is ready at {url}: {error}") from None
    return url


def chosen(known: Sequence[str]) -> Callable[[str], List[str]]:
    def names(text: str) -> List[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return text.split(",")

    return names


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def counts(text: str) -> List[int]:
    return [positive(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
