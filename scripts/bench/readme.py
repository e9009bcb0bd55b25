"""Generate the table of scripts/bench/README.md, between two marks in the file."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

from .catalogue import FIGURES, Figure, Runs
from .figures import exponent, summary
from .report import CURVES, busy, number
from .subjects import FLYNN, PEERS

BEGIN, END = "<!-- made by: make bench ARGS=--readme -->", "<!-- up to here -->"
README = "scripts/bench/README.md"
CHART = "scripts/bench/chart.svg"
COLUMNS = [FLYNN, *PEERS]


def replaced(text: str, results: Dict[str, Any]) -> str:
    """Return the text with a new table. Raises ValueError if the marks are not in it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{README}: the marks for the table are missing: {BEGIN} and {END}")
    return "".join([before, begin, "\n", "\n".join(lines(results)), "\n", end, after])


def lines(results: Dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table, with the machine and versions above and the curves below."""
    machine, runs = results["machine"], results["runs"]
    versions = [f"{name} {version}" for size in results["sizes"].values() for name, version in size["versions"].items()]
    yield f"Medians of {results['rounds']} interleaved rounds. {machine['python']}, {machine['system']},"
    yield f"{machine['cores']} cores ({machine['processor']}), load {machine['load']} at the start."
    yield f"{', '.join(versions)}."
    yield f"{busy(runs)}."
    yield ""
    yield row("", "floor", *[subject.name for subject in COLUMNS])
    yield row("---", "---", *["---"] * len(COLUMNS))
    for figure in FIGURES:
        if figure.main and figure.key in runs:
            yield row(*cells(figure, runs))
    yield from sizes(results["sizes"])
    yield ""
    yield "![Flynn and its peers](chart.svg)"
    yield ""
    for curve, costs in results["curves"].items():
        medians = {int(size): summary(seconds).median for size, seconds in costs.items()}
        points = ", ".join(f"{size:,}: {number(cost * 1e3)} ms" for size, cost in medians.items())
        power = exponent(list(medians), list(medians.values()))
        yield f"- CPU for {CURVES[curve]}: {points}. Exponent: {power:.2f}."


def cells(figure: Figure, runs: Runs) -> List[str]:
    """Return the cells of a row: Flynn's median with its ratio to the floor, the others' with their ratios to Flynn."""
    medians = {subject: summary(values).median * figure.scale for subject, values in runs[figure.key].items()}
    key, subject = figure.floor
    floor = summary(runs[key][subject]).median * figure.scale
    row = [f"{figure.title}, {figure.unit}", f"{number(floor)} {subject}"]
    for column in COLUMNS:
        median = medians.get(column.name)
        if median is None:
            row.append("")
        elif column is FLYNN:
            row.append(f"**{number(median)}** ({number(median / floor)} × floor)")
        else:
            row.append(f"{number(median)} ({number(median / medians[FLYNN.name])} ×)")
    return row


def sizes(sizes: Dict[str, Any]) -> Iterator[str]:
    """Yield the rows with the installed sizes and the numbers of packages."""
    ours = sizes[FLYNN.name]
    installed = [f"**{number(ours['bytes'] / 1e6)}** (wheel: {ours['wheel'] / 1e3:.0f} KB)"]
    for peer in PEERS:
        size = sizes[peer.name]["bytes"]
        installed.append(f"{number(size / 1e6)} ({number(size / ours['bytes'])} ×)")
    yield row("installed, with dependencies, MB", "", *installed)
    yield row("packages installed", "", *[str(sizes[column.name]["packages"]) for column in COLUMNS])


def row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"
