"""Every snippet of the documents runs as printed, but for the address of the server.

```python   all of a document, one after the other, as one program beside a real server
```sh       line by line, with the files that it names
```console  its commands that start with `make` name targets of the Makefile; tests of these run them
```yaml     is a configuration that Flynn reads
<!-- not run: reason --> before a snippet excepts it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

import pytest
from environment import ROOT
from real_server import RealServer

from flynn import load_config

NAMES = ["README.md", "CONTRIBUTING.md"]
DOCUMENTS = [ROOT / name for name in NAMES] + sorted(
    path for folder in ("flynn", "scripts", "tests") for path in (ROOT / folder).rglob("README.md")
)
FENCE = re.compile(r"^(<!-- not run: [^\n]+ -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://localhost:8080"
TEMPLATE = ROOT / "tests" / "data" / "tools.jinja"


class Snippet(NamedTuple):
    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def snippets(*languages: str) -> Iterator[Snippet]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2] in languages and not match[1]:
                yield Snippet(document, text.count("\n", 0, match.start(3)) + 1, match[2], match[3])


def programs() -> Dict[Path, List[Snippet]]:
    by_document: Dict[Path, List[Snippet]] = {}
    for snippet in snippets("python"):
        by_document.setdefault(snippet.document, []).append(snippet)
    return by_document


@pytest.fixture(scope="module")
def served(server_at_hand: None) -> Iterator[RealServer]:
    """The server of `make serve`, always with the likeliest token."""
    with RealServer(parallel=4, ctx_size=4 * 2048, chat_template_file=TEMPLATE, metrics=True, temp=0) as server:
        yield server


@pytest.fixture(scope="module")
def embedding_server(server_at_hand: None) -> Iterator[RealServer]:
    with RealServer(embeddings=True, pooling="mean") as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the files that snippets name, and the command."""
    files = {
        "prompts.jsonl": json.dumps({"prompt": "Hi", "max_tokens": 5}) + "\n",
        "questions.txt": "Name a fruit.\nName a colour.\n",
        "people.csv": "name,city\nAda,London\n",
        "letter.txt": "Greet {{name}} from {{city}}.",
        "sentences.txt": "The sky is blue.\n",
        "build.log": "error: disk full\n",
        "prompt.txt": "Name a colour.\n",
        "weather.py": 'def get_weather(city: str) -> str:\n    """Tell the weather."""\n    return "sunny"\n',
        "bin/flynn": f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m flynn "$@"\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "bin" / "flynn").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("document", programs(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_a_document_runs(document: Path, place: Path, served: RealServer) -> None:
    program = "\n".join(f"# {snippet}\n{snippet.text}" for snippet in programs()[document])
    path = place / "program.py"
    program = program.replace("LlamaCppClient()", f'LlamaCppClient("{ADDRESS}")').replace(ADDRESS, served.endpoint)
    path.write_text(program, encoding="utf-8")
    ended = run(["timeout", "200", sys.executable, str(path)], place, served)
    assert ended.returncode == 0, f"{ended.stderr}\n{program}"


@pytest.mark.parametrize("snippet", snippets("sh"), ids=str)
def test_the_commands_of_a_document_run(
    snippet: Snippet, place: Path, served: RealServer, embedding_server: RealServer
) -> None:
    for line in snippet.text.splitlines():
        server = embedding_server if "--embeddings" in line else served
        ended = run(["timeout", "120", "sh", "-c", line], place, server)
        assert ended.returncode == 0, f"{snippet}: {line}\n{ended.stderr}"


@pytest.mark.parametrize("snippet", snippets("console"), ids=str)
def test_the_targets_of_make_in_a_document_exist(snippet: Snippet) -> None:
    for target in re.findall(r"^\$ make ([a-z-]+)", snippet.text, re.MULTILINE):
        ended = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, f"{snippet}: {ended.stderr}"


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=str)
def test_a_configuration_of_a_document_is_read(snippet: Snippet, tmp_path: Path) -> None:
    path = tmp_path / "flynn.yaml"
    path.write_text(snippet.text)
    assert load_config(path, environ={}).models["local"].endpoint == ADDRESS


def run(command: List[str], place: Path, server: RealServer) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "FLYNN_ENDPOINT": server.endpoint,
        "HOME": str(place),
        "XDG_STATE_HOME": str(place / "state"),
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(command, cwd=place, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
