"""The command `flynn batch`: files, crashes, Ctrl-C, exit codes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

import pytest
from command import FLYNN, Home
from scripted import ScriptedServer, error, eventually, response, serve

from .server import REFUSAL, Gate, answers, echo, prompts


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def lines(path: Path) -> List[Dict[str, Any]]:
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def ids(home: Home, name: str = "out.jsonl") -> List[str]:
    return [line["custom_id"] for line in lines(home.path / name)]


def content(line: Dict[str, Any]) -> str:
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def questions(count: int, start: int = 1) -> str:
    return "".join(f'{{"prompt": "p{n}"}}\n' for n in range(start, start + count))


def batch(home: Home, server: ScriptedServer, *options: str, name: str = "in.jsonl", **how: Any) -> Any:
    return home.run("batch", name, "--endpoint", server.endpoint, *options, **how)


def start(home: Home, server: ScriptedServer, *options: str) -> subprocess.Popen[bytes]:
    return home.start("batch", "in.jsonl", "-o", "out.jsonl", "--endpoint", server.endpoint, *options)


OUT = ("-o", "out.jsonl")


def command(server: ScriptedServer) -> List[str]:
    return ["batch", "in.jsonl", "--endpoint", server.endpoint]


def test_each_line_has_a_result(home: Home) -> None:
    home.write("in.jsonl", questions(20))
    with serve(answers()) as server:
        ended = batch(home, server, *OUT, "--max-tokens", "9")
    assert (ended.code, ended.out) == (0, "")
    assert "20 done, 0 failed, 100 tokens in (60 cached), 200 out, " in ended.err
    assert {line["custom_id"]: content(line) for line in lines(home.path / "out.jsonl")} == {
        f"request-{n}": f"re: p{n}" for n in range(1, 21)
    }
    assert {request.json["max_tokens"] for request in server.requests if request.body} == {9}
    assert not (home.path / "out.jsonl.errors.jsonl").exists()


def test_a_second_run_does_only_what_is_missing(home: Home) -> None:
    home.write("in.jsonl", questions(5))
    with serve(answers()) as server:
        batch(home, server, *OUT)
        home.write("in.jsonl", questions(7))
        ended = batch(home, server, *OUT)
    assert ended.code == 0
    assert "7 done (5 of them before), 0 failed" in ended.err
    assert Counter(prompts(server)) == Counter(f"p{n}" for n in range(1, 8))
    assert sorted(ids(home)) == sorted(f"request-{n}" for n in range(1, 8))


def test_failures_are_written_beside_and_tried_again_by_the_next_run(home: Home) -> None:
    home.write("in.jsonl", questions(3) + "nonsense\n")
    with serve(answers(lambda prompt: REFUSAL if prompt == "p2" else echo(prompt))) as server:
        ended = batch(home, server, *OUT)
    assert ended.code == 1
    assert "2 done, 2 failed" in ended.err
    assert "request-2: not that" in ended.err
    failed = {line["error"]["line"]: line for line in lines(home.path / "out.jsonl.errors.jsonl")}
    assert failed[2]["custom_id"] == "request-2"
    assert failed[2]["response"]["status_code"] == 400
    assert failed[4]["custom_id"] is None
    home.write("in.jsonl", questions(3))
    with serve(answers()) as server:
        assert batch(home, server, *OUT).code == 0
    assert prompts(server) == ["p2"]
    assert not (home.path / "out.jsonl.errors.jsonl").exists()


def test_killed_at_any_moment_it_goes_on_and_does_nothing_twice_that_it_recorded(home: Home) -> None:
    home.write("in.jsonl", questions(300))
    output = home.path / "out.jsonl"
    killed = 0

    def slowly(prompt: str) -> bytes:
        time.sleep(0.01)
        return echo(prompt)

    with serve(answers(slowly)) as server:
        while True:
            before = {content(line).partition("re: ")[2] for line in _whole(output)}
            asked = len(server.requests)
            process = start(home, server, "--jobs", "4")
            if killed < 6:
                time.sleep(random.uniform(0.2, 0.6))
                process.kill()
            process.communicate(timeout=60)
            again = {request.json["messages"][0]["content"] for request in server.requests[asked:] if request.body}
            assert not again & before
            assert len({line["custom_id"] for line in _whole(output)}) == len(_whole(output)) >= len(before)
            if process.returncode != -signal.SIGKILL:
                break
            killed += 1
    assert process.returncode == 0
    assert sorted(ids(home)) == sorted(f"request-{n}" for n in range(1, 301))


def _whole(path: Path) -> List[Dict[str, Any]]:
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


@pytest.mark.parametrize(("cut", "length"), [(1, 1), (30, 1), (300, 1), (9, 100_000)])
def test_a_torn_last_line_is_mended(home: Home, cut: int, length: int) -> None:
    home.write("in.jsonl", questions(4))
    output = home.path / "out.jsonl"
    with serve(answers(lambda prompt: echo(prompt * length))) as server:
        batch(home, server, *OUT)
        whole = output.read_bytes()
        output.write_bytes(whole[:-cut])
        ended = batch(home, server, *OUT)
    assert ended.code == 0
    assert "out.jsonl: cut off " in ended.err
    assert len(prompts(server)) == 5
    assert sorted(ids(home)) == [f"request-{n}" for n in range(1, 5)]


def test_a_full_disk_ends_it_and_the_next_run_goes_on(home: Home) -> None:
    home.write("in.jsonl", questions(200))
    with serve(answers()) as server:
        # The largest file that it may write is of 8 KiB.
        limited = ("bash", "-c", 'ulimit -f 8; exec "$0" "$@"', *FLYNN)
        ended = batch(home, server, *OUT, python=limited)
        assert (ended.code, "out.jsonl: File too large" in ended.err) == (1, True)
        done = len(_whole(home.path / "out.jsonl"))
        again = batch(home, server, *OUT)
    assert again.code == 0
    assert f"200 done ({done} of them before)" in again.err
    assert sorted(ids(home)) == sorted(f"request-{n}" for n in range(1, 201))


def test_a_file_that_is_no_output_is_left_as_it_is(home: Home) -> None:
    home.write("in.jsonl", questions(1))
    for text in ("Dear diary", "Dear diary\n", '{"id":"batch_req_0"}\n'):
        home.write("out.jsonl", text)
        with serve(answers()) as server:
            ended = batch(home, server, *OUT)
        assert ended.code == 2
        assert "no result of flynn batch; give another output" in ended.err
        assert (home.path / "out.jsonl").read_text() == text


def test_input_and_output_are_two_files(home: Home) -> None:
    home.write("in.jsonl", questions(1))
    with serve(answers()) as server:
        ended = batch(home, server, "-o", "./in.jsonl")
    assert (ended.code, "the same file" in ended.err) == (2, True)
    assert (home.path / "in.jsonl").read_text() == questions(1)


def test_an_input_that_changed_is_told(home: Home) -> None:
    home.write("in.jsonl", questions(3))
    with serve(answers()) as server:
        batch(home, server, *OUT)
        home.write("in.jsonl", questions(3, start=2))
        changed = batch(home, server, *OUT)
        home.write("in.jsonl", questions(3))
        options = batch(home, server, *OUT, "--seed", "5")
        home.write("in.jsonl", questions(2))
        shorter = batch(home, server, *OUT)
    assert changed.code == options.code == 2
    assert "in.jsonl:1: 'request-1' has a result already, but of something else" in changed.err
    assert shorter.code == 0
    assert "out.jsonl: 1 results are of requests that in.jsonl does not have" in shorter.err
    assert len(prompts(server)) == 3


def test_a_line_read_in_another_way_is_another_request(home: Home) -> None:
    home.write("in.jsonl", questions(1) + '{"custom_id": "x", "prompt": "p2"}\n')
    with serve(answers()) as server:
        batch(home, server, *OUT)
        ended = batch(home, server, *OUT, "--text")
    assert (ended.code, sorted(ids(home))) == (2, ["request-1", "x"])
    assert "in.jsonl:1: 'request-1' has a result already, but of something else" in ended.err


def test_two_runs_do_not_share_an_output(home: Home) -> None:
    home.write("in.jsonl", questions(8))
    gate = Gate()
    with serve(answers(gate)) as server:
        first = start(home, server)
        eventually(lambda: gate.waiting == 4)
        second = batch(home, server, *OUT)
        gate.opened.set()
        _, err = first.communicate(timeout=60)
    assert second.code == 2
    assert "out.jsonl: another flynn batch is writing it" in second.err
    assert first.returncode == 0, err
    assert len(ids(home)) == 8


def test_ordered_is_the_order_of_the_input_whatever_came_first(home: Home) -> None:
    home.write("in.jsonl", questions(30))
    fails = ["p2"]
    with serve(answers(lambda prompt: REFUSAL if prompt in fails else echo(prompt))) as server:
        assert batch(home, server, *OUT, "--ordered").code == 1
        fails.clear()
        assert batch(home, server, *OUT, "--ordered").code == 0
    assert ids(home) == [f"request-{n}" for n in range(1, 31)]
    assert [content(line) for line in lines(home.path / "out.jsonl")] == [f"re: p{n}" for n in range(1, 31)]
    assert sorted(os.listdir(home.path)) == ["in.jsonl", "out.jsonl"]


def test_from_pipe_to_pipe(home: Home) -> None:
    with serve(answers(lambda prompt: REFUSAL if prompt == "p2" else echo(prompt + "ü"))) as server:
        ended = batch(home, server, "--ordered", name="-", stdin=questions(3))
    assert ended.code == 1
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["custom_id"] for line in found] == ["request-1", "request-2", "request-3"]
    assert content(found[0]) == "re: p1ü"
    assert found[1]["error"]["message"] == "not that"


def test_results_come_while_the_pipe_is_still_open(home: Home) -> None:
    with serve(answers()) as server:
        process = home.start("batch", "-", "--endpoint", server.endpoint)
        assert process.stdin
        assert process.stdout
        for number in range(3):
            process.stdin.write(f'{{"prompt": "p{number}"}}\n'.encode())
            process.stdin.flush()
            assert content(json.loads(process.stdout.readline())) == f"re: p{number}"
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_a_closed_pipe_ends_it_without_a_word_too_many(home: Home) -> None:
    home.write("in.jsonl", questions(3000))
    with serve(answers()) as server:
        process = home.start("batch", "in.jsonl", "--endpoint", server.endpoint)
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
        process.wait(60)
        process.communicate()
    assert process.returncode == 141
    assert "Traceback" not in err


def test_text_has_a_prompt_a_line_and_the_system_prompt_goes_along(home: Home) -> None:
    home.write("in.txt", "one\n\ntwo\n")
    with serve(answers()) as server:
        assert batch(home, server, *OUT, "--text", "--system", "S", name="in.txt").code == 0
    assert sorted(prompts(server)) == ["one", "two"]
    assert sorted(ids(home)) == ["request-1", "request-3"]
    assert all(r.json["messages"][0] == {"role": "system", "content": "S"} for r in server.requests if r.body)


def test_a_template_is_filled_from_csv(home: Home) -> None:
    home.write("in.csv", "custom_id,name\nx,Ann\ny,Bob\n")
    home.write("prompt.txt", "Greet\n{{name}}\n")
    with serve(answers()) as server:
        assert batch(home, server, *OUT, "--template", "prompt.txt", name="in.csv").code == 0
        assert sorted(prompts(server)) == ["Greet\nAnn\n", "Greet\nBob\n"]
        (home.path / "prompt.txt").write_bytes(b"\xef\xbb\xbfGreet\r\n{{name}}\r\n")  # as other editors write it
        assert batch(home, server, *OUT, "--template", "prompt.txt", name="in.csv").code == 0
        assert len(prompts(server)) == 2
        home.write("prompt.txt", "Hail {{name}}")
        changed = batch(home, server, *OUT, "--template", "prompt.txt", name="in.csv")
    assert sorted(ids(home)) == ["x", "y"]
    assert changed.code == 2


def test_a_schema_goes_along(home: Home) -> None:
    home.write("in.jsonl", questions(1))
    home.write("schema.json", '{"type": "object"}')
    with serve(answers()) as server:
        assert batch(home, server, *OUT, "--json-schema", "schema.json").code == 0
    assert server.requests[-1].json["json_schema"] == {"type": "object"}


def test_the_report_tells_what_was_done(home: Home) -> None:
    home.write("in.jsonl", questions(4))
    with serve(answers()) as server:
        assert batch(home, server, *OUT, "--report", "report.json").code == 0
    report = json.loads((home.path / "report.json").read_text())
    assert (report["done"], report["failed"], report["prompt_tokens"], report["completion_tokens"]) == (4, 0, 20, 40)
    assert report["completion_tokens_per_second"] == pytest.approx(40 / report["seconds"], rel=0.01)


def test_ctrl_c_once_lets_the_requests_under_way_end(home: Home) -> None:
    home.write("in.jsonl", questions(50))
    gate = Gate()
    with serve(answers(gate)) as server:
        process = start(home, server)
        eventually(lambda: gate.waiting == 4)
        process.send_signal(signal.SIGINT)
        assert process.stderr
        said = process.stderr.readline().decode()
        gate.opened.set()
        _, err = process.communicate(timeout=60)
    assert "Finishing the 4 under way" in said
    assert process.returncode == 130, err
    assert len(ids(home)) == 4
    assert len(prompts(server)) == 4


def test_ctrl_c_twice_stops(home: Home) -> None:
    home.write("in.jsonl", questions(50))
    gate = Gate()
    with serve(answers(gate)) as server:
        process = start(home, server)
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


def test_progress_is_one_line_on_a_terminal(home: Home) -> None:
    home.write("in.jsonl", questions(8))
    gate = Gate()
    options = [*OUT, "--jobs", "4"]
    with serve(answers(gate)) as server, home.terminal(*command(server), *options) as terminal:
        terminal.expect("\r0 done, 0 failed")
        gate.opened.set()
        terminal.expect("8 done, 0 failed, 40 tokens in")
        assert terminal.end() == 0


def test_it_gives_up_after_too_many_failures(home: Home) -> None:
    home.write("in.jsonl", questions(500))
    with serve(answers(lambda prompt: REFUSAL)) as server:
        ended = batch(home, server, *OUT, "--max-failures", "3", "--jobs", "1")
    assert ended.code == 1
    assert "gave up after 3 failed requests, the last one: not that" in ended.err
    assert len(prompts(server)) == 3


def test_without_a_server_it_gives_up_after_a_while(home: Home) -> None:
    home.write("in.jsonl", questions(2))
    ended = home.run("batch", "in.jsonl", *OUT, "--endpoint", "http://127.0.0.1:9", "--wait", "0.5")
    assert ended.code == 69
    assert "llama-server not running at http://127.0.0.1:9" in ended.err


def test_a_wrong_token_has_its_own_exit_code(home: Home) -> None:
    home.write("in.jsonl", questions(5))
    refusal = response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized")
    with serve(answers(lambda prompt: refusal)) as server:
        assert batch(home, server, *OUT).code == 77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "missing.jsonl: No such file"),
        (["in.jsonl", "--template", "missing.txt"], "missing.txt: No such file"),
        (["in.jsonl", "--jobs", "0"], "--jobs is a number above 0"),
        (["in.jsonl", "--text", "--template", "x"], "not allowed with"),
        ([], "required: INPUT"),
    ],
)
def test_wrong_usage_is_told_in_one_line(home: Home, arguments: List[str], message: str) -> None:
    home.write("in.jsonl", questions(1))
    ended = home.run("batch", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_dask_that_is_not_installed_is_told(home: Home) -> None:
    home.write("in.jsonl", questions(1))
    home.write("distributed.py", "raise ImportError")
    home.variables["PYTHONPATH"] = f"{home.path}:{Path(__file__).parents[2]}"
    ended = home.run("batch", "in.jsonl", "--dask", "tcp://127.0.0.1:1")
    assert (ended.code, "pip install 'flynn-llama[dask]'" in ended.err) == (2, True)
