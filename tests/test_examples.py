"""The programs in scripts/examples/, each as a process of its own, with the real llama.cpp server."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest
from real_server import RealServer

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "scripts" / "examples"
FILES = {
    "1.txt": "Chess for beginners: 5 May 2026 in Bergen, admission free.",
    "2.txt": "On 2026-06-07 the band plays in Porto. Tickets cost 12 euros.",
    "reviews": "I loved it.\nThe soup was cold.\n",
}


@dataclass
class Example:
    """How a program is run, and what it writes: regular expressions for the whole output and the whole of the errors.

    Args:
        arguments: `{folder}` stands for a folder with FILES. The endpoint is appended, or set as FLYNN_ENDPOINT.
        typed: standard input.
    """

    program: str
    arguments: Sequence[str]
    output: str
    errors: str = ""
    typed: str = ""
    by_environment: bool = False


# An earlier call shows so small a model what is wanted.
_QUESTION = """days_between 2025-02-03 2025-02-04?<|im_end|>
<|im_start|>assistant

<tool_call>
{"name": "days_between", "arguments": {"start": "2025-02-03", "end": "2025-02-04"}}
</tool_call><|im_end|>
<|im_start|>user
days_between 2026-01-31 2026-03-01?"""

_EVENT = (
    r'{"file": "%s", "title": ".{0,60}", "city": ".{0,30}", "day": "\d{4}-\d\d-\d\d", "price": "(free|paid|unknown)"}'
    "\n"
)
_CALL = r'\[days_between \{"start": ?"2026-01-31", ?"end": ?"2026-03-01"\}: 29\]\n'

RUNS = [
    Example("extract.py", ["{folder}"], _EVENT % "1.txt" + _EVENT % "2.txt"),
    Example("extract.py", ["{folder}"], _EVENT % "1.txt" + _EVENT % "2.txt", by_environment=True),
    Example("tool.py", [_QUESTION], r"(?s).+\n", _CALL),
    Example("batch.py", ["{folder}/reviews"], r'({"review": ".*", "opinion": "(good|bad|mixed)"}\n){2}'),
    Example("chat.py", [], r"(?s)> .+\n> .+\n> ", typed="Say hello.\nAnd goodbye.\n\n"),
]


def environment(**more: str) -> Dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}


@pytest.mark.parametrize("example", RUNS, ids=lambda example: f"{example.program}-{example.by_environment}")
def test_an_example_runs(example: Example, tool_server: RealServer, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command: List[str] = [sys.executable, str(EXAMPLES / example.program)]
    command += [argument.replace("{folder}", str(tmp_path)) for argument in example.arguments]
    extra = {"FLYNN_ENDPOINT": tool_server.endpoint} if example.by_environment else {}
    command += [] if example.by_environment else [tool_server.endpoint]
    ran = run(command, example.typed, environment(**extra))
    assert re.fullmatch(example.errors, ran.stderr), ran.stderr
    assert re.fullmatch(example.output, ran.stdout), ran.stdout
    assert ran.returncode == 0


def test_the_service_answers_a_line(tool_server: RealServer) -> None:
    command = [sys.executable, str(EXAMPLES / "service.py"), "0", tool_server.endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as service:
        try:
            assert service.stdout is not None
            port = int(service.stdout.readline().rpartition(b":")[2])
            with socket.create_connection(("127.0.0.1", port), 60) as connection, connection.makefile("rb") as answers:
                connection.sendall(b"The sky is blue because air scatters blue light.\n")
                line = answers.readline()
        finally:
            service.terminate()
    assert line.strip()
    assert not line.startswith(b"error")


@pytest.mark.parametrize("program", ["extract.py", "tool.py"])
def test_an_example_without_a_server_says_so_in_one_line(program: str, tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("Chess", encoding="utf-8")
    with contextlib.closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        ran = run([sys.executable, str(EXAMPLES / program), str(tmp_path), endpoint], "", environment())
    assert ran.stderr.endswith(f"llama-server not running at {endpoint}\n")
    assert (ran.stderr.count("\n"), ran.stdout, ran.returncode) == (1, "", 1)


def test_every_example_is_tested_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*(example.program for example in RUNS), "service.py"}


def run(command: List[str], typed: str, variables: Dict[str, str]) -> subprocess.CompletedProcess[Any]:
    return subprocess.run(
        command, input=typed, env=variables, capture_output=True, encoding="utf-8", timeout=120, check=False
    )
