"""`flynn ask --continue`: the last conversation, and where it is kept. Also --extract, --audio and --use."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from answers import Answer, events, reply, sent
from command import Home, routes
from pytest_httpserver import HTTPServer
from scripted import STREAM_HEAD, Peer, chunk, delta, event, serve

from flynn.cli.answer import first_code_block

FINISH = delta(finish_reason="stop")
HELLO = events(delta("Hello!"), FINISH)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path)


def user(content: Any) -> Dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> Dict[str, Any]:
    return {"role": "assistant", "content": content}


def kept(home: Home) -> Path:
    return home.path / ".local" / "state" / "flynn" / "last.json"


def prompts(server: HTTPServer) -> List[Any]:
    return [request.json["messages"] for request in sent(server) if request.path == "/v1/chat/completions"]


def serve_chat(server: HTTPServer, answer: Answer) -> None:
    """Answer requests for chat, and nothing else."""
    server.expect_request("/v1/chat/completions").respond_with_handler(answer)
    server.expect_request(re.compile("")).respond_with_handler(reply({}, 404))


# --- --continue -------------------------------------------------------------------------------------------------------


def test_it_goes_on_with_the_last_conversation(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    serve_chat(httpserver, HELLO)
    ask = ["--endpoint", endpoint]
    assert home.run("ask", "One", "--system", "Be brief.", *ask).code == 0
    assert home.run("ask", "-c", "Two", *ask).out == "Hello!\n"
    assert home.run("ask", "--continue", "Three", *ask).code == 0
    system = {"role": "system", "content": "Be brief."}
    history = [system, user("One"), assistant("Hello!"), user("Two"), assistant("Hello!"), user("Three")]
    assert prompts(httpserver) == [history[:2], history[:4], history]
    assert home.run("ask", "Four", *ask).code == 0
    assert json.loads(kept(home).read_text()) == [user("Four"), assistant("Hello!")]


def test_only_its_owner_can_read_it(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    serve_chat(httpserver, HELLO)
    home.run("ask", "One", "--endpoint", endpoint)
    assert stat.S_IMODE(kept(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept(home).parent.stat().st_mode) == 0o700
    assert os.listdir(kept(home).parent) == ["last.json"]


def test_an_interrupted_answer_is_kept_as_far_as_it_was_written(home: Home) -> None:
    def one_piece(peer: Peer) -> None:
        peer.send(STREAM_HEAD + chunk(delta("Once")))
        peer.stall()

    with serve(routes({}, one_piece)) as server, home.terminal("ask", "Hi", "--endpoint", server.endpoint) as terminal:
        terminal.expect("Once")
        terminal.interrupt()
        assert terminal.end() == 130
    assert json.loads(kept(home).read_text()) == [user("Hi"), assistant("Once")]


@pytest.mark.parametrize("value", ["", "0", "off"])
def test_flynn_history_switches_it_off(home: Home, httpserver: HTTPServer, endpoint: str, value: str) -> None:
    serve_chat(httpserver, HELLO)
    home.variables["FLYNN_HISTORY"] = value
    assert home.run("ask", "One", "--endpoint", endpoint) == (0, "Hello!\n", "")
    assert not kept(home).exists()
    message = "flynn: --continue: FLYNN_HISTORY is set to keep no conversation\n"
    assert home.run("ask", "-c", "Two", "--endpoint", endpoint) == (2, "", message)


def test_without_a_last_conversation_it_says_so(home: Home) -> None:
    message = "flynn: --continue: there is no last conversation; ask without it first\n"
    assert home.run("ask", "-c", "Two") == (2, "", message)


def test_what_cannot_be_kept_does_not_spoil_the_answer(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    serve_chat(httpserver, HELLO)
    home.variables["XDG_STATE_HOME"] = home.write("file", "")
    assert home.run("ask", "One", "--endpoint", endpoint) == (0, "Hello!\n", "")
    with home.terminal("ask", "One", "--endpoint", endpoint) as terminal:
        assert terminal.end() == 0
    answer, problem = terminal.text.splitlines()
    assert answer == "Hello!"
    assert problem.startswith(f"flynn: {home.path}/file/flynn/last.json: Not a directory; ")


@pytest.mark.parametrize("text", ["{", "{}", '[{"no": "role"}]', "\xff"])
def test_a_broken_file_is_one_line_and_the_next_question_replaces_it(
    home: Home, httpserver: HTTPServer, endpoint: str, text: str
) -> None:
    serve_chat(httpserver, HELLO)
    kept(home).parent.mkdir(parents=True)
    kept(home).write_bytes(text.encode("latin-1"))
    ended = home.run("ask", "-c", "Two", "--endpoint", endpoint)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert home.run("ask", "Three", "--endpoint", endpoint).code == 0
    assert json.loads(kept(home).read_text())[0] == user("Three")


def test_what_no_longer_fits_is_forgotten_with_a_line(home: Home, real_server: Any) -> None:
    long = [message for _ in range(40) for message in (user("Tell me about the sky. " * 8), assistant("It is blue."))]
    kept(home).parent.mkdir(parents=True)
    kept(home).write_text(json.dumps(long))
    ended = home.run("ask", "-c", "Why?", "--max-tokens", "4", "--endpoint", real_server.endpoint)
    assert ended.code == 0
    assert ended.err.startswith("(the context is full: the oldest ")
    assert len(json.loads(kept(home).read_text())) < len(long)


def test_stats_say_why_the_server_read_the_last_prompt_again(home: Home, start_server: Any) -> None:
    endpoint = start_server(parallel=1).endpoint
    options = ["--stats", "--max-tokens", "4", "--temperature", "0", "--endpoint", endpoint]
    assert "differ" not in home.run("ask", "Why is the sky blue?", "--system", "It is Monday.", *options).err
    assert home.run("ask", "-c", "And at dusk?", *options).err.count("\n") == 1
    ended = home.run("ask", "-c", "And at night?", "--system", "It is Tuesday.", *options)
    line = ended.err.splitlines()[-1]
    assert line.startswith("cached ")
    assert "the prompts differ from token " in line
    assert "Monday" in line
    assert "Tuesday" in line


# --- --extract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Run:\n```sh\nls\ncd\n```\nThen\n```\nrm\n```\n", "ls\ncd\n"),
        ("~~~\na\n~~~", "a\n"),
        ("````md\n```\nx\n```\n````\n", "```\nx\n```\n"),
        ("1. Run\n   ```sh\n   ls\n     -l\n   ```\n", "ls\n  -l\n"),
        ("```\n```\n", ""),
        ("```py\ncut", None),
        ("inline `code` and ```more```", None),
        ("none", None),
    ],
)
def test_the_first_code_block_of_a_text(text: str, code: Any) -> None:
    assert first_code_block(text) == code


def test_only_the_first_code_block_is_printed(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    pieces = ["Sure:\n``", "`sh\nls", " -l\n```", "\nThat lists."]
    serve_chat(httpserver, events(*map(delta, pieces), FINISH))
    assert home.run("ask", "-x", "How?", "--endpoint", endpoint) == (0, "ls -l\n", "")


def test_an_answer_without_a_complete_block_prints_nothing_and_fails(
    home: Home, httpserver: HTTPServer, endpoint: str
) -> None:
    serve_chat(httpserver, events(delta("```sh\nrm -r "), delta(finish_reason="length")))
    message = "flynn: the answer has no complete code block\n"
    assert home.run("ask", "-x", "How?", "--endpoint", endpoint) == (1, "", message)


# --- what else goes along ---------------------------------------------------------------------------------------------


def test_a_recording_goes_with_the_prompt(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    serve_chat(httpserver, HELLO)
    (home.path / "a.mp3").write_bytes(b"ID3...")
    assert home.run("ask", "What?", "--audio", "a.mp3", "--endpoint", endpoint).code == 0
    data = base64.b64encode(b"ID3...").decode()
    audio = {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}
    assert prompts(httpserver) == [[user([{"type": "text", "text": "What?"}, audio])]]


def test_the_model_of_a_name_in_the_configuration_is_used(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    serve_chat(httpserver, HELLO)
    home.write(
        "flynn.yaml",
        f"models:\n  local:\n    endpoint: http://127.0.0.1:1\n  fast:\n    endpoint: {endpoint}\n    model: small\n",
    )
    assert home.run("ask", "Hi", "--use", "fast") == (0, "Hello!\n", "")
    assert sent(httpserver)[0].json["model"] == "small"
    assert home.run("ask", "Hi", "--use", "fast", "--endpoint", f"{endpoint}/").code == 0
    message = "flynn: --use: no model 'fats'; did you mean 'fast'? (expected one of: local, fast)\n"
    assert home.run("ask", "Hi", "--use", "fats") == (2, "", message)


def test_flynn_log_shows_the_requests_and_never_a_token(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    serve_chat(httpserver, HELLO)
    home.variables.update(FLYNN_LOG="debug", FLYNN_AUTH_TOKEN="s3cret", FLYNN_HISTORY="")
    ended = home.run("ask", "my question", "--endpoint", endpoint)
    assert (ended.code, ended.out) == (0, "Hello!\n")
    assert "POST /v1/chat/completions" in ended.err
    assert "HTTP 200" in ended.err
    assert "s3cret" not in ended.err
    assert "my question" not in ended.err
    home.variables["FLYNN_LOG"] = "prompts"
    assert "my question" in home.run("ask", "my question", "--endpoint", endpoint).err


def test_the_cache_line_needs_no_server_that_counts(home: Home, httpserver: HTTPServer, endpoint: str) -> None:
    usage = event({"choices": [], "usage": {"prompt_tokens": 31, "completion_tokens": 2}})
    serve_chat(httpserver, events(delta("Hello!"), FINISH, usage))
    options = ["--stats", "--endpoint", endpoint]
    home.run("ask", "One", *options)
    ended = home.run("ask", "-c", "Two", *options)
    assert (ended.code, ended.out) == (0, "Hello!\n")
    assert ended.err.splitlines()[-1].startswith("the prompts cannot be compared: ")
