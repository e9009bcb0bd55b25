"""Format the results as a table for a terminal."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Sequence

from .catalogue import FIGURES, Curves, Figure, Runs
from .figures import exponent, ratios, summary
from .subjects import FLYNN, RAW

CURVES = {
    "line": "one event of N bytes",
    "events": "N tiny events",
    "history": "a history of N messages",
}


def table(results: Dict[str, Any], figures: Sequence[Figure] = FIGURES) -> str:
    """Return all results, one block for each figure."""
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
    yield f"load {machine['load']} at the start; rounds: {results['rounds']}"
    versions = [f"{name} {version}" for size in results["sizes"].values() for name, version in size["versions"].items()]
    yield ", ".join(versions)
    yield ""


def busy(runs: Runs) -> str:
    """Return a line about the share of wall time that the raw socket, the leanest client, is on the CPU."""
    shares = ratios(runs["sync-1.cpu"][RAW.name], runs["sync-1.wall"][RAW.name])
    share = summary(shares).median
    return f"CPU over wall of the raw socket, one stream: {share:.0%} (at 100% the client never waits for the server)"


def _figure(figure: Figure, runs: Runs) -> Iterator[str]:
    """Yield median, minimum, maximum, and the median ratios to the floor and to Flynn."""
    measured = runs[figure.key]
    key, subject = figure.floor
    floor = runs.get(key, {}).get(subject, [])
    yield _row(f"{figure.title}, {figure.unit}", "median", "min", "max", "x floor", "x flynn")
    for name, values in sorted(measured.items(), key=lambda item: summary(item[1]).median):
        scaled = summary([value * figure.scale for value in values])
        columns = [number(value) for value in (scaled.median, scaled.minimum, scaled.maximum)]
        columns += [ratio(values, floor), ratio(values, measured.get(FLYNN.name, []))]
        yield _row("  " + name + (" (floor)" if figure.floor == (figure.key, name) else ""), *columns)
    yield ""


def _curve(curve: str, curves: Curves) -> Iterator[str]:
    costs = {int(size): summary(runs).median for size, runs in curves[curve].items()}
    yield _row(f"{CURVES[curve]}: flynn's CPU, ms", *[f"{size:,}" for size in costs], "exponent")
    power = f"{exponent(list(costs), list(costs.values())):.2f}"
    yield _row("", *[number(cost * 1e3) for cost in costs.values()], power)
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
    """Return the median of the ratios, round by round; '' if there is no base."""
    return number(summary(ratios(runs, base)).median) if base else ""


def number(value: float) -> str:
    """Format a number with three significant digits. Example: `number(0.01234)` is `"0.0123"`"""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
