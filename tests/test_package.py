"""The package: what importing it loads, where it works, and its public names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import answering, delta, serve, stream

import flynn

PACKAGE = Path(flynn.__file__).parent
HEAVY = {
    "asyncio",
    "ssl",
    "http.client",
    "argparse",
    "json",
    "dataclasses",
    "typing",
    "urllib",
    "email",
    "logging",
    "inspect",
}


def python(*arguments: str, folder: Path = PACKAGE.parent) -> str:
    """What a bare interpreter prints: no site-packages, no environment variables."""
    command = [sys.executable, "-S", "-W", "error", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=str(folder), timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_importing_flynn_loads_almost_no_modules() -> None:
    program = """
import sys; sys.path.insert(0, ".")
before = set(sys.modules)
import flynn
print(*set(sys.modules) - before)
"""
    loaded = set(python("-E", "-c", program).split())
    assert "flynn" in loaded
    assert loaded & HEAVY == set()
    assert loaded <= {"flynn", "__future__"}


def test_a_client_works_without_importing_asyncio_or_argparse() -> None:
    program = """
import sys; sys.path.insert(0, ".")
from flynn import LlamaCppClient
client = LlamaCppClient(sys.argv[1])
list(client.chat_stream("Hi"))
print(*sys.modules)
"""
    with serve(answering(stream(delta("x")))) as server:
        loaded = set(python("-E", "-c", program, server.endpoint).split())
    unused = {
        "asyncio",
        "argparse",
        "urllib.request",
        "logging",
        "flynn.tools",
        "flynn.structured",
    }
    assert loaded & unused == set()


def test_a_copied_folder_works_without_anything_installed(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "flynn", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import sys; sys.path.insert(0, ".")
import flynn
assert flynn.__file__.startswith(sys.argv[2]), flynn.__file__
print(*flynn.LlamaCppClient(sys.argv[1]).chat_stream("Hi").text())
"""
    with serve(answering(stream(delta("Hello"), delta("there")))) as server:
        said = python("-E", "-c", program, server.endpoint, str(tmp_path), folder=tmp_path)
    assert said == "Hello there\n"


@pytest.mark.parametrize("name", flynn.__all__)
def test_every_public_name_exists_and_is_listed(name: str) -> None:
    assert getattr(flynn, name) is getattr(flynn, name)
    assert name in dir(flynn)


def test_the_names_for_type_checkers_are_those_at_run_time() -> None:
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    declared = {line.rpartition(" as ")[2] for line in source.splitlines() if line.startswith("    from .")}
    assert declared == set(flynn.__all__) - {"__version__"}


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'flynn' has no attribute 'Client'"):
        flynn.Client  # type: ignore[attr-defined]  # noqa: B018
