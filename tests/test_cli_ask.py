"""`flynn ask`."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Dict, List

import pytest
from command import Home, routes
from scripted import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    ScriptedServer,
    chunk,
    delta,
    error,
    event,
    eventually,
    serve,
    stream,
)

from flynn import ChatRequest, LlamaCppClient
from flynn.files import MAX_SIZE
from flynn.models.request import option_types

CHAT = "POST /v1/chat/completions"
FINISH = delta(finish_reason="stop")
USAGE = event(
    {
        "id": "chatcmpl-1",
        "model": "small",
        "choices": [],
        "usage": {"prompt_tokens": 31, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 24}},
        "timings": {"predicted_n": 2, "predicted_per_second": 98.76},
    }
)
HELLO = stream(delta("Hel"), delta("lo!"), FINISH, USAGE)
NO_INPUT = {"stdin": subprocess.DEVNULL}
PNG = b"\x89PNG\r\n\x1a\n..."


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def asking(server: ScriptedServer) -> List[str]:
    return ["ask", "Hi", "--endpoint", server.endpoint]


def sent(server: ScriptedServer) -> Dict[str, Any]:
    """The body of the first request."""
    body: Dict[str, Any] = server.requests[0].json
    return body


def user(content: Any) -> List[Dict[str, Any]]:
    return [{"role": "user", "content": content}]


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["Why", "is the sky", "blue?"], "", "Why is the sky blue?"),
        (["What failed?"], "line 1\nline 2\n", "What failed?\n\nline 1\nline 2"),
        ([], "Why?\r\n\n", "Why?"),
    ],
)
def test_the_prompt_is_the_arguments_then_a_blank_line_and_what_is_piped_in(
    home: Home, words: List[str], stdin: str, prompt: str
) -> None:
    with serve(routes({CHAT: HELLO})) as server:
        assert home.run("ask", *words, "--endpoint", server.endpoint, stdin=stdin) == (0, "Hello!\n", "")
    assert sent(server)["messages"] == user(prompt)


def test_a_prompt_is_needed(home: Home) -> None:
    assert home.run("ask", stdin=" \n") == (2, "", "flynn: the prompt is empty\n")
    with home.terminal("ask") as terminal:
        assert terminal.end() == 2
    assert terminal.text == "flynn: no text: give it as arguments or on standard input\r\n"


def test_a_system_prompt_and_images_go_along(home: Home) -> None:
    (home.path / "photo.png").write_bytes(PNG)
    with serve(routes({CHAT: HELLO})) as server:
        options = ["--system", "Be brief.", "--image", "photo.png", "--image", "https://example.org/x.jpg"]
        home.run("ask", "What is this?", *options, "--endpoint", server.endpoint)
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert sent(server)["messages"] == [
        {"role": "system", "content": "Be brief."},
        *user(
            [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "image_url", "image_url": {"url": "https://example.org/x.jpg"}},
            ]
        ),
    ]


def test_an_image_that_cannot_be_read_is_wrong_usage(home: Home) -> None:
    message = "flynn: cannot read the image 'none.png': No such file or directory\n"
    assert home.run("ask", "What?", "--image", "none.png") == (2, "", message)


def test_every_field_of_a_request_that_is_marked_is_an_option(home: Home) -> None:
    values: Dict[type, Any] = {int: 7, float: 0.5, str: "word", list: ["one", "two"]}
    expected = {}
    options = []
    for field in dataclasses.fields(ChatRequest):
        if field.metadata.get("command"):
            kind = next(kind for kind in (list, float, int, str) if kind in option_types()[field.name])
            expected[field.name] = values[kind]
            for value in values[list] if kind is list else [values[kind]]:
                options += [f"--{field.name.replace('_', '-')}", str(value)]
    assert {"max_tokens", "temperature", "stop", "model"} <= expected.keys()
    with serve(routes({CHAT: HELLO})) as server:
        assert home.run("ask", "Hi", *options, "--endpoint", server.endpoint).code == 0
    given = {name: value for name, value in sent(server).items() if name in expected}
    assert given == expected


def test_a_cut_stream_is_resumed_unless_the_configuration_says_otherwise(home: Home) -> None:
    def cut(peer: Peer) -> None:
        peer.send(STREAM_HEAD + chunk(delta("Hel")))
        peer.close()

    rest = STREAM_HEAD + b"".join(map(chunk, [delta("lo!"), FINISH, DONE])) + LAST_CHUNK
    with serve(routes({"GET /v1/stream": rest}, cut)) as server:
        assert home.run("ask", "Hi", "--endpoint", server.endpoint) == (0, "Hello!\n", "")
    home.write("flynn.yaml", "models:\n  local:\n    defaults:\n      resume: false\n")
    with serve(routes({"GET /v1/stream": rest}, cut)) as server:
        ended = home.run("ask", "Hi", "--endpoint", server.endpoint)
    assert (ended.code, ended.out) == (1, "Hel")
    assert re.fullmatch(r"flynn: the stream was cut after \d+ bytes, 3 characters of text.*\n", ended.err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": object}', 's.json:1:10: not JSON: Expecting value'),
        ('["object"]', 's.json: a JSON schema is an object, such as {"type": "object"}'),
        ('{"maximum": NaN}', "s.json: not JSON: NaN is not a number in JSON"),
        ("[" * 100_000, "s.json: not JSON: "),
    ],
)  # fmt: skip
def test_an_invalid_schema_is_wrong_usage(home: Home, text: str, message: str) -> None:
    home.write("s.json", text)
    ended = home.run("ask", "Hi", "--json-schema", "s.json")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"flynn: {message}")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.json", "No such file or directory"),
        (".", "Is a directory"),
        ("large.json", f"more than {MAX_SIZE} bytes"),
    ],
)
def test_a_schema_that_cannot_be_read_is_wrong_usage(home: Home, name: str, reason: str) -> None:
    if name == "large.json":
        home.write(name, "")
        os.truncate(home.path / name, MAX_SIZE + 1)
    assert home.run("ask", "Hi", "--json-schema", name) == (2, "", f"flynn: {name}: {reason}\n")


# --- what comes back --------------------------------------------------------------------------------------------------


def test_each_piece_is_printed_as_it_comes(home: Home) -> None:
    seen = threading.Event()

    def slowly(peer: Peer) -> None:
        peer.send(STREAM_HEAD + chunk(delta("Hel")))
        assert seen.wait(30)
        peer.send(chunk(delta("lo!")) + chunk(FINISH) + chunk(DONE) + LAST_CHUNK)

    with serve(routes({}, slowly)) as server, home.start("ask", "Hi", "--endpoint", server.endpoint) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.read(3) == b"Hel"
        seen.set()
        assert process.stdout.read() == b"lo!\n"


def test_stats_are_one_line_on_standard_error(home: Home) -> None:
    with serve(routes({CHAT: HELLO})) as server:
        ended = home.run("ask", "Hi", "--stats", "--endpoint", server.endpoint)
    assert (ended.code, ended.out) == (0, "Hello!\n")
    expected = r"prompt 31 tokens \(24 cached\), answer 2 tokens, 98\.8 tokens/s, first token after \d+\.\d\d s\n"
    assert re.fullmatch(expected, ended.err)


def test_stats_show_that_the_token_limit_ended_the_answer_and_nothing_that_is_unknown(home: Home) -> None:
    for events, expected in (
        ([delta(finish_reason="length")], "cut at the token limit\n"),
        ([FINISH], "no statistics\n"),
    ):
        with serve(routes({CHAT: stream(*events)})) as server:
            assert home.run("ask", "Hi", "--stats", "--endpoint", server.endpoint) == (0, "", expected)


def test_json_is_the_reply_of_the_chat_route(home: Home) -> None:
    call = {"index": 0, "id": "1", "function": {"name": "look", "arguments": "{}"}}
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5}]}
    first = event({"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": logprobs}]})
    answer = stream(
        delta(reasoning_content="hm"), first, delta("\xe9", choice=1), delta(tool_calls=[call]), FINISH, USAGE
    )
    with serve(routes({CHAT: answer})) as server:
        ended = home.run("ask", "Hi", "--json", "--endpoint", server.endpoint)
    assert (ended.code, ended.err, ended.out.count("\n"), ended.out.isascii()) == (0, "", 1, True)
    tool_call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    message = {"role": "assistant", "content": "Hi", "tool_calls": [tool_call], "reasoning_content": "hm"}
    timings = json.loads(ended.out)["timings"]
    assert json.loads(ended.out) == {
        "id": "chatcmpl-1",
        "model": "small",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs},
            {"index": 1, "message": {"role": "assistant", "content": "\xe9"}, "finish_reason": None},
        ],
        "usage": {
            "prompt_tokens": 31,
            "completion_tokens": 2,
            "total_tokens": 33,
            "prompt_tokens_details": {"cached_tokens": 24},
        },
        "timings": timings,
    }
    assert (timings["predicted_n"], timings["predicted_per_second"]) == (2, 98.76)


def test_only_the_first_of_several_choices_is_printed_and_no_reasoning(home: Home) -> None:
    answer = stream(delta(reasoning_content="hm"), delta("one"), delta("two", choice=1), FINISH)
    with serve(routes({CHAT: answer})) as server:
        assert home.run("ask", "Hi", "--endpoint", server.endpoint) == (0, "one\n", "")


def test_what_came_before_an_error_stays(home: Home) -> None:
    failure = b"data: " + error(500, "out of memory", "server_error") + b"\n\n"
    for terminal, expected in (False, "flynn: out of memory\n"), (True, "Hel\r\nflynn: out of memory\r\n"):
        with serve(routes({CHAT: stream(delta("Hel"), failure)})) as server:
            arguments = ["ask", "Hi", "--endpoint", server.endpoint]
            if not terminal:
                assert home.run(*arguments) == (1, "Hel", expected)
                continue
            with home.terminal(*arguments, **NO_INPUT) as shown:
                assert (shown.end(), shown.text) == (1, expected)


def test_in_a_pipe_text_stays_as_it_came_and_on_a_terminal_it_cannot_drive_it(home: Home) -> None:
    text = "a\x1b[2Jb\x07c\rd\x9be\x7ff\tg\nh"
    with serve(routes({CHAT: stream(delta(text), FINISH)})) as server:
        arguments = ["ask", "Hi", "--endpoint", server.endpoint]
        with home.start(*arguments) as process:
            assert process.communicate(b"") == (f"{text}\n".encode(), b"")
        with home.terminal(*arguments, **NO_INPUT) as terminal:
            assert terminal.end() == 0
    # The terminal itself makes \r\n of \n and blanks of a tab.
    assert re.sub(" +", "\t", terminal.text) == "a[2Jbcdef\tg\r\nh\r\n"


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, "\x1b[2mhm\x1b[0m\x1b[2m?\x1b[0m"),
        ({"NO_COLOR": "1"}, "hm?"),
        ({"TERM": "dumb"}, "hm?"),
    ],
)
def test_reasoning_is_dimmed_on_a_terminal_if_colours_are_wanted(
    home: Home, variables: Dict[str, str], shown: str
) -> None:
    home.variables = variables
    answer = stream(delta(reasoning_content="hm"), delta(reasoning_content="\x1b?"), delta("Hi"), FINISH)
    with serve(routes({CHAT: answer})) as server, home.terminal(*asking(server), **NO_INPUT) as terminal:
        assert terminal.end() == 0
    assert terminal.text == f"{shown}\r\n\r\nHi\r\n"


def test_an_error_after_reasoning_has_a_line_of_its_own_on_a_terminal(home: Home) -> None:
    failure = b"data: " + error(500, "out of memory", "server_error") + b"\n\n"
    home.variables = {"NO_COLOR": "1"}
    answer = stream(delta(reasoning_content="hm"), failure)
    with serve(routes({CHAT: answer})) as server, home.terminal(*asking(server), **NO_INPUT) as terminal:
        assert terminal.end() == 1
    assert terminal.text == "hm\r\nflynn: out of memory\r\n"


def progress(processed: int, total: int = 4000) -> bytes:
    return event(
        {"choices": [], "prompt_progress": {"total": total, "cache": 1000, "processed": processed, "time_ms": 9}}
    )


def test_on_a_terminal_the_reading_of_a_long_prompt_is_shown_and_then_taken_away(home: Home) -> None:
    answer = stream(progress(1000), progress(4000), progress(1000, 1010), delta("Hi"), FINISH)
    with serve(routes({CHAT: answer})) as server:
        arguments = ["ask", "Hi", "--endpoint", server.endpoint]
        assert home.run(*arguments) == (0, "Hi\n", "")
        with home.terminal(*arguments, **NO_INPUT) as terminal:
            assert terminal.end() == 0
    blank = " " * len("reading 4000 tokens: 100 %^C")
    assert terminal.text == f"\rreading 4000 tokens: 0 %\rreading 4000 tokens: 100 %\r{blank}\rHi\r\n"


# --- with a real model ------------------------------------------------------------------------------------------------


def test_a_real_model_answers(home: Home, real_server: Any) -> None:
    arguments = ["ask", "--temperature", "0", "--max-tokens", "8", "Say hello.", "--endpoint", real_server.endpoint]
    ended = home.run(*arguments, "--stats")
    assert ended.code == 0
    assert len(ended.out) > 5
    assert ended.out.endswith("\n")
    assert re.fullmatch(r"prompt \d+ tokens \(\d+ cached\), answer \d tokens, [\d.]+ tokens/s, first .*\n", ended.err)
    reply = json.loads(home.run(*arguments, "--json").out)
    assert reply["choices"][0]["message"]["content"].strip() == ended.out.strip()


def test_a_real_model_keeps_to_a_schema(home: Home, real_server: Any) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}, "required": ["name"]}
    home.write("s.json", json.dumps(schema))
    options = ["--json-schema", "s.json", "--temperature", "0", "--max-tokens", "100"]
    ended = home.run("ask", "Invent a person.", *options, "--endpoint", real_server.endpoint)
    assert ended.code == 0
    assert list(json.loads(ended.out)) == ["name"]


def test_json_that_the_token_limit_cut_is_a_failure(home: Home) -> None:
    home.write("s.json", '{"type": "object"}')
    with serve(routes({CHAT: stream(delta('{"a": '), delta(finish_reason="length"))})) as server:
        ended = home.run("ask", "Hi", "--json-schema", "s.json", "--endpoint", server.endpoint)
    message = "the answer was cut at the token limit, so it is not complete JSON: raise --max-tokens"
    assert ended == (1, '{"a": \n', f"flynn: {message}\n")


def test_ctrl_c_ends_it_and_frees_the_slot(home: Home, real_server: Any) -> None:
    arguments = ["ask", "Tell a long story.", "--endpoint", real_server.endpoint]
    with LlamaCppClient(real_server.endpoint) as client:
        busy = sum(slot.is_processing for slot in client.slots())
        with home.terminal(*arguments, **NO_INPUT) as terminal:
            terminal.expect(" ")
            assert sum(slot.is_processing for slot in client.slots()) == busy + 1
            terminal.interrupt()
            assert terminal.end() == 130
        assert terminal.text.endswith("\r\n")
        assert "Traceback" not in terminal.text
        eventually(lambda: sum(slot.is_processing for slot in client.slots()) == busy)
