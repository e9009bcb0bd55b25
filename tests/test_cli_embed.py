"""`flynn embed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from command import Home, routes
from real_server import RealServer
from scripted import error, response, serve

from flynn import LlamaCppClient


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(scope="module")
def embedding_server(server_at_hand: None) -> Iterator[RealServer]:
    with RealServer(ctx_size=512, parallel=1, embeddings=True, pooling="mean") as server:
        yield server


def vectors(out: str) -> List[Any]:
    return [json.loads(line) for line in out.splitlines()]


def test_each_argument_is_a_line_with_the_numbers_of_the_real_server(home: Home, embedding_server: RealServer) -> None:
    texts = ["The sky is blue.", "  Grass is green.\n"]
    ended = home.run("embed", *texts, "--endpoint", embedding_server.endpoint)
    assert (ended.code, ended.err) == (0, "")
    with LlamaCppClient(embedding_server.endpoint) as client:
        for printed, vector in zip(vectors(ended.out), client.embed(texts)):
            assert printed == pytest.approx(vector, abs=1e-5)
            assert len(printed) == 576


def test_json_tells_lines_files_and_arguments_apart(home: Home, embedding_server: RealServer) -> None:
    embed = ["embed", "--json", "--endpoint", embedding_server.endpoint]
    file = home.write("text", "\ufeffone\r\ntwo\n")
    for arguments, stdin, expected in (
        (["a", "--file", file, "b"], "unread\n", [{"text": "a"}, {"text": "b"}, {"file": file}]),
        ([], "one\r\ntwo", [{"line": 1, "text": "one"}, {"line": 2, "text": "two"}]),
        ([], "", []),
    ):
        ended = home.run(*embed, *arguments, stdin=stdin)
        assert (ended.code, ended.err) == (0, "")
        printed = vectors(ended.out)
        assert all(len(line.pop("embedding")) == 576 for line in printed)
        assert printed == expected


def test_more_lines_than_fit_into_one_request_keep_their_order(home: Home, embedding_server: RealServer) -> None:
    lines = "".join(f"{number}\n" for number in range(70))
    ended = home.run("embed", "--json", "--endpoint", embedding_server.endpoint, stdin=lines)
    assert [line["text"] for line in vectors(ended.out)] == [str(number) for number in range(70)]


def test_a_text_that_the_server_refuses_is_named_after_those_before_it(
    home: Home, embedding_server: RealServer
) -> None:
    embed = ["embed", "--json", "--endpoint", embedding_server.endpoint]
    ended = home.run(*embed, stdin=f"one\n{'word ' * 600}\nthree\n")
    assert [line["text"] for line in vectors(ended.out)] == ["one"]
    assert ended.code == 1
    assert ended.err.startswith("flynn: line 2: input (601 tokens) is too large to process.")
    ended = home.run(*embed, "one", "")
    assert (ended.code, ended.err) == (1, "flynn: text 2: Input content cannot be empty\n")


def test_a_server_without_embeddings_says_so_once(home: Home, real_server: RealServer) -> None:
    ended = home.run("embed", "a", "b", "--endpoint", real_server.endpoint)
    message = "This server does not support embeddings. Start it with `--embeddings`"
    assert ended == (1, "", f"flynn: {message}\n")
    refused = response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized")
    with serve(routes({"POST /v1/embeddings": refused})) as server:
        ended = home.run("embed", "a", "b", "--endpoint", server.endpoint)
        assert (ended.code, ended.out, ended.err.count("\n")) == (77, "", 1)
        assert ended.err.startswith("flynn: Invalid API Key; the token comes from ")
        assert len(server.requests) == 1


def test_the_model_is_asked_for_by_name(home: Home) -> None:
    with serve(routes({})) as server:
        home.run("embed", "a", "--model", "small", "--endpoint", server.endpoint)
    assert server.requests[0].json["model"] == "small"
    assert server.requests[0].json["input"] == ["a"]


def test_what_cannot_be_read_is_one_line(home: Home) -> None:
    (home.path / "latin").write_bytes(b"caf\xe9")
    not_utf_8 = ":1: not UTF-8: save the file in that encoding"
    for name, why in ("none", ": No such file or directory"), ("latin", not_utf_8):
        assert home.run("embed", "--file", name) == (2, "", f"flynn: {name}{why}\n")
    with home.terminal("embed") as terminal:
        terminal.expect("flynn: no text: give it as arguments, with --file or on standard input\r\n")
        assert terminal.end() == 2
