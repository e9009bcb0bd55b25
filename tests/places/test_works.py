"""Flynn works in restricted environments, with the real server."""

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

# The words before `python flynn.pyz ...`.
PLACES = {
    "no environment variables, as under cron": ["env", "-i"],
    "no home": ["env", "HOME=/nonexistent", "XDG_CONFIG_HOME=/nonexistent"],
    "a locale that is not installed": ["env", "LC_ALL=xx_YY.ISO-8859-15"],
    "no folder for temporary files": ["env", "TMPDIR=/nonexistent"],
    "a deleted working directory": after("mkdir gone && cd gone && rmdir ../gone"),
    "no standard input": after("exec <&-"),
    "no standard error": after("exec 2>&-"),
    "128 MB of address space": after("ulimit -v 131072"),
    "a read-only file system": ["unshare", "-rm", *after(READ_ONLY)],
    "process 1 of a PID namespace": ["unshare", "-rpf", "--kill-child"],
}
INTERPRETERS = {
    "no assertions, no docstrings": ["-OO"],
    "strict and isolated": ["-I", "-S", "-B", "-bb", "-W", "error", "-X", "dev"],
}


def check(home: Home, server: RealServer, python: Sequence[str]) -> None:
    """Check that `flynn ask` and `flynn batch` get answers."""
    options = ("--endpoint", server.endpoint, "--max-tokens", "3")
    ask = home.run("ask", *options, "Hi", python=python)
    assert (ask.code, ask.err) == (0, "")
    assert ask.out.strip()
    prompts = home.write("prompts.jsonl", '{"prompt": "Hi"}\n' * 3)
    batch = home.run("batch", prompts, *options, python=python)
    assert batch.code == 0, batch
    assert [json.loads(line)["error"] for line in batch.out.splitlines()] == [None] * 3


@pytest.mark.parametrize("place", PLACES)
def test_the_commands_work_in(place: str, home: Home, pyz: Path, real_server: RealServer) -> None:
    check(home, real_server, [*PLACES[place], sys.executable, str(pyz)])


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_the_commands_work_with(interpreter: str, home: Home, pyz: Path, real_server: RealServer) -> None:
    check(home, real_server, [sys.executable, *INTERPRETERS[interpreter], str(pyz)])


def test_the_commands_work_from_a_zip_on_pythonpath(home: Home, real_server: RealServer) -> None:
    archive = shutil.make_archive(str(home.path / "flynn"), "zip", ROOT, "flynn")
    home.variables = {"PYTHONPATH": archive}
    check(home, real_server, [sys.executable, "-S", "-m", "flynn"])


def test_the_commands_work_from_a_copied_folder(home: Home, real_server: RealServer) -> None:
    shutil.copytree(ROOT / "flynn", home.path / "flynn", ignore=shutil.ignore_patterns("__pycache__"))
    home.variables = {"PYTHONPATH": ""}
    check(home, real_server, [sys.executable, "-S", "-B", "-m", "flynn"])


def test_the_commands_work_without_the_module_ssl(home: Home, real_server: RealServer) -> None:
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


# Each thread needs 8 MiB for its stack, and the first one 64 MiB more, which glibc reserves. With two threads and with
# coverage the process needs 109 to 117 MiB.
def test_two_asynchronous_streams_need_less_than_128_mb_of_address_space(home: Home, real_server: RealServer) -> None:
    python = [*after("ulimit -v 131072"), sys.executable, "-c", TWO_STREAMS]
    assert home.run(real_server.endpoint, python=python) == (0, "", "")


def test_a_batch_with_more_jobs_than_possible_threads_uses_the_possible_ones(
    home: Home, real_server: RealServer
) -> None:
    prompts = home.write("prompts.jsonl", '{"prompt": "Hi", "max_tokens": 2}\n' * 6)
    python = [*after("ulimit -v 131072"), sys.executable, "-m", "flynn"]
    batch = home.run("batch", prompts, "--jobs", "100", "--endpoint", real_server.endpoint, python=python)
    assert batch.code == 0, batch.err
    assert batch.out.count('"error":null') == 6
    assert "Traceback" not in batch.err


@pytest.mark.parametrize(
    ("variables", "output"),
    [
        ({"LC_ALL": "C"}, "hé 日本"),
        ({"LC_ALL": "xx_YY.ISO-8859-15"}, "hé 日本"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "h? ??"),
        ({"PYTHONIOENCODING": "ascii"}, "h? ??"),
    ],
)
def test_a_prompt_is_sent_unchanged_in_any_locale(home: Home, variables: dict[str, str], output: str) -> None:
    home.variables = variables
    with serve(answering(stream(delta("hé 日本")))) as server:
        ask = home.run("ask", "--endpoint", server.endpoint, "Grüße", "世界", stdin="naïve 🙂")
    assert ask == (0, f"{output}\n", "")
    assert server.requests[0].json["messages"] == [{"role": "user", "content": "Grüße 世界\n\nnaïve 🙂"}]


def test_invalid_bytes_of_a_prompt_are_replaced(home: Home) -> None:
    arguments: List[object] = ["ask", "--endpoint", "", b"caf\xe9 caf\xc3\xa9"]
    with serve(answering(stream(delta("ok")))) as server:
        arguments[2] = server.endpoint
        assert home.run(*arguments) == (0, "ok\n", "")  # type: ignore[arg-type]
    assert server.requests[0].json["messages"][0]["content"] == "caf\ufffd café"
