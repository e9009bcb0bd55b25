"""Flynn on other platforms: 32-bit ARM, emulated by qemu, and musl. The real server runs natively on this machine.

scripts/platforms.py builds the Pythons. `make test-platforms` runs these tests, `make test` does not.
"""

from __future__ import annotations

import json
import os
import pkgutil
import platform
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, List

import environment
import platforms
import pytest
import trustme
from command import Home
from real_server import RealServer
from scripted import (
    DATA,
    LAST_CHUNK,
    STREAM_HEAD,
    chunk,
    closing,
    delta,
    event,
    eventually,
    forwarding,
    head,
    serve,
    stream,
)

import flynn
from flynn import LlamaCppClient

from .test_one_line import NO_SSL
from .test_works import check

pytestmark = pytest.mark.platforms

MAX_TIMEOUT = 2_147_483  # seconds; the longest timeout of poll(2) is 2**31 - 1 milliseconds


@pytest.fixture(scope="module", params=["arm", *(["musl"] if platforms.is_built("musl") else [])])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def python(name: str) -> List[str]:
    """The command of the platform's Python, with strict options."""
    try:
        return [*platforms.python(name), "-S", "-B", "-W", "error"]
    except environment.Unavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture
def flynn_command(python: List[str], pyz: Path) -> List[str]:
    return [*python, str(pyz)]


DESCRIBE_PLATFORM = """
import platform, sys
with open(sys.executable, "rb") as binary:
    program = binary.read()
print(platform.machine(), sys.maxsize, b"GLIBC" in program, b"MUSL_LOCPATH" in program)
"""


def test_the_python_is_of_its_platform(name: str, python: List[str], home: Home) -> None:
    expected = {"arm": "armv7l 2147483647 True False\n", "musl": f"{platform.machine()} {sys.maxsize} False True\n"}
    assert home.run(python=[*python, "-c", DESCRIBE_PLATFORM]) == (0, expected[name], "")


def test_every_module_can_be_imported(python: List[str], home: Home) -> None:
    program = "import importlib, sys; list(map(importlib.import_module, sys.argv[1:])); print(len(sys.argv) - 1)"
    names = [module.name for module in pkgutil.walk_packages(flynn.__path__, "flynn.")]
    importable = [name for name in names if name != "flynn.__main__"]
    assert home.run(*importable, python=[*python, "-c", program]) == (0, f"{len(importable)}\n", "")


def test_the_version_is_printed(flynn_command: List[str], home: Home) -> None:
    assert home.run("--version", python=flynn_command) == (0, f"flynn {flynn.__version__}\n", "")


def test_the_commands_work_from_the_pyz(flynn_command: List[str], home: Home, real_server: RealServer) -> None:
    check(home, real_server, flynn_command)


def test_the_commands_work_from_the_folder(python: List[str], home: Home, real_server: RealServer) -> None:
    check(home, real_server, [*python, "-m", "flynn"])


def test_ctrl_c_ends_an_answer_and_frees_the_slot(
    flynn_command: List[str], home: Home, real_server: RealServer
) -> None:
    arguments = ("ask", "Tell a long story.", "--endpoint", real_server.endpoint)
    with LlamaCppClient(real_server.endpoint) as client:
        with home.terminal(*arguments, python=flynn_command) as terminal:
            terminal.expect(" ")
            assert any(slot.is_processing for slot in client.slots())
            terminal.interrupt()
            assert terminal.end() == 130
        assert terminal.text.endswith("^C\r\n")
        assert "Traceback" not in terminal.text
        eventually(lambda: not any(slot.is_processing for slot in client.slots()))


def test_an_interrupted_batch_is_resumed(flynn_command: List[str], home: Home, real_server: RealServer) -> None:
    prompts = home.write("prompts.jsonl", "".join(f'{{"prompt": "Tell a story. {number}"}}\n' for number in range(8)))
    settings = ("--jobs", "1", "--max-tokens", "15", "--endpoint", real_server.endpoint)
    options = ("batch", prompts, "-o", "out.jsonl", *settings)
    with home.terminal(*options, python=flynn_command) as terminal:
        terminal.expect("done, 0 failed")
        terminal.interrupt()
        assert terminal.end() == 130
    results = home.path / "out.jsonl"
    done = results.read_text().splitlines()
    assert 0 < len(done) < 8
    assert home.run(*options, python=flynn_command).code == 0
    assert results.read_text().splitlines()[: len(done)] == done
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines) == 8
    assert [line["error"] for line in lines] == [None] * 8


