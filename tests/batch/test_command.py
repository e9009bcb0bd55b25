"""The command `flynn batch`: its input, output and messages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

import pytest
from command import Home
from scripted import chat, error

from .files import ERRORS, OUT, batch, content, ids, lines, questions, request_ids, start
from .server import Gate, answer, echo, refusal


def test_each_line_has_a_result(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(20))
    server = llama()
    ended = batch(home, server, *OUT, "--max-tokens", "9")
    assert (ended.code, ended.out) == (0, "")
    assert "20 done, 0 failed, 100 tokens in (60 cached), 200 out, " in ended.err
    assert {line["custom_id"]: content(line) for line in lines(home.path / "out.jsonl")} == {
        f"request-{n}": f"re: p{n}" for n in range(1, 21)
    }
    assert {body["max_tokens"] for body in server.bodies} == {9}
    assert not (home.path / ERRORS).exists()


def test_a_second_run_sends_only_requests_without_a_result(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(5))
    server = llama()
    batch(home, server, *OUT)
    home.write("in.jsonl", questions(7))
    ended = batch(home, server, *OUT)
    assert ended.code == 0
    assert "7 done (5 of them before), 0 failed" in ended.err
    assert Counter(server.prompts) == Counter(f"p{n}" for n in range(1, 8))
    assert sorted(ids(home)) == request_ids(7)


def test_failures_go_to_the_errors_file_and_the_next_run_retries_them(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(3) + "nonsense\n")
    server = llama(lambda prompt: refusal() if prompt == "p2" else echo(prompt))
    ended = batch(home, server, *OUT)
    assert ended.code == 1
    assert "2 done, 2 failed" in ended.err
    assert "request-2: not that" in ended.err
    assert "in.jsonl:4: not JSON" in ended.err
    failed = {line["error"]["line"]: line for line in lines(home.path / ERRORS)}
    assert failed[2]["custom_id"] == "request-2"
    assert failed[2]["response"]["status_code"] == 400
    assert failed[4]["custom_id"] is None
    home.write("in.jsonl", questions(3))
    server.answer = echo
    server.bodies.clear()
    assert batch(home, server, *OUT).code == 0
    assert server.prompts == ["p2"]
    assert not (home.path / ERRORS).exists()


def test_an_invalid_request_keeps_its_id_and_has_a_digest(home: Home, llama: Any) -> None:
    home.write("in.jsonl", '{"custom_id": "a", "prompt": 5}\n{"prompt": 6}\n{"custom_id": 7, "prompt": "x"}\n')
    assert batch(home, llama(), *OUT).code == 1
    failed = lines(home.path / ERRORS)
    assert [line["custom_id"] for line in failed] == ["a", "request-2", "request-3"]
    assert len({line["id"] for line in failed}) == 3


def test_a_changed_request_is_an_error_and_a_removed_one_is_reported(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(3))
    server = llama()
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
    assert len(server.prompts) == 3


@pytest.mark.parametrize(
    ("first", "second"),
    [('"seed": 1, "temperature": 0', '"temperature": 0, "seed": 1'), ('"temperature": 1', '"temperature": 1.0')],
)
def test_the_same_options_in_another_order_or_notation_are_no_change(
    home: Home, llama: Any, first: str, second: str
) -> None:
    home.write("in.jsonl", questions(2))
    server = llama()
    for defaults in first, second:
        model = f'{{"provider": "llamacpp", "endpoint": "{server.endpoint}", "defaults": {{{defaults}}}}}'
        home.write("flynn.json", f'{{"models": {{"local": {model}}}}}')
        ended = home.run("batch", "in.jsonl", *OUT, "--config", "flynn.json")
        assert ended.code == 0, ended.err
    assert len(server.prompts) == 2


def test_json_lines_read_as_text_are_other_requests(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(1) + '{"custom_id": "x", "prompt": "p2"}\n')
    server = llama()
    batch(home, server, *OUT)
    ended = batch(home, server, *OUT, "--text")
    assert (ended.code, sorted(ids(home))) == (2, ["request-1", "x"])
    assert "in.jsonl:1: 'request-1' has a result already, but of something else" in ended.err


def test_ordered_writes_results_in_the_order_of_the_input(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(30))
    fails = ["p2"]
    server = llama(lambda prompt: refusal() if prompt in fails else echo(prompt))
    assert batch(home, server, *OUT, "--ordered").code == 1
    fails.clear()
    assert batch(home, server, *OUT, "--ordered").code == 0
    assert ids(home) == request_ids(30)
    assert [content(line) for line in lines(home.path / "out.jsonl")] == [f"re: p{n}" for n in range(1, 31)]
    assert {path.name for path in home.path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_a_batch_reads_standard_input_and_writes_standard_output(home: Home, llama: Any) -> None:
    server = llama(lambda prompt: refusal() if prompt == "p2" else echo(prompt + "ü"))
    ended = batch(home, server, "--ordered", name="-", stdin=questions(3))
    assert ended.code == 1
    results = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["custom_id"] for line in results] == request_ids(3)
    assert content(results[0]) == "re: p1ü"
    assert results[1]["error"]["message"] == "not that"


def test_characters_that_standard_output_cannot_encode_are_escaped(home: Home, llama: Any) -> None:
    deep = "[" * 400 + "]" * 400
    reply = chat("ü 😀").decode().replace('"id"', f'"n": NaN, "lone": "\\ud800", "deep": {deep}, "ü": "日", "id"', 1)
    home.write("in.jsonl", questions(1))
    home.variables = {"PYTHONIOENCODING": "ascii"}
    ended = batch(home, llama(lambda prompt: answer(reply.encode())))
    assert ended.code == 0, ended.err
    assert ended.out.isascii()
    assert json.loads(ended.out)["response"]["body"]["ü"] == "日"
    assert json.loads(ended.out)["response"]["body"]["lone"] == "\ud800"


def test_results_are_written_while_standard_input_is_still_open(home: Home, llama: Any) -> None:
    process = start(home, llama(), name="-")
    assert process.stdin
    assert process.stdout
    for number in range(3):
        process.stdin.write(f'{{"prompt": "p{number}"}}\n'.encode())
        process.stdin.flush()
        assert content(json.loads(process.stdout.readline())) == f"re: p{number}"
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_closed_output_pipe_ends_the_batch_without_a_traceback(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(3000))
    process = start(home, llama())
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read().decode()
    process.wait(60)
    process.communicate()
    assert process.returncode == 141
    assert "Traceback" not in err


def test_each_line_of_text_is_a_prompt_and_gets_the_system_prompt(home: Home, llama: Any) -> None:
    home.write("in.txt", "one\n\ntwo\n")
    server = llama()
    assert batch(home, server, *OUT, "--text", "--system", "S", name="in.txt").code == 0
    assert sorted(server.prompts) == ["one", "two"]
    assert sorted(ids(home)) == ["request-1", "request-3"]
    assert all(body["messages"][0] == {"role": "system", "content": "S"} for body in server.bodies)


def test_a_template_is_filled_from_csv(home: Home, llama: Any) -> None:
    home.write("in.csv", "custom_id,name\nx,Ann\ny,Bob\n")
    home.write("prompt.txt", "Greet\n{{name}}\n")
    server = llama()
    assert batch(home, server, *OUT, "--template", "prompt.txt", name="in.csv").code == 0
    assert sorted(server.prompts) == ["Greet\nAnn\n", "Greet\nBob\n"]
    (home.path / "prompt.txt").write_bytes(b"\xef\xbb\xbfGreet\r\n{{name}}\r\n")  # with a byte order mark and CRLF
    assert batch(home, server, *OUT, "--template", "prompt.txt", name="in.csv").code == 0
    assert len(server.prompts) == 2
    home.write("prompt.txt", "Hail {{name}}")
    changed = batch(home, server, *OUT, "--template", "prompt.txt", name="in.csv")
    assert sorted(ids(home)) == ["x", "y"]
    assert changed.code == 2


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("questions.txt", "Why?\nHow?\n", (), "questions.txt:1: not a JSON object on one line; give --text if"),
        ("people.csv", "name,age\nAnn,5\n", (), "or --template FILE if INPUT is a table of values"),
        ("list.json", '[\n{"prompt": "a"}\n]\n', (), "list.json:1: not a JSON object on one line"),
        ("object.json", '{\n"prompt": "a"\n}\n', (), "object.json:1: not a JSON object on one line"),
        ("twice.csv", "name,age,name\nAnn,5,Bob\n", ("--template", "t"), "twice.csv:1: the header has 'name' twice"),
        (
            "other.csv",
            "nmae,age\nAnn,5\n",
            ("--template", "t"),
            "other.csv:1: no column 'name' for the template (the header has: nmae, age)",
        ),
        ("latin.csv", "näme\n", ("--template", "t"), "latin.csv:1: not UTF-8"),
    ],
)
def test_an_input_of_another_format_is_a_one_line_error(
    home: Home, llama: Any, name: str, text: str, options: List[str], message: str
) -> None:
    home.write("t", "Greet {{name}}")
    (home.path / name).write_bytes(text.encode("latin-1"))
    server = llama()
    ended = batch(home, server, *OUT, *options, name=name)
    assert (ended.code, ended.err.count("\n"), server.bodies) == (2, 1, [])
    assert message in ended.err
    assert not (home.path / "out.jsonl").exists()


def test_the_report_has_counts_and_speed(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(4))
    server = llama()
    for _ in range(2):
        assert batch(home, server, *OUT, "--report", "report.json").code == 0
        (home.path / "out.jsonl").unlink()
    report = json.loads((home.path / "report.json").read_text())
    assert (report["done"], report["failed"], report["prompt_tokens"], report["completion_tokens"]) == (4, 0, 20, 40)
    assert report["completion_tokens_per_second"] == pytest.approx(40 / report["seconds"], rel=0.01)


def test_answers_truncated_at_the_token_limit_are_counted(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(3))
    server = llama(lambda prompt: answer(chat().replace(b'"stop"', b'"length"')) if prompt != "p2" else echo(prompt))
    ended = batch(home, server, *OUT, "--report", "report.json")
    assert ended.code == 0
    assert "3 done, 0 failed, 2 cut off at the limit of tokens" in ended.err
    assert json.loads((home.path / "report.json").read_text())["truncated"] == 2


def test_progress_is_one_line_on_a_terminal(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(8))
    gate = Gate()
    command = ["batch", "in.jsonl", "--endpoint", llama(gate).endpoint, *OUT, "--jobs", "4"]
    with home.terminal(*command) as terminal:
        terminal.expect("\r0 done, 0 failed")
        gate.opened.set()
        terminal.expect("8 done, 0 failed, 40 tokens in")
        assert terminal.end() == 0


def test_the_batch_gives_up_after_max_failures(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(500))
    server = llama(refusal)
    ended = batch(home, server, *OUT, "--max-failures", "3", "--jobs", "1")
    assert ended.code == 1
    assert "gave up after 3 failed requests, the last one: not that" in ended.err
    assert len(server.prompts) == 3


def test_the_batch_gives_up_when_no_server_appears_within_the_wait(home: Home) -> None:
    home.write("in.jsonl", questions(2))
    ended = home.run("batch", "in.jsonl", *OUT, "--endpoint", "http://127.0.0.1:9", "--wait", "0.5")
    assert ended.code == 69
    assert "llama-server not running at http://127.0.0.1:9" in ended.err


def test_a_wrong_token_has_its_own_exit_code(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(5))
    wrong = answer(error(401, "Invalid API Key", "authentication_error"), 401)
    assert batch(home, llama(lambda prompt: wrong), *OUT).code == 77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "missing.jsonl: No such file"),
        (["in.jsonl", "--template", "missing.txt"], "missing.txt: No such file"),
        (["in.jsonl", "--jobs", "0"], "--jobs must be a number, 1 or more"),
        (["in.jsonl", "--retries", "-1"], "--retries must be a number, 0 or more"),
        (["in.jsonl", "--text", "--template", "x"], "not allowed with"),
        ([], "required: INPUT"),
    ],
)
def test_wrong_usage_is_a_one_line_error(home: Home, arguments: List[str], message: str) -> None:
    home.write("in.jsonl", questions(1))
    ended = home.run("batch", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_dask_that_is_not_installed_is_a_one_line_error(home: Home) -> None:
    home.write("in.jsonl", questions(1))
    home.write("distributed.py", "raise ImportError")
    home.variables["PYTHONPATH"] = f"{home.path}:{Path(__file__).parents[2]}"
    ended = home.run("batch", "in.jsonl", "--dask", "tcp://127.0.0.1:1")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "pip install distributed" in ended.err


def test_the_help_states_the_default_of_the_timeout_once(home: Home) -> None:
    help = " ".join(home.run("batch", "--help").out.split())
    assert help.count("(default: 600)") == 2  # --timeout and --wait
    assert "default: 60)" not in help
    assert "by default" not in help


def schema_of(**properties: Dict[str, Any]) -> str:
    return json.dumps({"type": "object", "properties": properties, "required": list(properties)})


def test_an_answer_that_does_not_match_the_schema_is_retried_and_then_an_error(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(3))
    home.write("schema.json", schema_of(n={"type": "integer"}))
    texts = {"p1": ['{"n": 1}'], "p2": ['{"n": "x"}', '{"n": 2}'], "p3": ['{"n": 1.5}', "{}", "[", '{"n": 3}']}
    server = llama(lambda prompt: answer(chat(texts[prompt].pop(0))))
    ended = batch(home, server, *OUT, "--json-schema", "schema.json", "--retries", "2")
    assert ended.code == 1
    assert {line["custom_id"]: content(line) for line in lines(home.path / "out.jsonl")} == {
        "request-1": '{"n": 1}',
        "request-2": '{"n": 2}',
    }
    (failed,) = lines(home.path / ERRORS)
    assert (failed["custom_id"], failed["error"]["code"]) == ("request-3", "StructuredOutputError")
    assert content(failed) == "["  # the last answer is kept
    assert server.bodies[0]["json_schema"]["required"] == ["n"]


def test_an_answer_truncated_at_the_token_limit_does_not_match_a_schema(home: Home, llama: Any) -> None:
    home.write("in.jsonl", questions(1))
    home.write("schema.json", '{"type": "object"}')
    server = llama(lambda prompt: answer(chat('{\n  "s').replace(b'"stop"', b'"length"')))
    ended = batch(home, server, *OUT, "--json-schema", "schema.json", "--retries", "0")
    assert (ended.code, len(server.prompts)) == (1, 1)
    assert "0 done, 1 failed" in ended.err
    assert "request-1: the model ran out of tokens" in ended.err
    server.answer = lambda prompt: answer(chat("{}"))
    assert batch(home, server, *OUT, "--json-schema", "schema.json").code == 0
    assert len(server.prompts) == 2
