"""If Flynn lacks something that it needs, it prints one clear line."""

from __future__ import annotations

import ssl
import sys
from typing import List, Tuple

import pytest
from command import FLYNN, Home, routes
from scripted import Peer, delta, response, serve, stream

from .places import READ_ONLY, WITHOUT_SSL, after

ANSWERS = {
    "GET /health": response(b'{"status": "ok"}'),
    "GET /props": response(b'{"total_slots": 1}'),
    "GET /slots": response(b'[{"id": 0, "is_processing": false}]'),
    "POST /tokenize": response(b'{"tokens": [1]}'),
    "POST /v1/completions": response(b"{}"),
}


def answer(peer: Peer) -> None:
    body = peer.server.requests[-1].json
    choice = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}'
    peer.send(stream(delta("Hi"), delta(finish_reason="stop")) if body.get("stream") else response(choice))


@pytest.mark.parametrize(
    ("redirection", "reason"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("command", ["ask Hi", "chat", "status", "tokens Hi", "batch prompts.jsonl"])
def test_unwritable_standard_output_is_reported(command: str, redirection: str, reason: str, home: Home) -> None:
    home.write("prompts.jsonl", '{"prompt": "Hi"}\n')
    with serve(routes(ANSWERS, chat=answer)) as server:
        python = [*after(f"exec {redirection}"), *FLYNN]
        ended = home.run(*command.split(), "--endpoint", server.endpoint, stdin="Hi\n", python=python)
    lines = ended.err.splitlines()
    assert (ended.code, lines[-1]) == (1, f"flynn: standard output: {reason}")
    assert len(lines) == 1 + command.startswith("batch")  # plus the summary of the batch


def test_a_closed_standard_input_is_reported(home: Home) -> None:
    ended = home.run("batch", "-", python=[*after("exec <&-"), *FLYNN])
    assert ended == (1, "", "flynn: standard input: Bad file descriptor\n")


def test_an_output_on_a_read_only_file_system_is_reported(home: Home) -> None:
    prompts = home.write("prompts.jsonl", '{"prompt": "Hi"}\n')
    python = ["unshare", "-rm", *after(READ_ONLY), *FLYNN]
    assert home.run("batch", prompts, "-o", "out.jsonl", python=python) == (
        1,
        "",
        "flynn: out.jsonl: Read-only file system\n",
    )


def test_a_prompt_that_does_not_fit_in_memory_is_reported(home: Home) -> None:
    python = [*after("ulimit -v 131072"), *FLYNN]
    with serve(routes({})) as server:
        ended = home.run("ask", "--endpoint", server.endpoint, stdin="x" * (100 << 20), python=python)
    assert ended == (1, "", "flynn: out of memory\n")


# The programs below use stacks of 1 GiB: there is no memory for a single thread.
NO_THREADS = [*after("ulimit -v 262144"), sys.executable, "-c"]
NO_THREAD = "can't start new thread: too little memory, or too many processes (see ulimit -v and ulimit -u)"


@pytest.mark.parametrize("options", [[], ["--jobs", "2"]])
def test_a_batch_reports_that_it_cannot_start_a_thread(options: List[str], home: Home) -> None:
    prompts = home.write("prompts.jsonl", '{"prompt": "Hi"}\n')
    program = "import sys, threading; threading.stack_size(1 << 30); from flynn.cli import main; sys.exit(main())"
    ended = home.run("batch", prompts, *options, python=[*NO_THREADS, program])
    assert (ended.code, ended.err.splitlines()[-1]) == (1, f"flynn: {NO_THREAD}")


def test_an_asynchronous_stream_that_cannot_start_a_thread_can_be_closed_and_retried(home: Home) -> None:
    program = """
import asyncio, sys, threading
from flynn import AsyncLlamaCppClient, FlynnError
async def main():
    client = AsyncLlamaCppClient(sys.argv[1])
    stream = client.chat_stream("Hi")
    threading.stack_size(1 << 30)
    for attempt in (stream.__anext__, client.health):
        try:
            await attempt()
        except FlynnError as error:
            print(error)
    threading.stack_size(0)
    print([event.type async for event in stream])
    await stream.close()
    threading.stack_size(1 << 30)
    await client.chat_stream("Hi").close()
asyncio.run(asyncio.wait_for(main(), 30))
"""
    with serve(routes(ANSWERS, chat=answer)) as server:
        ended = home.run(server.endpoint, python=[*NO_THREADS, program])
    assert ended == (0, f"{NO_THREAD}\n{NO_THREAD}\n['content', 'done']\n", "")


NO_DESCRIPTORS = """
import os, resource, sys
import flynn, flynn.models.local.llamacpp
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
client = flynn.LlamaCppClient(sys.argv[1])
print(bool(client.health()))
client.close()
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    client.health()
except flynn.FlynnError as error:
    print(type(error).__name__, error)
os.close(held.pop())
print(bool(client.health()))
"""


def test_a_lack_of_file_descriptors_is_reported_and_one_more_is_enough(home: Home) -> None:
    with serve(routes(ANSWERS)) as server:
        endpoint = server.endpoint.replace("localhost", "127.0.0.1")
        ended = home.run(endpoint, python=[sys.executable, "-W", "error", "-c", NO_DESCRIPTORS])
    message = f"FlynnError no connection to {endpoint} can be opened: Too many open files"
    assert ended == (0, f"True\n{message}\nTrue\n", "")


NO_SSL = "https needs the module ssl, which this Python was built without"


@pytest.mark.parametrize("command", ["ask Hi", "status", "batch prompts.jsonl --jobs 1"])
def test_https_needs_the_module_ssl(command: str, home: Home) -> None:
    home.write("prompts.jsonl", '{"prompt": "Hi"}\n' * 3)
    with serve(routes(ANSWERS)) as server:
        endpoint = server.endpoint.replace("http:", "https:")
        ended = home.run(*command.split(), "--endpoint", endpoint, python=[sys.executable, "-c", WITHOUT_SSL])
    assert (ended.code, ended.err.splitlines()[-1]) == (2, f"flynn: {NO_SSL}")


NO_CERTIFICATES = ["unshare", "-rm", *after("mount -t tmpfs none /etc/ssl")]


@pytest.mark.parametrize(
    "prefix", [[], NO_CERTIFICATES, ["env", "SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent"]]
)
def test_an_untrusted_certificate_is_reported(
    prefix: List[str], home: Home, tls_server: Tuple[str, ssl.SSLContext]
) -> None:
    ended = home.run("ask", "Hi", "--endpoint", tls_server[0], python=[*prefix, *FLYNN])
    assert ended.code == 1
    assert ended.err.startswith(f"flynn: expected a TLS server at {tls_server[0]}, got ")
    assert "certificate verify failed" in ended.err
    assert ended.err.count("\n") == 1
