"""`make bench`: what is made of its runs, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import environment
import pytest
from bench import recording
from bench.figures import Summary, exponent, ratios, summary


def test_a_summary_is_the_median_and_the_range() -> None:
    assert summary([5.0, 1.0, 2.0]) == Summary(median=2.0, least=1.0, greatest=5.0)


def test_a_ratio_is_of_runs_of_the_same_round() -> None:
    assert ratios([2.0, 60.0], [1.0, 20.0]) == [2.0, 3.0]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power: float) -> None:
    sizes = [10.0, 100.0, 1000.0]
    assert exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_a_stream_is_the_recorded_one_but_for_its_length() -> None:
    recorded = (recording.RECORDED / "stream.http").read_bytes()
    assert recording.stream(64, progress=True) == recorded
    assert recording.stream(1000).count(b'"content":"') == 1000


def test_it_measures_flynn_and_the_floors(tmp_path: Path) -> None:
    output = tmp_path / "benchmarks.json"
    script = environment.ROOT / "scripts" / "benchmark.py"
    command = [sys.executable, str(script), "--quick", "--no-peers", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    runs = json.loads(output.read_text())["runs"]
    for figure in ("import.wall", "first-token.memory", "sync-1.cpu", "async-64.cpu", "one-shot.wall"):
        assert runs[figure]["flynn"][0] > 0
    assert runs["sync-1.cpu"].keys() == {"raw socket", "http.client", "flynn"}
    assert "CPU per token, one stream" in done.stdout
