"""Draw the chart of the README as SVG that is readable on a light and on a dark background.

python -m bench.chart benchmarks.json chart.svg     # needs matplotlib
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict

import matplotlib

from .figures import summary
from .report import number

matplotlib.use("svg")
from matplotlib import pyplot

TEXT, FLYNN, OTHERS, FLOOR = "#808890", "#2f81f7", "#9aa4ae", "#5b9a68"
BARS = ["floor", "flynn", "requests", "httpx + httpx-sse", "ollama", "openai", "langchain", "litellm"]
PANELS = {
    "first-token.wall": ("New process to first token", "ms", 1e3, "http.client"),
    "first-token.memory": ("Its peak memory", "MiB", 1 / 2**20, "http.client"),
    "sync-1.cpu": ("CPU per streamed token", "µs", 1e6, "raw socket"),
    "installed": ("Installed, dependencies included", "MB", 1e-6, ""),
}


def main(results: str, chart: str) -> None:
    draw(json.loads(Path(results).read_text(encoding="utf-8")), chart)


def draw(results: Dict[str, Any], path: str) -> None:
    """Draw the chart of the results into the SVG file at `path`."""
    pyplot.rcParams.update(
        {
            "svg.hashsalt": "flynn",  # makes the file reproducible
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 8,
            "text.color": TEXT,
            "ytick.color": TEXT,
        }
    )
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(10, 2.5), sharey=True, layout="constrained")
    for axes, (key, (title, unit, scale, floor)) in zip(panels, PANELS.items()):
        values = {name: value * scale for name, value in medians_of(results, key, floor).items()}
        names = [name for name in BARS if name in values]
        colors = [{"floor": FLOOR, "flynn": FLYNN}.get(name, OTHERS) for name in names]
        axes.barh([BARS.index(name) for name in names], [values[name] for name in names], color=colors, height=0.7)
        axes.set_xscale("log")
        axes.set_xlim(min(values.values()) / 3, max(values.values()) * 8)
        for name in names:
            axes.text(values[name] * 1.1, BARS.index(name), f"{number(values[name])} {unit}", va="center", fontsize=7.5)
        axes.set_title(title, fontsize=9, color=TEXT)
        axes.set_yticks(range(len(BARS)), BARS)
        axes.tick_params(length=0)
        axes.xaxis.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[0].invert_yaxis()
    figure.supxlabel("medians; logarithmic scale", fontsize=7.5, color=TEXT)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def medians_of(results: Dict[str, Any], key: str, floor: str) -> Dict[str, float]:
    """Return the median of a figure for each subject; the floor is called "floor"."""
    if key == "installed":
        return {name: float(size["bytes"]) for name, size in results["sizes"].items()}
    medians = {name: summary(runs).median for name, runs in results["runs"][key].items()}
    return {("floor" if name == floor else name): median for name, median in medians.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
