#!/usr/bin/env python3
"""`make bench`: what Flynn costs, measured beside its peers and the floors that no client can pass.

Examples:
    make bench                                                  # all of it
    make bench ARGS="--only import,first-token --rounds 15"
    make bench ARGS="--no-peers"                                # Flynn and the floors alone; installs nothing
    make bench ARGS="--quick"                                   # does it work? The figures are worth nothing
    make bench ARGS="--readme"                                  # and put the table and the chart into the README

Wants a machine that does nothing else. A table goes to standard output, every run to --output. Exit codes: 0 done,
1 failed, 2 usage, 130 interrupted.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import environment  # the first of ours: it is what an old Python can still read
from bench import report, rounds
from bench.catalogue import MEASURES
from bench.launch import ChildFailed
from bench.subjects import OURS, PEERS, Place
from bench.wheel import flynn_wheel


def main() -> int:
    options = arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="flynn-bench-") as folder:
            results = measured(options, Path(folder))
    except (environment.Unavailable, ChildFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report.table(results))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def measured(options: argparse.Namespace, folder: Path) -> Dict[str, Any]:
    place = Place(folder / "place", peers=options.peers)
    peers = PEERS if options.peers else []
    subjects = [subject for subject in [*OURS, *peers] if subject.name in (options.subjects or subject.name)]
    sizes = {
        subject.name: rounds.child(place, place.python_of(subject), "bench.sizes", *subject.packages)
        for subject in subjects
        if subject in peers
    }
    if "wheel" in options.only and options.peers:
        sizes["flynn"] = flynn_wheel(place, folder)
    share = 0.01 if options.quick else 1.0
    return {
        "machine": machine(),
        "rounds": options.rounds,
        "sizes": sizes,
        "runs": rounds.measure(place, subjects, options.only, options.rounds),
        "curves": rounds.curves(place, options.rounds, share) if "curves" in options.only else {},
    }


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
    parser.add_argument("--only", type=names, default=list(MEASURES), help=f"some of {', '.join(MEASURES)}")
    parser.add_argument("--subjects", type=lambda text: text.split(","), help="some of them, by name")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7)")
    parser.add_argument("--quick", action="store_true", help="one round, small curves")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Flynn and the floors alone")
    parser.add_argument("--output", type=Path, default=environment.ROOT / "build" / "benchmarks.json", help="all runs")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def names(text: str) -> List[str]:
    chosen = text.split(",")
    for name in chosen:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(MEASURES)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
