"""Statistics of runs: medians, ratios of runs of the same round, and the exponent of a curve."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import List, Sequence


@dataclass(frozen=True)
class Summary:
    """The median, minimum and maximum of runs."""

    median: float
    minimum: float
    maximum: float


def summary(runs: Sequence[float]) -> Summary:
    """Example: `summary([3.0, 1.0, 2.0])` is `Summary(median=2.0, minimum=1.0, maximum=3.0)`"""
    return Summary(statistics.median(runs), min(runs), max(runs))


def ratios(runs: Sequence[float], floor: Sequence[float]) -> List[float]:
    """Divide each run by the floor's run in the same round, so that a slow moment of the machine affects both.

    Example: `ratios([2.0, 6.0], [1.0, 2.0])` is `[2.0, 3.0]`
    """
    return [run / base for run, base in zip(runs, floor)]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Fit cost = c * size ** k by least squares of the logarithms. Returns k: 1 is linear, 2 is quadratic."""
    x = [math.log(size) for size in sizes]
    y = [math.log(cost) for cost in costs]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    return covariance / sum((a - mean_x) ** 2 for a in x)
