"""flynn.pyz: its contents, its reproducible build, and that it works like an installed Flynn."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import List

import build_pyz
import environment
import pytest
from command import Home
from real_server import RealServer

import flynn


def test_the_build_is_reproducible(pyz: Path, tmp_path: Path) -> None:
    build_pyz.build(tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()


def test_it_contains_every_module_and_the_licence(pyz: Path) -> None:
    names = [module.name for module in pkgutil.walk_packages(flynn.__path__, "flynn.")]
    assert "flynn.models.local.llamacpp" in names
    program = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]: importlib.import_module(name)
"""
    importable = [name for name in names if name != "flynn.__main__"]
    subprocess.run([sys.executable, "-I", "-S", "-W", "error", "-c", program, str(pyz), *importable], check=True)
    with zipfile.ZipFile(pyz) as archive:
        assert archive.read("LICENSE") == (environment.ROOT / "LICENSE").read_bytes()


def test_it_runs_directly_and_with_python(pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    for command in ([str(pyz)], [sys.executable, str(pyz)]):
        output = subprocess.check_output([*command, "--version"], env={"PATH": str(tmp_path)}, text=True)
        assert output == f"flynn {flynn.__version__}\n"


@pytest.mark.parametrize("command", ["", "ask", "chat", "batch", "status", "tokens"])
def test_its_help_equals_that_of_the_command(command: str, pyz: Path, home: Home) -> None:
    arguments = [*command.split(), "--help"]
    assert home.run(*arguments, python=(sys.executable, str(pyz))) == home.run(*arguments)


def test_every_command_works(pyz: Path, home: Home, real_server: RealServer) -> None:
    home.write("in.jsonl", '{"prompt": "Hi", "max_tokens": 3}\n' * 3)
    commands: List[List[str]] = [
        ["ask", "--max-tokens", "3", "Hi"],
        ["chat", "--max-tokens", "3"],
        ["status"],
        ["tokens", "Hi"],
        ["batch", "in.jsonl", "-o", "out.jsonl"],
    ]
    for command in commands:
        ended = home.run(
            *command, "--endpoint", real_server.endpoint, stdin="Hi\n", python=(sys.executable, "-W", "error", str(pyz))
        )
        assert ended.code == 0, (command, ended)
        assert ended.out or command[0] == "batch"
    assert (home.path / "out.jsonl").read_text().count('"error":null') == 3


LIBRARY = """
import sys
sys.path.insert(0, sys.argv[1])
import asyncio, flynn
from flynn.batch import run
client = flynn.LlamaCppClient(sys.argv[2])
assert client.chat("Hi", max_tokens=3).content
assert "".join(client.chat_stream("Hi", max_tokens=3).text())
assert [result.error for result in run(["Hi"], client, defaults={"max_tokens": 3})] == [None]
async def main():
    async with flynn.AsyncLlamaCppClient(sys.argv[2]) as client:
        return await client.chat("Hi", max_tokens=3)
assert asyncio.run(main()).content
print(flynn.__file__, flynn.errors.__file__)
"""


def test_it_is_the_library_when_it_is_on_sys_path(pyz: Path, home: Home, real_server: RealServer) -> None:
    ended = home.run(str(pyz), real_server.endpoint, python=(sys.executable, "-I", "-S", "-W", "error", "-c", LIBRARY))
    assert ended == (0, f"{pyz}/flynn/__init__.py {pyz}/flynn/errors.py\n", "")


def test_its_tracebacks_have_the_source_lines_of_the_checkout(pyz: Path) -> None:
    program = """
import sys, traceback
sys.path.insert(0, sys.argv[1])
import flynn
try:
    flynn.LlamaCppClient("nonsense")
except flynn.ConfigError as error:
    for frame in traceback.extract_tb(error.__traceback__)[1:]:
        print(frame.filename, frame.lineno, frame.line, sep="|")
"""
    output = subprocess.check_output([sys.executable, "-I", "-c", program, str(pyz)], text=True)
    frames = [line.split("|", 2) for line in output.splitlines()]
    assert len(frames) > 1
    for path, number, line in frames:
        source = environment.ROOT / os.path.relpath(path, pyz)
        assert source.read_text(encoding="utf-8").splitlines()[int(number) - 1].strip() == line


def test_an_old_python_prints_one_line(pyz: Path, home: Home) -> None:
    as_old = "import runpy, sys; sys.version_info = (3, 8, 20); sys.version = '3.8.20 (x)'; runpy.run_path(sys.argv[1])"
    ended = home.run(str(pyz), python=(sys.executable, "-c", as_old))
    assert ended == (1, "", "Flynn needs Python 3.9 or later, and this is 3.8.20\n")
