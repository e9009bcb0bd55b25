"""`make bench`: its statistics, its tables, its options, and a quick run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import List

import environment
import pytest
from bench import recording
from bench.figures import Summary, exponent, ratios, summary
from bench.readme import BEGIN, COLUMNS, END, README, with_table
from real_server import RealServer

SCRIPT = environment.ROOT / "scripts" / "benchmark.py"


def test_a_summary_is_the_median_and_the_range() -> None:
    assert summary([5.0, 1.0, 2.0]) == Summary(median=2.0, minimum=1.0, maximum=5.0)


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    assert ratios([2.0, 60.0], [1.0, 20.0]) == [2.0, 3.0]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_function(power: float) -> None:
    sizes = [10.0, 100.0, 1000.0]
    assert exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_a_stream_differs_from_the_recorded_one_only_in_its_length() -> None:
    recorded = (recording.RECORDED / "stream.http").read_bytes()
    assert recording.stream(64, progress=True) == recorded
    assert recording.stream(1000).count(b'"content":"') == 1000


def run_benchmark(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_flynn_and_the_floors_are_measured(tmp_path: Path) -> None:
    output = tmp_path / "benchmarks.json"
    table = run_benchmark("--quick", "--no-peers", "--output", str(output))
    assert "CPU per token, one stream" in table
    assert "N tiny events" in table
    results = json.loads(output.read_text())
    runs = results["runs"]
    for figure in ("import.wall", "first-token.memory", "sync-1.cpu", "async-64.cpu", "one-shot.wall"):
        assert runs[figure]["flynn"][0] > 0
    assert runs["sync-1.cpu"].keys() == {"raw socket", "http.client", "flynn"}
    assert results["curves"].keys() == {"line", "events", "history"}


def test_the_readme_has_a_place_for_the_table() -> None:
    readme = (environment.ROOT / README).read_text(encoding="utf-8")
    assert readme.index(BEGIN) < readme.index(END)


def test_only_the_text_between_the_marks_is_replaced() -> None:
    runs = {"import.wall": {"bare python": [0.010, 0.020], "flynn": [0.011, 0.024], "openai": [1.1, 1.2]}}
    runs.update({"sync-1.cpu": {"raw socket": [0.9]}, "sync-1.wall": {"raw socket": [1.0]}})
    machine = {"python": "CPython 3", "system": "Linux", "cores": 2, "processor": "x", "load": 0.0}
    size = {"versions": {"x": "1"}, "packages": 1, "bytes": 10**6, "wheel": 70_000}
    sizes = {column.name: size for column in COLUMNS}
    curves = {"line": {"10": [0.1], "100": [1.0]}}
    results = {"machine": machine, "rounds": 2, "runs": runs, "sizes": sizes, "curves": curves}
    text = with_table(f"before\n{BEGIN}\nold\n{END}\nafter", results)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter")
    assert "old" not in text
    assert "| import: the whole process, ms | 15 bare python | **17.5** (1.17 × floor) |  | 1,150 (65.7 ×) |" in text
    assert "CPU over wall of the raw socket, one stream: 90%" in text
    assert "10: 100 ms, 100: 1,000 ms. Exponent: 1.00." in text
    with pytest.raises(ValueError, match="the marks for the table are missing"):
        with_table("nothing", results)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--only", "imports"], "unknown name 'imports' (expected one of: import, "),
        (["--subjects", "flyn"], "unknown name 'flyn' (expected one of: bare python, "),
        (["--rounds", "0"], "'0': must be a whole number above 0"),
        (["--endpoint", "https://localhost"], "must be http://HOST:PORT"),
        (["--endpoint", "http://127.0.0.1:9"], "no llama-server is ready at http://127.0.0.1:9"),
        (["--readme", "--only", "import"], "--readme cannot be combined with --only"),
    ],
)
def test_a_wrong_option_prints_one_line(arguments: List[str], problem: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert problem in done.stderr.splitlines()[-1]


def test_flynn_and_the_floors_are_measured_with_a_real_server(real_server: RealServer, tmp_path: Path) -> None:
    output = tmp_path / "benchmarks.json"
    run_benchmark(
        "--no-peers",
        "--quick",
        "--endpoint",
        real_server.endpoint,
        "--streams",
        "1,2",
        "--tokens",
        "8",
        "--output",
        str(output),
    )
    runs = json.loads(output.read_text())["runs"]
    assert runs["real-async-2.rate"].keys() == {"flynn"}
    assert runs["real-sync-1.first"].keys() == {"raw socket", "http.client", "flynn"}
