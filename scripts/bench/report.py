"""The results as a table for a terminal."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Sequence

from .catalogue import FIGURES, Curves, Figure, Runs
from .figures import exponent, ratios, summary
from .subjects import FLYNN, RAW

CURVES = {
    "line": "one event of so many bytes",
    "events": "so many tiny events",
    "history": "a history of so many messages",
}


def table(results: Dict[str, Any], figures: Sequence[Figure] = FIGURES) -> str:
    """All that was measured, in blocks."""
    runs: Runs = results["runs"]
    lines = list(_about(results))
    for figure in figures:
        if figure.key in runs:
            lines += _figure(figure, runs)
    if RAW.name in runs.get("sync-1.cpu", {}):
        lines += [busy(runs), ""]
    for curve in results["curves"]:
        lines += _curve(curve, results["curves"])
    if "flynn" in results["sizes"]:
        lines += _sizes(results["sizes"])
    return "\n".join(lines)


def _about(results: Dict[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield f"{machine['python']} on {machine['system']}, {machine['cores']} cores, {machine['processor']}"
    yield f"load {machine['load']} at the beginning; rounds: {results['rounds']}"
    versions = [f"{name} {version}" for size in results["sizes"].values() for name, version in size["versions"].items()]
    yield ", ".join(versions)
    yield ""


def busy(runs: Runs) -> str:
    """How far the server was waited for, told by the client that computes least."""
    shares = ratios(runs["sync-1.cpu"][RAW.name], runs["sync-1.wall"][RAW.name])
    share = summary(shares).median
    return f"CPU over wall of the raw socket, one stream: {share:.0%} (at 100% the server is never waited for)"


def _figure(figure: Figure, runs: Runs) -> Iterator[str]:
    """The median of its runs, the least, the greatest; and the median of the ratios to its floor and to Flynn."""
    measured = runs[figure.key]
    key, subject = figure.floor
    floor = runs.get(key, {}).get(subject, [])
    yield _row(f"{figure.title}, {figure.unit}", "median", "least", "greatest", "x floor", "x flynn")
    for name, values in sorted(measured.items(), key=lambda item: summary(item[1]).median):
        shown = summary([value * figure.scale for value in values])
        columns = [number(value) for value in (shown.median, shown.least, shown.greatest)]
        columns += [ratio(values, floor), ratio(values, measured.get(FLYNN.name, []))]
        yield _row("  " + name + (" (floor)" if figure.floor == (figure.key, name) else ""), *columns)
    yield ""


def _curve(curve: str, curves: Curves) -> Iterator[str]:
    costs = {int(size): summary(runs).median for size, runs in curves[curve].items()}
    yield _row(f"{CURVES[curve]}: flynn's CPU, ms", *[f"{size:,}" for size in costs], "exponent")
    grows = f"{exponent(list(costs), list(costs.values())):.2f}"
    yield _row("", *[number(cost * 1e3) for cost in costs.values()], grows)
    yield ""


def _sizes(sizes: Dict[str, Any]) -> Iterator[str]:
    yield f"flynn's wheel: {sizes['flynn']['wheel']:,} bytes"
    yield _row("installed, bytecode included", "MB", "packages", "x flynn")
    for name, size in sorted(sizes.items(), key=lambda item: int(item[1]["bytes"])):
        columns = [number(size["bytes"] / 1e6), str(size["packages"]), number(size["bytes"] / sizes["flynn"]["bytes"])]
        yield _row("  " + name, *columns)
    yield ""


def _row(first: str, *columns: str) -> str:
    return f"{first:54}" + "".join(f"{column:>11}" for column in columns)


def ratio(runs: List[float], base: List[float]) -> str:
    """The median of the ratios, round by round; nothing where there is no base."""
    return number(summary(ratios(runs, base)).median) if base else ""


def number(value: float) -> str:
    """Three digits that count. Example: `number(0.01234)` is `"0.0123"`"""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
