"""Files after a crash, a power failure or on a full disk: the next run repairs them and goes on."""

from __future__ import annotations

import json
import random
import signal
import time
from typing import Any

import pytest
from command import FLYNN, Home
from werkzeug import Response

from .files import ERRORS, OUT, batch, content, ids, lines, questions, request_ids, start, whole_lines
from .server import echo, refusal


def test_a_batch_killed_at_any_moment_goes_on_and_repeats_no_recorded_request(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(300))
    output = home.path / "out.jsonl"
    killed = 0

    def slowly(prompt: str) -> Response:
        time.sleep(0.01)
        return echo(prompt)

    server = llama(slowly)
    while True:
        before = {content(line).partition("re: ")[2] for line in whole_lines(output)}
        server.bodies.clear()
        process = start(home, server, *OUT, "--jobs", "4")
        if killed < 6:
            time.sleep(random.uniform(0.2, 0.6))
            process.kill()
        process.communicate(timeout=60)
        assert not set(server.prompts) & before
        assert len({line["custom_id"] for line in whole_lines(output)}) == len(whole_lines(output)) >= len(before)
        if process.returncode != -signal.SIGKILL:
            break
        killed += 1
    assert process.returncode == 0
    assert sorted(ids(home)) == sorted(request_ids(300))


@pytest.mark.parametrize(("cut", "length"), [(1, 1), (30, 1), (300, 1), (9, 100_000)])
def test_a_torn_last_line_is_cut_off_and_its_request_sent_again(home: Home, llama: Any, cut: int, length: int) -> None:
    home.write("in.jsonl", questions(4))
    output = home.path / "out.jsonl"
    server = llama(lambda prompt: echo(prompt * length))
    batch(home, server, *OUT)
    output.write_bytes(output.read_bytes()[:-cut])
    ended = batch(home, server, *OUT)
    assert ended.code == 0
    assert "out.jsonl: cut off " in ended.err
    assert len(server.prompts) == 5
    assert sorted(ids(home)) == request_ids(4)


def test_a_torn_line_of_many_blocks_is_read_in_linear_time(home: Home, llama: Any) -> None:
    """Joining each block with all blocks before it would take minutes for 200 MB."""
    home.write("in.jsonl", questions(1))
    with (home.path / "out.jsonl").open("wb") as file:
        file.write(b'{"id":"batch_req_')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
    ended = batch(home, llama(), *OUT)
    assert (ended.code, ids(home)) == (0, request_ids(1))


@pytest.mark.parametrize("start", [0, 0.3, 1, 1.5])
@pytest.mark.parametrize("end", [1.7, 2, 2.5, 3])
def test_results_that_a_power_failure_overwrote_with_zeros_are_asked_for_again(
    home: Home, llama: Any, start: float, end: float
) -> None:
    """The zeros reach from `start` to `end`, both counted in lines."""
    home.write("in.jsonl", questions(4))
    output = home.path / "out.jsonl"
    server = llama()
    batch(home, server, *OUT)
    written = output.read_bytes().splitlines(keepends=True)
    offsets = [0]
    for line in written:
        offsets.append(offsets[-1] + len(line))
    first, last = (offsets[int(at)] + int(at % 1 * len(written[int(at)])) for at in (start, end))
    output.write_bytes(b"".join(written)[:first] + b"\0" * (last - first) + b"".join(written)[last:])
    server.bodies.clear()
    ended = batch(home, server, *OUT)
    assert ended.code == 0, ended.err
    assert "out.jsonl: cut off " in ended.err
    assert sorted(ids(home)) == request_ids(4)
    damaged = [begin < last and stop > first for begin, stop in zip(offsets, offsets[1:])]
    lost = [content(json.loads(line)) for line, is_lost in zip(written, damaged) if is_lost]
    assert sorted(f"re: {prompt}" for prompt in server.prompts) == sorted(lost)


def test_zeros_after_the_last_line_are_cut_off(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(2))
    server = llama()
    batch(home, server, *OUT)
    with (home.path / "out.jsonl").open("ab") as file:
        file.write(b"\0" * 3_000_000 + b"rest")
    assert batch(home, server, *OUT).code == 0
    assert (sorted(ids(home)), len(server.prompts)) == (request_ids(2), 2)


def test_a_full_disk_ends_the_batch_and_the_next_run_goes_on(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(200))
    # No file may grow beyond 8 KiB.
    limited = ("bash", "-c", 'ulimit -f 8; exec "$0" "$@"', *FLYNN)
    server = llama()
    ended = batch(home, server, *OUT, python=limited)
    assert (ended.code, "out.jsonl: File too large" in ended.err) == (1, True)
    done = len(whole_lines(home.path / "out.jsonl"))
    again = batch(home, server, *OUT)
    assert again.code == 0
    assert f"200 done ({done} of them before)" in again.err
    assert sorted(ids(home)) == sorted(request_ids(200))


def test_a_full_disk_while_the_output_is_sorted_leaves_it_unchanged(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(40))
    server = llama()
    batch(home, server, *OUT)
    unsorted = (home.path / "out.jsonl").read_bytes()
    limited = ("bash", "-c", 'ulimit -f 8; exec "$0" "$@"', *FLYNN)
    ended = batch(home, server, *OUT, "--ordered", python=limited)
    if unsorted != b"".join(sorted(unsorted.splitlines(keepends=True))):
        assert ended.code == 1
    assert sorted((home.path / "out.jsonl").read_bytes().splitlines()) == sorted(unsorted.splitlines())
    assert {path.name for path in home.path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_a_torn_errors_file_can_be_the_input(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(4))
    server = llama(refusal)
    batch(home, server, *OUT)
    errors = home.path / ERRORS
    errors.write_bytes(errors.read_bytes()[:-5])
    server.answer = echo
    server.bodies.clear()
    assert batch(home, server, *OUT, name=ERRORS).code == 0  # all but the torn line, whose request is still in in.jsonl
    assert len(server.prompts) == 3
    assert batch(home, server, *OUT).code == 0
    assert (sorted(ids(home)), len(lines(home.path / "out.jsonl"))) == (request_ids(4), 4)


def test_the_draft_of_a_killed_run_is_removed(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(3))
    server = llama()
    batch(home, server, *OUT)
    draft = home.path / "out.jsonl.draft"
    draft.write_bytes((home.path / "out.jsonl").read_bytes()[:-40])
    assert batch(home, server, *OUT).code == 0
    assert not draft.exists()
