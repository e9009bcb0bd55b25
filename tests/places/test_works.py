"""Where little is given Flynn works; the real server answers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import List, Sequence

import pytest
from command import ROOT, Home
from real_server import RealServer
from scripted import answering, delta, serve, stream

from .places import READ_ONLY, WITHOUT_SSL, after

# What stands before `python flynn.pyz ...`.
PLACES = {
    "no environment, as under cron": ["env", "-i"],
    "no home": ["env", "HOME=/nonexistent", "XDG_CONFIG_HOME=/nonexistent"],
    "a locale that is not installed": ["env", "LC_ALL=xx_YY.ISO-8859-15"],
    "no place for temporary files": ["env", "TMPDIR=/nonexistent"],
    "a folder that was deleted": after("mkdir gone && cd gone && rmdir ../gone"),
    "no standard input": after("exec <&-"),
    "no standard error": after("exec 2>&-"),
    "128 MB of address space": after("ulimit -v 131072"),
    "a read-only file system": ["unshare", "-rm", *after(READ_ONLY)],
    "the first of all processes": ["unshare", "-rpf", "--kill-child"],
}
INTERPRETERS = {
    "no assertions, no docstrings": ["-OO"],
    "strict and alone": ["-I", "-S", "-B", "-bb", "-W", "error", "-X", "dev"],
}


def check(home: Home, server: RealServer, python: Sequence[str]) -> None:
    """Ask one thing, and many."""
    options = ("--endpoint", server.endpoint, "--max-tokens", "3")
    asked = home.run("ask", *options, "Hi", python=python)
    assert (asked.code, asked.err) == (0, "")
    assert asked.out.strip()
    prompts = home.write("prompts.jsonl", '{"prompt": "Hi"}\n' * 3)
    batch = home.run("batch", prompts, *options, python=python)
    assert batch.code == 0, batch
    assert [json.loads(line)["error"] for line in batch.out.splitlines()] == [None] * 3


@pytest.mark.parametrize("place", PLACES)
def test_in(place: str, home: Home, pyz: Path, real_server: RealServer) -> None:
    check(home, real_server, [*PLACES[place], sys.executable, str(pyz)])


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_with(interpreter: str, home: Home, pyz: Path, real_server: RealServer) -> None:
    check(home, real_server, [sys.executable, *INTERPRETERS[interpreter], str(pyz)])


def test_from_a_zip_on_the_path(home: Home, real_server: RealServer) -> None:
    archive = shutil.make_archive(str(home.path / "flynn"), "zip", ROOT, "flynn")
    home.variables = {"PYTHONPATH": archive}
    check(home, real_server, [sys.executable, "-S", "-m", "flynn"])


def test_from_a_copied_folder(home: Home, real_server: RealServer) -> None:
    shutil.copytree(ROOT / "flynn", home.path / "flynn", ignore=shutil.ignore_patterns("__pycache__"))
    home.variables = {"PYTHONPATH": ""}
    check(home, real_server, [sys.executable, "-S", "-B", "-m", "flynn"])


def test_with_a_python_that_was_built_without_ssl(home: Home, real_server: RealServer) -> None:
    check(home, real_server, [sys.executable, "-c", WITHOUT_SSL])


TWO_STREAMS = """
import asyncio, sys
from flynn import AsyncLlamaCppClient
async def answer(client):
    async with client.chat_stream("Hi", max_tokens=2) as stream:
        async for event in stream:
            pass
async def main():
    async with AsyncLlamaCppClient(sys.argv[1]) as client:
        await asyncio.gather(answer(client), answer(client))
asyncio.run(main())
"""


# Each thread takes 8 MiB for its stack, the first one 64 MiB more for what glibc reserves: with two, and what measures
# coverage, it is 109 to 117 MiB.
def test_asynchronously_in_128_mb_of_address_space(home: Home, real_server: RealServer) -> None:
    python = [*after("ulimit -v 131072"), sys.executable, "-c", TWO_STREAMS]
    assert home.run(real_server.endpoint, python=python) == (0, "", "")


def test_more_jobs_than_there_is_room_for_threads_are_done_by_those_there_are(
    home: Home, real_server: RealServer
) -> None:
    prompts = home.write("prompts.jsonl", '{"prompt": "Hi", "max_tokens": 2}\n' * 6)
    python = [*after("ulimit -v 131072"), sys.executable, "-m", "flynn"]
    batch = home.run("batch", prompts, "--jobs", "100", "--endpoint", real_server.endpoint, python=python)
    assert batch.code == 0, batch.err
    assert batch.out.count('"error":null') == 6
    assert "Traceback" not in batch.err


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"LC_ALL": "C"}, "hé 日本"),
        ({"LC_ALL": "xx_YY.ISO-8859-15"}, "hé 日本"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "h? ??"),
        ({"PYTHONIOENCODING": "ascii"}, "h? ??"),
    ],
)
def test_text_is_asked_as_it_was_given_in_any_locale(home: Home, variables: dict[str, str], shown: str) -> None:
    home.variables = variables
    with serve(answering(stream(delta("hé 日本")))) as server:
        asked = home.run("ask", "--endpoint", server.endpoint, "Grüße", "世界", stdin="naïve 🙂")
    assert asked == (0, f"{shown}\n", "")
    assert server.requests[0].json["messages"] == [{"role": "user", "content": "Grüße 世界\n\nnaïve 🙂"}]


def test_bytes_that_are_no_text_are_asked_as_far_as_they_are(home: Home) -> None:
    arguments: List[object] = ["ask", "--endpoint", "", b"caf\xe9 caf\xc3\xa9"]
    with serve(answering(stream(delta("ok")))) as server:
        arguments[2] = server.endpoint
        assert home.run(*arguments) == (0, "ok\n", "")  # type: ignore[arg-type]
    assert server.requests[0].json["messages"][0]["content"] == "caf\ufffd café"
