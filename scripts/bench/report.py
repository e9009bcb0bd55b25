"""The results as a table for a terminal, and as JSON."""

from __future__ import annotations

from typing import Iterator, List

from .figures import ratios, summary
from .measures import FIGURES, Figure, Runs
from .subjects import FLYNN


def table(runs: Runs) -> str:
    """Every figure: the median of its runs, the least, the greatest; and the ratios to its floor and to Flynn."""
    return "\n".join(line for figure in FIGURES if figure.key in runs for line in [*_block(figure, runs), ""])


def _block(figure: Figure, runs: Runs) -> Iterator[str]:
    measured = runs[figure.key]
    key, subject = figure.floor
    floor = runs.get(key, {}).get(subject, [])
    header = f"{figure.title}, {figure.unit}"
    yield f"{header:44} {'median':>9} {'least':>9} {'greatest':>9}  {'x floor':>9} {'x flynn':>9}"
    for name, values in sorted(measured.items(), key=lambda item: summary(item[1]).median):
        shown = summary([value * figure.scale for value in values])
        columns = [_number(value) for value in (shown.median, shown.least, shown.greatest)]
        columns += ["", _ratio(values, floor), _ratio(values, measured.get(FLYNN.name, []))]
        mark = " (floor)" if figure.floor == (figure.key, name) else ""
        yield f"  {name + mark:42} {columns[0]:>9} {columns[1]:>9} {columns[2]:>9}  {columns[4]:>9} {columns[5]:>9}"


def _ratio(runs: List[float], base: List[float]) -> str:
    return _number(summary(ratios(runs, base)).median) if base else ""


def _number(value: float) -> str:
    """Three digits that count. Example: `_number(0.01234)` is `"0.0123"`"""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
