"""How an answer is shown on a terminal: lines that end between words, and a connection that is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List

import pytest
from command import Home, routes
from scripted import DONE, LAST_CHUNK, STREAM_HEAD, Peer, chunk, delta, eventually, serve, stream

from flynn.cli.word_wrap import WordWrap

CHAT = "POST /v1/chat/completions"
FINISH = delta(finish_reason="stop")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def visible(text: str) -> List[str]:
    """The lines that a terminal shows after a text, backspaces obeyed."""
    lines: List[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown: List[str] = []
        place = 0
        for char in line:
            place = place - 1 if char == "\b" else place + 1
            if char != "\b":
                shown[place - 1 : place] = char
        lines.append("".join(shown).rstrip())
    return lines


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three fours", ["one two", "three", "fours"]),
        ("one\ntwo three", ["one", "two three"]),
        ("a verylongwordthatfitsnowhere b", ["a", "verylongwordthatfitsnowhere b"]),
        ("one  two", ["one  two"]),
        ("```\none two three four\n```\none two three", ["```", "one two three four", "```", "one two", "three"]),
        ("\u4e00\u4e8c\u4e09\u56db\u4e94\u516d", ["\u4e00\u4e8c\u4e09\u56db\u4e94", "\u516d"]),
        ("caf\u0065\u0301 cafe\u0301 x", ["caf\u0065\u0301 cafe\u0301", "x"]),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_end_between_words_however_the_text_is_cut(text: str, lines: List[str], size: int) -> None:
    words = WordWrap()
    wrapped = "".join(words.wrap(text[at : at + size], 11) for at in range(0, len(text), size))
    assert [line.replace("\u0301", "") for line in visible(wrapped)] == [line.replace("\u0301", "") for line in lines]


def test_on_a_terminal_no_word_is_split_and_in_a_pipe_no_line_is_broken(home: Home) -> None:
    words = [f"word{number} " for number in range(40)]
    with serve(routes({CHAT: stream(*map(delta, words), FINISH)})) as server:
        arguments = ["ask", "Hi", "--endpoint", server.endpoint]
        with home.terminal(*arguments) as terminal:
            assert terminal.end() == 0
        assert home.run(*arguments).out == "".join(words) + "\n"
    lines = visible(terminal.text)
    assert len(lines) > 2
    assert max(map(len, lines)) < 100
    assert " ".join(lines).split() == "".join(words).split()


# --- a lost connection ------------------------------------------------------------------------------------------------


def test_a_server_that_dies_is_reported_and_the_answer_goes_on_when_it_is_back(home: Home) -> None:
    back: List[bool] = []

    def cut(peer: Peer) -> None:
        peer.send(STREAM_HEAD + chunk(delta("Hel")))
        peer.close()

    def rest(peer: Peer) -> None:
        request = peer.request()
        if request.method == "POST":
            cut(peer)
        elif request.method == "GET" and back:
            peer.send(STREAM_HEAD + b"".join(map(chunk, [delta("lo!"), FINISH, DONE])) + LAST_CHUNK)
        peer.close()

    with serve(rest) as server, home.start("ask", "Hi", "--endpoint", server.endpoint) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.close()
        line = process.stderr.readline().decode()
        assert re.fullmatch(r"flynn: .*; trying to go on until \d\d:\d\d:\d\d, Ctrl-C ends it\n", line)
        back.append(True)
        assert (process.stdout.read(), process.stderr.read(), process.wait(10)) == (b"Hello!\n", b"", 0)


def test_a_real_server_that_was_restarted_is_named_as_the_reason(home: Home, start_server: Any) -> None:
    server = start_server()
    with home.terminal("ask", "Tell a long story.", "--endpoint", server.endpoint) as terminal:
        terminal.expect(" ")
        server.kill()
        terminal.expect("trying to go on until")
        server.restart()
        assert terminal.end() == 1
    assert "it was restarted" in terminal.text.splitlines()[-1]
    assert "File Not Found" not in terminal.text


def test_what_is_typed_meanwhile_is_not_shown_in_the_answer(home: Home) -> None:
    typed: List[bool] = []

    def slowly(peer: Peer) -> None:
        peer.send(STREAM_HEAD + chunk(delta("Hel")))
        eventually(lambda: bool(typed))
        peer.send(chunk(delta("lo!")) + chunk(FINISH) + chunk(DONE) + LAST_CHUNK)

    with serve(routes({}, slowly)) as server, home.terminal("ask", "Hi", "--endpoint", server.endpoint) as terminal:
        terminal.expect("Hel")
        terminal.type("impatience")
        typed.append(True)
        assert terminal.end() == 0
    assert terminal.text == "Hello!\r\n"


# --- where the server is ----------------------------------------------------------------------------------------------


def test_the_v1_of_other_clients_base_urls_is_understood(home: Home, real_server: Any) -> None:
    endpoint = f"{real_server.endpoint}/v1"
    assert home.run("ask", "Hi", "--max-tokens", "2", "--endpoint", endpoint).code == 0
    with home.terminal("chat", "--endpoint", endpoint) as terminal:
        terminal.expect("/help lists commands")


def test_chat_says_that_a_path_is_wrong_before_it_greets(home: Home, real_server: Any) -> None:
    with home.terminal("chat", "--endpoint", f"{real_server.endpoint}/nope") as terminal:
        assert terminal.end() == 1
    assert terminal.text == f"flynn: File Not Found; asked for {real_server.endpoint}/nope/health\r\n"
