"""Retrying failures from the errors file; files given for two purposes, links and devices: nothing is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List

import pytest
from command import FLYNN, Ended, Home

from .files import ERRORS, OUT, batch, ids, lines, questions, request_ids, start
from .server import Gate, Llama, echo, refusal


def contents(folder: Path) -> Dict[str, bytes]:
    """Return the contents of all files in a folder, following links."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- retrying failures ------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(home: Home, llama: Any) -> Llama:
    """Run a batch in which two of four requests fail. Returns its server, which now answers all."""
    home.write("in.jsonl", questions(4))
    server: Llama = llama(lambda prompt: refusal() if prompt in ("p2", "p4") else echo(prompt))
    assert batch(home, server, *OUT, "--system", "S", "--max-tokens", "5").code == 1
    server.answer = echo
    server.bodies.clear()
    return server


@pytest.mark.parametrize("given_as", ["by name", "hard link", "link", "standard input", "/dev/stdin", "cat"])
def test_the_errors_file_as_input_retries_the_failures(home: Home, failed: Llama, given_as: str) -> None:
    errors = home.path / ERRORS
    name, shell = ERRORS, ""
    if given_as == "hard link":
        os.link(errors, home.path / (name := "again.jsonl"))
    elif given_as == "link":
        os.symlink(ERRORS, home.path / (name := "again.jsonl"))
    elif given_as == "standard input":
        name, shell = "-", f"< {ERRORS}"
    elif given_as == "/dev/stdin":
        name, shell = "/dev/stdin", f"< {ERRORS}"
    elif given_as == "cat":
        name, shell = "-", f"< <(cat {ERRORS})"
    ended = in_shell(home, shell, name, *OUT, "--endpoint", failed.endpoint)
    assert ended.code == 0, ended.err
    assert "4 done (2 of them before), 0 failed" in ended.err
    assert sorted(failed.prompts) == ["p2", "p4"]
    assert sorted(ids(home)) == request_ids(4)
    assert not errors.exists()
    # The retry sent, and recorded, the same requests as the first run.
    assert all(body["messages"][0]["content"] == "S" and body["max_tokens"] == 5 for body in failed.bodies)
    again = batch(home, failed, *OUT, "--system", "S", "--max-tokens", "5")
    assert (again.code, len(failed.prompts)) == (0, 2)


def in_shell(home: Home, redirection: str, *arguments: str) -> Ended:
    return home.run("batch", *arguments, python=("bash", "-c", f'exec "$0" "$@" {redirection}', *FLYNN))


def test_a_request_that_fails_again_stays_in_the_errors_file(home: Home, failed: Llama) -> None:
    before = {line["custom_id"]: line for line in lines(home.path / ERRORS)}
    failed.answer = lambda prompt: refusal() if prompt == "p4" else echo(prompt)
    assert batch(home, failed, *OUT, name=ERRORS).code == 1
    (line,) = lines(home.path / ERRORS)
    assert line == before["request-4"]  # with its line number in the input
    assert sorted(ids(home)) == ["request-1", "request-2", "request-3"]


def test_options_of_a_retry_override_those_of_the_first_run(home: Home, failed: Llama) -> None:
    assert batch(home, failed, *OUT, "--max-tokens", "90", name=ERRORS).code == 0
    assert [(body["max_tokens"], body["messages"][0]["content"]) for body in failed.bodies] == [(90, "S")] * 2
    changed = batch(home, failed, *OUT, "--system", "S", "--max-tokens", "5")
    assert (changed.code, "'request-2' has a result already, but of something else" in changed.err) == (2, True)


def test_options_of_a_retry_do_not_override_fields_of_the_line(home: Home, llama: Any) -> None:
    home.write("in.jsonl", '{"prompt": "p1", "max_tokens": 7}\n')
    server = llama(refusal)
    for name in ("in.jsonl", ERRORS):
        batch(home, server, *OUT, "--max-tokens", "90", name=name)
    assert [body["max_tokens"] for body in server.bodies] == [7, 7]


@pytest.mark.parametrize("name", ["in.jsonl", ERRORS])
def test_a_killed_retry_keeps_the_failures_that_it_did_not_reach(home: Home, failed: Llama, name: str) -> None:
    gate = Gate()
    failed.answer = gate
    process = start(home, failed, *OUT, "--jobs", "1", "--system", "S", "--max-tokens", "5", name=name)
    while not gate.waiting:
        assert process.poll() is None
    process.kill()
    process.communicate()
    gate.opened.set()
    assert sorted(ids(home, ERRORS)) == ["request-2", "request-4"]


def test_a_failure_recorded_twice_is_retried_once(home: Home, failed: Llama) -> None:
    errors = home.path / ERRORS
    errors.write_bytes(errors.read_bytes() * 2)
    assert batch(home, failed, *OUT, name=ERRORS).code == 0
    assert len(failed.prompts) == 2


