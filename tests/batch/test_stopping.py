"""Ending a batch early: Ctrl-C, SIGTERM, a wrong token; also while it waits for input."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any, Iterator, List

import pytest
from command import FLYNN, Home
from scripted import error, eventually

from .files import OUT, ids, questions, start, whole_lines
from .server import Gate, Llama, answer


def test_ctrl_c_once_finishes_the_requests_in_flight(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(50))
    gate = Gate()
    server = llama(gate)
    process = start(home, server, *OUT)
    eventually(lambda: gate.waiting == 4)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    message = process.stderr.readline().decode()
    gate.opened.set()
    _, err = process.communicate(timeout=60)
    assert "Finishing the 4 under way" in message
    assert process.returncode == 130, err
    assert len(ids(home)) == len(server.prompts) == 4


def test_ctrl_c_twice_ends_the_batch_at_once(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(50))
    gate = Gate()
    process = start(home, llama(gate), *OUT)
    eventually(lambda: gate.waiting == 4)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    gate.opened.set()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert ids(home) == []


# --- an input that stays open -----------------------------------------------------------------------------------------

INPUTS = ["fifo", "standard input", "/dev/stdin", "<(...)"]


class Waiting:
    """A batch whose input has two lines and stays open."""

    def __init__(self, home: Home, server: Llama, source: str) -> None:
        self.writer: Any = None
        home.write("some", questions(2))
        arguments = ["--endpoint", server.endpoint, *OUT]
        if source == "fifo":
            os.mkfifo(home.path / "fifo")
            self.process = home.start("batch", "fifo", *arguments)
            self.writer = (home.path / "fifo").open("wb", buffering=0)
            self.writer.write(questions(2).encode())
        elif source == "<(...)":
            # The subshell keeps its end open as long as this process keeps the batch's standard input open.
            shell = 'exec 3<&0; exec "$0" "$@" -o out.jsonl <(exec 2> /dev/null; cat some; cat <&3) < /dev/null'
            command = ("bash", "-c", shell, *FLYNN)
            self.process = home.start("batch", *arguments[:2], python=command)
        else:
            self.process = home.start("batch", "-" if source == "standard input" else source, *arguments)
            assert self.process.stdin
            self.process.stdin.write(questions(2).encode())
            self.process.stdin.flush()

    def end(self) -> bytes:
        """Wait until the batch ends while its input is open. Returns what it wrote to standard error."""
        self.process.wait(20)
        assert self.process.stderr
        return self.process.stderr.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.writer, self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        self.process.wait(20)


@pytest.fixture
def waiting(home: Home, llama: Any, request: pytest.FixtureRequest) -> Iterator[Waiting]:
    batch = Waiting(home, llama(), request.param)
    eventually(lambda: len(whole_lines(home.path / "out.jsonl")) == 2)
    yield batch
    batch.close()


@pytest.mark.parametrize("waiting", INPUTS, indirect=True)
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT] * 3, [signal.SIGTERM], [signal.SIGHUP]])
def test_a_signal_ends_a_batch_that_waits_for_input(
    home: Home, waiting: Waiting, signals: List[signal.Signals]
) -> None:
    for number in signals:
        try:
            waiting.process.send_signal(number)
            waiting.process.wait(0.7)
        except subprocess.TimeoutExpired:
            pass
    err = waiting.end()
    # Python may be shutting down already when the last of three signals arrives.
    assert waiting.process.returncode in (128 + signals[0], -signals[0] if len(signals) > 1 else None)
    assert b"Traceback" not in err
    assert sorted(ids(home)) == ["request-1", "request-2"]


@pytest.mark.parametrize("source", INPUTS)
def test_a_wrong_token_ends_a_batch_that_waits_for_input(home: Home, llama: Any, source: str) -> None:
    wrong = answer(error(401, "Invalid API Key", "authentication_error"), 401)
    batch = Waiting(home, llama(lambda prompt: wrong), source)
    err = batch.end()
    batch.close()
    assert batch.process.returncode == 77
    assert b"Invalid API Key" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_batch_whose_fifo_has_no_writer(home: Home, llama: Any, number: signal.Signals) -> None:
    os.mkfifo(home.path / "fifo")
    process = start(home, llama(), *OUT, name="fifo")
    time.sleep(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert b"Traceback" not in err


# --- a signal at any moment -------------------------------------------------------------------------------------------


# Sends SIGTERM to itself in the main thread, after threading has listed a new thread and before it starts it.
WHILE_STARTING = """
import os, signal, sys, threading
name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
number, begun, real = int(sys.argv.pop(1)), [], getattr(threading, name)
def start(*arguments, **options):
    begun.append(1)
    if len(begun) == number:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*arguments, **options)
setattr(threading, name, start)
from flynn.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("thread", range(1, 7))
def test_a_signal_while_a_thread_is_being_started_ends_the_batch(home: Home, llama: Any, thread: int) -> None:
    home.write("in.jsonl", questions(200))
    command = (FLYNN[0], "-W", "error", "-c", WHILE_STARTING, str(thread))
    process = start(home, llama(), *OUT, python=command)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert b"Traceback" not in err
    assert b"cannot join" not in err
