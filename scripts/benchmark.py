#!/usr/bin/env python3
"""`make bench`: what Flynn costs, measured beside its peers and the floors that no client can pass.

python3 scripts/benchmark.py                           # everything
python3 scripts/benchmark.py --only import,first-token --rounds 15
python3 scripts/benchmark.py --no-peers                # Flynn and the floors alone: installs nothing
python3 scripts/benchmark.py --quick                   # one round: does it work? The figures are worth nothing
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import List

import environment  # the first of ours: it is what an old Python can still read
from bench import report
from bench.launch import ChildFailed
from bench.measures import MEASURES, measure
from bench.subjects import OURS, PEERS, Place


def main() -> int:
    options = arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="flynn-bench-") as folder:
            place = Place(Path(folder), peers=options.peers)
            subjects = [*OURS, *(PEERS if options.peers else [])]
            if options.subjects:
                subjects = [subject for subject in subjects if subject.name in options.subjects]
            runs = measure(place, subjects, options.only, options.rounds)
    except (environment.Unavailable, ChildFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report.table(runs))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=names, default=list(MEASURES), help=f"some of {', '.join(MEASURES)}")
    parser.add_argument("--subjects", type=lambda text: text.split(","), help="some of them, by name")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7)")
    parser.add_argument("--quick", dest="rounds", action="store_const", const=1, help="one round")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Flynn and the floors alone")
    parser.add_argument("--output", type=Path, default=environment.ROOT / "build" / "benchmarks.json", help="all runs")
    return parser.parse_args()


def names(text: str) -> List[str]:
    chosen = text.split(",")
    for name in chosen:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(MEASURES)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