def test_failures_of_another_input_stay_in_the_errors_file(home: Home, failed: Llama) -> None:
    home.write("more.jsonl", '{"custom_id": "x", "prompt": "p9"}\n')
    assert batch(home, failed, *OUT, name="more.jsonl").code == 0
    assert sorted(ids(home, ERRORS)) == ["request-2", "request-4"]


def test_an_invalid_line_is_reported_again_by_a_retry_and_not_sent(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(1) + "nonsense\n")
    server = llama()
    batch(home, server, *OUT)
    ended = batch(home, server, *OUT, name=ERRORS)
    assert (ended.code, len(server.prompts)) == (1, 1)
    (line,) = lines(home.path / ERRORS)
    assert (line["error"]["line"], line["request"]) == (2, None)
    assert "not JSON" in line["error"]["message"]


def test_an_errors_file_can_be_the_input_for_another_output(home: Home, failed: Llama) -> None:
    errors = (home.path / ERRORS).read_bytes()
    assert batch(home, failed, "-o", "other.jsonl", name=ERRORS).code == 0
    assert sorted(ids(home, "other.jsonl")) == ["request-2", "request-4"]
    assert (home.path / ERRORS).read_bytes() == errors


def test_ordered_keeps_the_existing_order_in_a_retry(home: Home, failed: Llama) -> None:
    before = ids(home)
    assert batch(home, failed, *OUT, "--ordered", name=ERRORS).code == 0
    assert ids(home)[:2] == before


# --- a file for two purposes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "options"),
    [
        ("", ["-o", "./in.jsonl"]),
        ("", ["-o", "hard"]),
        ("", ["-o", "soft"]),
        ("", ["-o", "out.jsonl", "--report", "out.jsonl"]),
        ("", ["-o", "new.jsonl", "--report", "./new.jsonl"]),
        ("", ["-o", "new.jsonl", "--report", "new.jsonl.errors.jsonl"]),
        ("", ["-o", "new.jsonl", "--report", "in.jsonl"]),
        ("", ["-o", "new.jsonl", "--report", "hard"]),
        ("", ["-o", "new.jsonl", "--template", "new.jsonl.errors.jsonl"]),
        ("", ["-o", "schema", "--json-schema", "schema"]),
        ("", ["-o", "new.jsonl", "--config", "config.json", "--report", "config.json"]),
        ("", ["-o", "new.jsonl", "--auth-token-file", "token", "--report", "token"]),
        (">> in.jsonl", []),
        (">> report.json", ["--report", "report.json"]),
        ("2>> out.jsonl", ["-o", "out.jsonl"]),
        ("2>> in.jsonl", ["-o", "new.jsonl"]),
    ],
)
def test_a_file_for_two_purposes_is_refused_before_any_file_changes(
    home: Home, llama: Any, shell: str, options: List[str]
) -> None:
    server = llama()
    home.write("in.jsonl", questions(2))
    assert batch(home, server, *OUT).code == 0
    home.write("schema", '{"type": "object"}')
    home.write("config.json", '{"models": {"local": {"provider": "llamacpp"}}}')
    home.write("token", "secret")
    home.write("new.jsonl.errors.jsonl", "{{x}}")
    os.link(home.path / "in.jsonl", home.path / "hard")
    os.symlink("in.jsonl", home.path / "soft")
    before = contents(home.path)
    requests = len(server.prompts)
    ended = in_shell(home, shell, "in.jsonl", "--endpoint", server.endpoint, *options)
    assert ended.code == 2
    if "2>>" not in shell:
        assert "are the same file" in ended.err
        assert ended.err.count("\n") == 1
    after = contents(home.path)
    assert {name: data[: len(before[name])] for name, data in after.items() if name in before} == before
    assert after.keys() - before.keys() <= {"report.json"}
    assert len(server.prompts) == requests


@pytest.mark.parametrize("name", ["out.jsonl", "new.jsonl", "link.jsonl"])
def test_a_refused_run_leaves_all_files_unchanged(home: Home, llama: Any, name: str) -> None:
    """Refused for changed options, a foreign output, or a foreign file in place of the errors file."""
    home.write("in.jsonl", questions(2))
    server = llama(lambda prompt: refusal() if prompt == "p1" else echo(prompt))
    batch(home, server, *OUT)
    home.write("foreign.jsonl", "Dear diary\n")
    (home.path / "foreign.jsonl.errors.jsonl").symlink_to(ERRORS)
    home.write("new.jsonl.errors.jsonl", "Dear diary\n")
    home.write("precious", "Dear diary\n")
    (home.path / "link.jsonl.errors.jsonl").symlink_to("precious")
    before = contents(home.path)
    assert batch(home, server, "-o", name, "--seed", "5").code == 2
    assert batch(home, server, "-o", "foreign.jsonl").code == 2
    assert contents(home.path) == before


