"""Every snippet of the documents runs as printed, but for the address of the server.

```python   all of a document, one after the other, as one program beside a real server
```sh       line by line, with the files that it names
```console  its commands that start with `make` name targets of the Makefile; tests of these run them
```yaml     is a configuration that Flynn reads
<!-- on: KIND --> before a snippet names the server that it needs: one of SERVERS
<!-- not run: reason --> before a snippet excepts it
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

import environment
import pytest
from dask_cluster import DaskCluster
from environment import ROOT
from real_server import RealServer
from service import hub

from flynn import load_config

NAMES = ["README.md", "CONTRIBUTING.md"]
DOCUMENTS = [ROOT / name for name in NAMES] + sorted(
    path for folder in ("flynn", "scripts", "tests") for path in (ROOT / folder).rglob("README.md")
)
FENCE = re.compile(r"^(?:<!-- (not run|on): ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVERS = {
    "a server": "served",
    "a server with --embeddings": "embedding_server",
    "a server with several models": "server_of_several",
}
ADDRESS = "http://localhost:8080"
SCHEDULER = "tcp://scheduler:8786"
FAILED = ROOT / "tests" / "data" / "answers.jsonl.errors.jsonl"
TEMPLATE = ROOT / "tests" / "data" / "tools.jinja"


class Snippet(NamedTuple):
    document: Path
    line: int
    language: str
    text: str
    server: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def snippets(*languages: str) -> Iterator[Snippet]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[3] in languages and match[1] != "not run":
                line = text.count("\n", 0, match.start(4)) + 1
                yield Snippet(document, line, match[3], match[4], match[2] or "a server")


def programs() -> Dict[str, List[Snippet]]:
    """The Python of each document, those snippets apart that need another server."""
    by_document: Dict[str, List[Snippet]] = {}
    for snippet in snippets("python"):
        name = str(snippet.document.relative_to(ROOT)) if snippet.server == "a server" else str(snippet)
        by_document.setdefault(name, []).append(snippet)
    return by_document


@pytest.fixture(scope="module")
def served(server_at_hand: None) -> Iterator[RealServer]:
    """The server of `make serve`, always with the likeliest token; where a snippet sets no limit, 60 of them."""
    options = {"parallel": 4, "ctx_size": 4 * 2048, "metrics": True, "temp": 0, "n_predict": 60}
    with RealServer(chat_template_file=TEMPLATE, **options) as server:
        yield server


@pytest.fixture(scope="module")
def embedding_server(server_at_hand: None) -> Iterator[RealServer]:
    with RealServer(embeddings=True, pooling="mean") as server:
        yield server


@pytest.fixture(scope="module")
def server_of_several(
    server_at_hand: None, native: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    """llama.cpp's own server without a model, which downloads from a hub on this machine."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "models").mkdir()
    for name in ("qwen", "qwen2.5-7b"):
        (folder / "models" / f"{name}.gguf").symlink_to(environment.model())
    with hub.running() as fake:
        fake.files["gemma-3-4b-it-Q4_K_M.gguf"] = environment.model().read_bytes()[:1_000_000]
        settings = [f"HF_ENDPOINT={fake.endpoint}", f"HF_HUB_CACHE={folder / 'cache'}", f"HOME={folder}"]
        command = ["env", *settings, str(native / "llama-server")]
        options = {"models_dir": folder / "models", "no_models_autoload": True, "ctx_size": 512, "parallel": 1}
        with RealServer(command=command, model=None, **options) as server:
            yield server


@pytest.fixture
def dask_address(served: RealServer) -> Iterator[str]:
    with DaskCluster([served.endpoint], threads=1) as cluster:
        yield cluster.address


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


@pytest.mark.parametrize("name", programs())
def test_the_python_of_a_document_runs(name: str, place: Path, request: pytest.FixtureRequest) -> None:
    parts = programs()[name]
    server: RealServer = request.getfixturevalue(SERVERS[parts[0].server])
    program = "\n".join(f"# {snippet}\n{snippet.text}" for snippet in parts)
    if parts[0].server != "a server":
        program = f"from flynn import LlamaCppClient\nclient = LlamaCppClient()\n{program}"
    program = program.replace("LlamaCppClient()", f'LlamaCppClient("{ADDRESS}")').replace(ADDRESS, server.endpoint)
    (place / "program.py").write_text(program, encoding="utf-8")
    for snippet in snippets("yaml"):
        if snippet.document == parts[0].document:
            (place / "flynn.yaml").write_text(snippet.text)
    ended = run(["timeout", "200", sys.executable, "program.py"], place, server)
    assert ended.returncode == 0, f"{ended.stderr}\n{program}"


@pytest.mark.parametrize("snippet", snippets("sh"), ids=str)
def test_the_commands_of_a_document_run(snippet: Snippet, place: Path, request: pytest.FixtureRequest) -> None:
    for line in snippet.text.splitlines():
        if FAILED.name in line:
            (place / FAILED.name).write_text(FAILED.read_text())
        if SCHEDULER in line:
            line = line.replace(SCHEDULER, request.getfixturevalue("dask_address"))
        kind = "a server with --embeddings" if "--embeddings" in line else snippet.server
        ended = run(["timeout", "120", "sh", "-c", line], place, request.getfixturevalue(SERVERS[kind]))
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
