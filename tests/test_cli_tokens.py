"""`flynn tokens`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Home, routes
from scripted import response, serve


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_text_is_the_arguments_and_what_is_piped_in(home: Home) -> None:
    with serve(routes({"POST /tokenize": response(b'{"tokens": [5, 6, 7]}')})) as server:
        for stdin in "", "  and\nthis\n":
            assert home.run("tokens", "Count", "this", "--endpoint", server.endpoint, stdin=stdin) == (0, "3\n", "")
        home.run("tokens", "--endpoint", server.endpoint, stdin=" alone\n\n")
    contents = [request.json["content"] for request in server.requests]
    assert contents == ["Count this", "Count this\n\n  and\nthis\n", " alone\n\n"]


def test_a_real_tokenizer_counts(home: Home, real_server: Any) -> None:
    count = ["tokens", "--endpoint", real_server.endpoint]
    assert home.run(*count, "hello hello hello") == (0, "3\n", "")
    assert home.run(*count, "--json", stdin="hello hello hello\n") == (0, '{"tokens": 4}\n', "")
    assert home.run(*count, stdin="") == (0, "0\n", "")


def test_as_a_prompt_it_has_also_what_the_chat_template_adds(home: Home, real_server: Any) -> None:
    ask = home.run("ask", "--json", "--max-tokens", "1", "hello hello", "--endpoint", real_server.endpoint)
    tokens = json.loads(ask.out)["usage"]["prompt_tokens"]
    assert tokens > 2
    counted = home.run("tokens", "--chat", "--endpoint", real_server.endpoint, stdin="hello hello\n")
    assert counted == (0, f"{tokens}\n", "")


def test_pieces_of_a_real_tokenizer_are_shown_with_their_numbers(home: Home, real_server: Any) -> None:
    tokens = ["tokens", "--pieces", "--endpoint", real_server.endpoint]
    assert home.run(*tokens, "h\u00e9llo \U0001f600\x1b a\nb") == (
        0,
        "   88  'h'\n 2756  '\u00e9'\n31394  'llo'\n40303  b' \\xf0\\x9f\\x98'\n  218  b'\\x80'\n"
        "  212  '\\x1b'\n  253  ' a'\n  198  '\\n'\n   82  'b'\n",
        "",
    )
    assert home.run(*tokens, stdin="") == (0, "", "")
    assert json.loads(home.run(*tokens, "--json", " \U0001f600 a").out) == {
        "tokens": 3,
        "pieces": [
            {"id": 40303, "piece": [*b" \xf0\x9f\x98"]},
            {"id": 218, "piece": [0x80]},
            {"id": 253, "piece": " a"},
        ],
    }


def test_pieces_of_a_prompt_are_those_that_are_counted(home: Home, real_server: Any) -> None:
    chat = ["tokens", "--chat", "hello hello", "--endpoint", real_server.endpoint]
    shown = home.run(*chat, "--pieces").out.splitlines()
    assert shown[0].endswith("  '<|im_start|>'")
    assert len(shown) == int(home.run(*chat).out)


def test_on_a_terminal_without_arguments_it_does_not_wait_for_a_text(home: Home) -> None:
    with home.terminal("tokens", "--endpoint", "http://127.0.0.1:1") as terminal:
        terminal.expect("flynn: no text: give it as arguments or on standard input\r\n")
        assert terminal.end() == 2