def test_a_report_does_not_overwrite_a_file_that_is_not_a_report(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(1))
    for text in "Dear diary", '{"name": "flynn"}':
        home.write("notes", text)
        ended = batch(home, llama(), *OUT, "--report", "notes")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert (home.path / "notes").read_text() == text


def test_a_report_may_go_to_a_device(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(1))
    ended = batch(home, llama(), *OUT, "--report", "/dev/stdout")
    assert (ended.code, json.loads(ended.out)["done"]) == (0, 1)


# --- links and devices ------------------------------------------------------------------------------------------------


def test_ordered_keeps_a_symbolic_link_and_the_mode_of_its_target(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(30))
    (home.path / "there").mkdir(mode=0o700)
    (home.path / "there" / "real.jsonl").touch(mode=0o640)
    (home.path / "out.jsonl").symlink_to("there/real.jsonl")
    assert batch(home, llama(), *OUT, "--ordered").code == 0
    assert (home.path / "out.jsonl").is_symlink()
    assert ids(home) == request_ids(30)
    assert (home.path / "there" / "real.jsonl").stat().st_mode & 0o777 == 0o640
    assert os.listdir(home.path / "there") == ["real.jsonl"]


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_foreign_file_with_the_name_of_the_draft_is_not_touched(home: Home, llama: Any, kind: str) -> None:
    home.write("in.jsonl", questions(3))
    home.write("precious", "Dear diary\n")
    draft = home.path / "out.jsonl.draft"
    if kind == "file":
        draft.write_text("Dear diary\n")
    elif kind == "link":
        draft.symlink_to("precious")
    else:
        draft.mkdir()
    ended = batch(home, llama(), *OUT, "--ordered")
    assert ended.code == 2
    assert "out.jsonl.draft: a file of this name is in the way" in ended.err
    assert draft.is_dir() or draft.read_text() == "Dear diary\n"


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "fifo", "folder"])
def test_an_output_that_is_not_a_regular_file_is_refused_at_once(home: Home, llama: Any, name: str) -> None:
    home.write("in.jsonl", questions(1))
    os.mkfifo(home.path / "fifo")
    (home.path / "folder").mkdir()
    server = llama()
    ended = batch(home, server, "-o", name)
    assert (ended.code, ended.err.count("\n"), server.prompts) == (2, 1, [])
    assert f"{name}: not a regular file; without -o results go to standard output" in ended.err


def test_the_output_may_be_a_device_name_for_a_regular_file(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(2))
    ended = in_shell(home, ">> out.jsonl", "in.jsonl", "--endpoint", llama().endpoint, "-o", "/dev/stdout")
    assert ended.code == 0, ended.err
    assert sorted(ids(home)) == request_ids(2)


# --- changes by others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["removed", "renamed", "replaced"])
@pytest.mark.parametrize("name", ["out.jsonl", ERRORS])
def test_a_file_removed_or_replaced_during_the_batch_is_an_error(
    home: Home, llama: Any, change: str, name: str
) -> None:
    home.write("in.jsonl", questions(40))
    gate = Gate()
    process = start(home, llama(lambda p: gate(p) if int(p[1:]) % 2 else gate(p) and refusal()), *OUT, "--jobs", "4")
    while gate.waiting < 4:
        assert process.poll() is None
    path = home.path / name
    if change == "removed":
        path.unlink()
    else:
        path.rename(home.path / "elsewhere")
        if change == "replaced":
            path.touch()
    gate.opened.set()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    message = f"flynn: {name}: the file was removed, renamed or replaced while the batch wrote to it"
    assert message in err.decode()
    if change == "replaced":
        assert path.read_bytes() == b""


def test_two_runs_cannot_write_the_same_output(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(8))
    gate = Gate()
    server = llama(gate)
    first = start(home, server, *OUT)
    while gate.waiting < 4:
        assert first.poll() is None
    second = batch(home, server, *OUT)
    gate.opened.set()
    _, err = first.communicate(timeout=60)
    assert second.code == 2
    assert "out.jsonl: another flynn batch is writing it" in second.err
    assert first.returncode == 0, err
    assert len(ids(home)) == 8


def test_an_output_that_flynn_did_not_write_is_refused_and_unchanged(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(1))
    server = llama()
    zeros = b"\0" * 2_000_000
    for data in (b"Dear diary", b"Dear diary\n", b'{"id":"batch_req_0"}\n', zeros, b"\0\n", b"x" * (50 << 20)):
        (home.path / "out.jsonl").write_bytes(data)
        ended = batch(home, server, *OUT)
        assert ended.code == 2
        assert "not a result of flynn batch; give another output" in ended.err
        assert (home.path / "out.jsonl").read_bytes() == data
