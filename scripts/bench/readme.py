"""The table of the README, between two marks in it."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

from .catalogue import FIGURES, Figure, Runs
from .figures import exponent, summary
from .report import CURVES, busy, number, ratio
from .subjects import FLYNN, PEERS

BEGIN, END = "<!-- made by: make bench ARGS=--readme -->", "<!-- up to here -->"
CHART = "scripts/bench/chart.svg"
COLUMNS = [FLYNN, *PEERS]


def replaced(text: str, results: Dict[str, Any]) -> str:
    """The README with a new table. Raises ValueError if the marks are not in it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md has no place for the table: {BEGIN} and {END}")
    return "".join([before, begin, "\n", "\n".join(lines(results)), "\n", end, after])


def lines(results: Dict[str, Any]) -> Iterator[str]:
    machine, runs = results["machine"], results["runs"]
    versions = [f"{name} {version}" for size in results["sizes"].values() for name, version in size["versions"].items()]
    yield f"Medians of {results['rounds']} interleaved rounds. {machine['python']}, {machine['system']},"
    yield f"{machine['cores']} cores ({machine['processor']}), load {machine['load']} at the beginning."
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
    yield f"![Flynn beside its peers]({CHART})"
    yield ""
    for curve, costs in results["curves"].items():
        medians = {int(size): summary(seconds).median for size, seconds in costs.items()}
        points = ", ".join(f"{size:,}: {number(cost * 1e3)} ms" for size, cost in medians.items())
        power = exponent(list(medians), list(medians.values()))
        yield f"- CPU for {CURVES[curve]}: {points}. Exponent: {power:.2f}."


def cells(figure: Figure, runs: Runs) -> List[str]:
    """Flynn's figure with its ratio to the floor; those of others with their ratios to Flynn."""
    measured = runs[figure.key]
    key, subject = figure.floor
    floor = runs[key][subject]
    shown = [f"{figure.title}, {figure.unit}", f"{number(summary(floor).median * figure.scale)} {subject}"]
    for column in COLUMNS:
        values = measured.get(column.name)
        if values:
            over = ratio(values, floor if column is FLYNN else measured[FLYNN.name])
            value = number(summary(values).median * figure.scale)
            shown.append(f"**{value}** ({over} × floor)" if column is FLYNN else f"{value} ({over} ×)")
        else:
            shown.append("")
    return shown


def sizes(sizes: Dict[str, Any]) -> Iterator[str]:
    ours = sizes[FLYNN.name]
    installed = [f"**{number(ours['bytes'] / 1e6)}** (wheel: {ours['wheel'] / 1e3:.0f} KB)"]
    for peer in PEERS:
        size = sizes[peer.name]["bytes"]
        installed.append(f"{number(size / 1e6)} ({number(size / ours['bytes'])} ×)")
    yield row("installed, with all that it requires, MB", "", *installed)
    yield row("packages installed", "", *[str(sizes[column.name]["packages"]) for column in COLUMNS])


def row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"