LIBRARY = """
import asyncio, sys
from flynn import AsyncLlamaCppClient, ConfigError, LlamaCppClient
timeout = int(sys.argv[2])
options = {"max_tokens": 5, "temperature": 0.0}

async def streamed(client):
    async with client.chat_stream("Hi", **options) as stream:
        return "".join([text async for text in stream.text()])

async def main():
    async with AsyncLlamaCppClient(sys.argv[1], timeout=timeout) as client:
        answers = await asyncio.gather(*[streamed(client) for _ in range(4)], streamed(client))
        return [(await client.chat("Hi", **options)).content, *answers]

with LlamaCppClient(sys.argv[1], timeout=timeout) as client:
    client.wait_until_ready(timeout=timeout)
    answers = [client.chat("Hi", **options).content, "".join(client.chat_stream("Hi", **options).text())]
answers += asyncio.run(main())
assert len(answers) == 8 and all(answers), answers
try:
    LlamaCppClient(sys.argv[1], timeout=timeout + 1)
except ConfigError as error:
    print(error)
"""


def test_the_library_works_over_a_unix_socket_with_the_longest_timeout(
    python: List[str], home: Home, tmp_path: Path, start_server: Callable[..., RealServer]
) -> None:
    server = start_server(host=tmp_path / "llama.sock")
    ended = home.run(server.endpoint, str(MAX_TIMEOUT), python=[*python, "-c", LIBRARY])
    rule = f"a number of seconds above 0 and up to {MAX_TIMEOUT}, or None for no limit"
    assert ended == (0, f"a timeout is {rule}, not a larger one\n", "")


def test_https(name: str, flynn_command: List[str], home: Home, real_server: RealServer) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(home.path / "authority.pem"))
    home.variables = {"SSL_CERT_FILE": str(home.path / "authority.pem")}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with serve(forwarding(real_server.endpoint), tls=context) as server:
        arguments = ("ask", "Hi", "--max-tokens", "3", "--endpoint", server.endpoint)
        ended = home.run(*arguments, python=flynn_command)
    if name == "musl":
        assert ended == (2, "", f"flynn: {NO_SSL}\n")
    else:
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.strip()


OUTCOMES = """
import sys
from flynn import FlynnError, LlamaCppClient
for _ in range(int(sys.argv[2])):
    with LlamaCppClient(sys.argv[1], timeout=20) as client:
        try:
            for event in client.chat_stream("Hi", n=2):
                print(event)
        except FlynnError as error:
            print(type(error).__name__, error)
"""
GIB_3 = 3 << 30  # more than a signed 32-bit number
CHUNK_BYTES = 1000  # of a recorded stream


def recorded(path: Path) -> bytes:
    """Return a recorded stream as a response with chunks of CHUNK_BYTES."""
    data = path.read_bytes()
    chunks = [chunk(data[start : start + CHUNK_BYTES]) for start in range(0, len(data), CHUNK_BYTES)]
    return STREAM_HEAD + b"".join(chunks) + LAST_CHUNK


def test_streams_give_the_same_results_as_on_this_machine(python: List[str], home: Home) -> None:
    usage = {"prompt_tokens": GIB_3, "completion_tokens": 1 << 62}
    answers = [
        *map(recorded, sorted(DATA.rglob("*.sse"))),
        stream(delta("é🙂", finish_reason="stop"), event({"choices": [], "usage": usage, "created": 1 << 40})),
        head("Content-Type: text/event-stream", f"Content-Length: {GIB_3}") + delta("Hi"),
        head("Content-Type: text/event-stream", f"Content-Length: {1 << 80}") + delta("Hi"),
        STREAM_HEAD + b"%x\r\n" % GIB_3 + delta("Hi"),
        STREAM_HEAD + b"%x\r\n" % (1 << 80) + delta("Hi"),
    ]
    outcomes = []
    for command in ([sys.executable], python):
        with serve(*map(closing, answers)) as server:
            ended = home.run(server.endpoint, str(len(answers)), python=[*command, "-c", OUTCOMES])
        assert (ended.code, ended.err) == (0, "")
        outcomes.append(ended.out.replace(server.endpoint, "ENDPOINT"))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].count("DoneEvent") > len(list(DATA.rglob("*.sse")))


@pytest.mark.parametrize(
    ("name", "variables", "line"),
    [
        ("arm", {"PATH": "/nonexistent"}, "apt-get is missing: this needs Debian or Ubuntu"),
        ("arm", {}, "E: Unable to locate package python3 (more in .venv/failed.log)"),
        ("musl", {}, "apt has no source package of Python 3: the first run needs the network"),
    ],
)
def test_a_failed_build_is_reported_in_one_line(
    name: str, variables: Dict[str, str], line: str, tmp_path: Path
) -> None:
    (tmp_path / "scripts").mkdir()
    for script in ("environment.py", "debian.py", "platforms.py"):
        shutil.copy(environment.ROOT / "scripts" / script, tmp_path / "scripts")
    proxies = "".join(f'{scheme}::Proxy "http://127.0.0.1:9/"; ' for scheme in ("http", "https"))  # nothing listens
    (tmp_path / "apt.conf").write_text(f'Acquire {{ {proxies}Retries "0"; }};\n')
    command = [sys.executable, str(tmp_path / "scripts" / "platforms.py"), name]
    variables = {**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf"), **variables}
    process = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.splitlines()[-1] == f"a Python for {name}: {line}"
    assert not list((tmp_path / ".venv" / "platforms").glob("*"))
