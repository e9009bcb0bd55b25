"""`flynn chat`, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from answers import NOT_FOUND, always, events, reply
from command import Home, Terminal, routes
from pytest_httpserver import HTTPServer
from scripted import STREAM_HEAD, Peer, ScriptedServer, chunk, delta, error, event, eventually, response, serve, stream
from werkzeug import Request, Response

from flynn import LlamaCppClient
from flynn.files import replace_file

CHAT = "POST /v1/chat/completions"
FINISH = delta(finish_reason="stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 31, "completion_tokens": 2}})
UP = {
    "GET /health": response(b'{"status": "ok"}'),
    "GET /props": response(b'{"model_alias": "/models/small"}'),
    CHAT: stream(delta("Hel"), delta("lo!"), FINISH, USAGE),
}
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.variables["TERM"] = "dumb"  # else readline has escape codes of its own
    return home


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serve(routes(UP)) as server:
        yield server


def chatting(server: ScriptedServer) -> List[str]:
    return ["chat", "--endpoint", server.endpoint]


def prompts(server: ScriptedServer) -> List[List[Dict[str, Any]]]:
    """The messages of each request for an answer."""
    return [request.json["messages"] for request in server.requests if request.target == "/v1/chat/completions"]


def user(content: str) -> Dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> Dict[str, Any]:
    return {"role": "assistant", "content": content}


def talk(terminal: Terminal, *lines: str) -> List[str]:
    """Type lines; what the terminal shows for each, until the next prompt."""
    shown = []
    for line in lines:
        terminal.type(f"{line}\n")
        terminal.expect("\r\n")
        shown.append(terminal.expect("\r\n> ")[: -len("\r\n> ")].replace("\r\n", "\n").rstrip())
    return shown


# --- on a terminal ----------------------------------------------------------------------------------------------------


def test_a_conversation_keeps_its_history_and_ctrl_d_leaves(home: Home, server: ScriptedServer) -> None:
    with home.terminal("chat", "--system", "Be brief.", "--max-tokens", "9", "--endpoint", server.endpoint) as terminal:
        assert terminal.expect("> ") == f"small at {server.endpoint}. /help lists commands, Ctrl-D leaves.\r\n> "
        assert talk(terminal, "One", "Two") == ["Hello!", "Hello!"]
        terminal.type("\x04")
        assert terminal.end() == 0
    system = {"role": "system", "content": "Be brief."}
    first = [system, user("One")]
    assert prompts(server) == [first, [*first, assistant("Hello!"), user("Two")]]
    asked = [request.json for request in server.requests if request.target == "/v1/chat/completions"]
    assert [body["max_tokens"] for body in asked] == [9, 9]


def test_a_line_that_ends_in_a_backslash_goes_on_in_the_next_one(home: Home, server: ScriptedServer) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("one\\\n")
        terminal.expect(". ")
        terminal.type("two\n")
        terminal.expect("Hello!")
    assert prompts(server) == [[user("one\ntwo")]]


def test_a_pasted_text_is_one_prompt(home: Home, server: ScriptedServer) -> None:
    home.variables["TERM"] = "xterm"
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("\x1b[200~one\ntwo\x1b[201~\n")
        terminal.expect("Hello!")
        terminal.expect("> ")
    assert prompts(server) == [[user("one\ntwo")]]


def test_an_empty_line_asks_nothing_and_a_blank_makes_a_prompt_of_a_command(home: Home, server: ScriptedServer) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("\n")
        terminal.expect("> ")
        assert talk(terminal, " /etc is what?") == ["Hello!"]
    assert prompts(server) == [[user(" /etc is what?")]]


def test_commands(home: Home, server: ScriptedServer) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        before, _, stats, reset, after = talk(terminal, "/stats", "One", "/stats", "/reset", "/stats")
        assert before == after == "0 messages; last answer: none yet"
        assert stats.startswith(
            "2 messages; last answer: prompt 31 tokens (0 cached), answer 2 tokens, first token after "
        )
        assert reset == "The conversation starts again."
        assert talk(terminal, "/system  Be brief. ", "Two", "/system", "/system none", "Three")[::2] == [
            "System prompt: Be brief.",
            "System prompt: Be brief.",
            "Hello!",
        ]
        terminal.type("/quit\n")
        assert terminal.end() == 0
    system = {"role": "system", "content": "Be brief."}
    two = [user("Two"), assistant("Hello!")]
    assert prompts(server) == [[user("One")], [system, user("Two")], [*two, user("Three")]]


def test_help_lists_the_commands_and_wrong_ones_get_one_line(home: Home, server: ScriptedServer) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        listed, near, unknown, missing, extra = talk(terminal, "/help", "/rest", "/etc/hosts", "/save ", "/quit now")
        names = [line.split()[0] for line in listed.splitlines()]
    assert names[:8] == ["/help", "/reset", "/system", "/image", "/save", "/load", "/stats", "/quit"]
    assert near == "flynn: unknown command '/rest'; did you mean '/reset'?"
    assert unknown == "flynn: unknown command '/etc/hosts' (/help lists them; a space before the / makes it a prompt)"
    assert missing == "flynn: /save needs a FILE"
    assert extra == "flynn: /quit takes nothing after it"
    assert prompts(server) == []


def test_a_saved_conversation_is_loaded_again(home: Home, server: ScriptedServer) -> None:
    with home.terminal("chat", "--system", "Be br\xefef.", "--endpoint", server.endpoint) as terminal:
        terminal.expect("> ")
        assert talk(terminal, "One", "/save ~/talk.json", "Two", "/save talk.json")[1::2] == [
            "Saved in ~/talk.json.",
            "Saved in talk.json.",
        ]
    file = home.path / "talk.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    history = [user("One"), assistant("Hello!"), user("Two"), assistant("Hello!")]
    saved = [{"role": "system", "content": "Be br\xefef."}, *history]
    assert json.loads(file.read_text("utf-8")) == saved
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        assert talk(terminal, "/load talk.json", "Three") == ["4 messages loaded.", "Hello!"]
    assert prompts(server)[-1] == [*saved, user("Three")]


def test_saving_overwrites_nothing_but_conversations(home: Home, server: ScriptedServer) -> None:
    notes = home.write("notes.txt", "important")
    home.write("data.json", '{"important": true}')
    (home.path / "link").symlink_to(home.path / "none")
    os.mkfifo(home.path / "pipe")
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        refused = "it exists and is not a conversation; choose another name"
        for name in ("notes.txt", "data.json"):
            terminal.type(f"/save {name}\n")
            terminal.expect(f"{name} exists. Overwrite it? [y/N] ")
            terminal.type("y\n")
            terminal.expect(f"flynn: {name}: {refused}\r\n> ")
        names = ["link", "pipe", "."]
        shown = talk(terminal, *[f"/save {name}" for name in names], "/save none/talk.json")
    assert shown == [
        *[f"flynn: {name}: {refused}" for name in names],
        "flynn: none/talk.json: No such file or directory",
    ]
    assert Path(notes).read_text() == "important"
    assert sorted(os.listdir(home.path)) == [".local", "data.json", "link", "notes.txt", "pipe"]


def test_saving_asks_before_it_overwrites_another_conversation(home: Home, server: ScriptedServer) -> None:
    talk_file = Path(home.write("talk.json", "[]"))
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        talk(terminal, "One")
        for answer, result in ("n", "Not saved."), ("", "Not saved."), ("y", "Saved in talk.json."):
            terminal.type("/save talk.json\n")
            terminal.expect("Overwrite it? [y/N] ")
            assert (talk_file.read_text() == "[]") is True
            terminal.type(f"{answer}\n")
            terminal.expect(f"{result}\r\n> ")
        assert talk(terminal, "/save talk.json") == ["Saved in talk.json."]  # its own file
    assert len(json.loads(talk_file.read_text())) == 2


def test_a_file_that_cannot_be_replaced_leaves_no_draft_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        replace_file(str(tmp_path / "folder"), "text")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{]", "1:3: not JSON: Expecting property name enclosed in double quotes"),
        ("{}", " not a conversation: expected a list of messages"),
        ('[{"role": "user"}, {"content": "x"}]', " message 2 is not an object with a role"),
        ('[{"role": "user", "content": 5}]', " the content of message 1 is neither text nor a list of parts"),
    ],
)
def test_a_file_that_is_not_a_conversation_is_not_loaded(
    home: Home, server: ScriptedServer, text: str, message: str
) -> None:
    home.write("talk.json", text)
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        assert talk(terminal, "One", "/load talk.json", "Two")[1] == f"flynn: talk.json:{message}"
    assert prompts(server)[-1] == [user("One"), assistant("Hello!"), user("Two")]


def test_an_error_does_not_end_the_conversation_and_leaves_no_prompt_without_an_answer(home: Home) -> None:
    too_long = error(400, "too long", "exceed_context_size_error", n_prompt_tokens=9, n_ctx=8)
    broken = b"data: " + error(500, "out of memory", "server_error") + b"\n\n"
    answers = [
        response(too_long, "400 Bad Request"),
        stream(delta("Half"), broken),
        stream(FINISH),
        stream(delta("Cut"), delta(finish_reason="length")),
        UP[CHAT],
    ]
    in_turn = routes(UP, lambda peer: peer.send(answers.pop(0)))
    with serve(in_turn) as server, home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        assert talk(terminal, "One", "Two", "Three", "Four", "Five") == [
            "flynn: too long",
            "Half\nflynn: out of memory",
            "(an empty answer)",
            "Cut\n(cut at the token limit)",
            "Hello!",
        ]
    history = [user("Two"), assistant("Half"), user("Three"), assistant(""), user("Four"), assistant("Cut")]
    assert prompts(server)[-1] == [*history, user("Five")]


def test_ctrl_c_stops_the_answer_which_stays_as_it_is(home: Home) -> None:
    def one_piece(peer: Peer) -> None:
        if peer.server.requests[-1].json["messages"][-1]["content"] == "Two":
            peer.send(UP[CHAT])
        else:
            peer.send(STREAM_HEAD + chunk(delta("Once")))
            peer.stall()

    with serve(routes(UP, one_piece)) as server, home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("One\n")
        terminal.expect("Once")
        terminal.interrupt()
        assert terminal.expect("> ") == "\r\n(stopped)\r\n\r\n> "
        assert "DELETE" in [request.method for request in server.requests]
        assert talk(terminal, "Two") == ["Hello!"]
    assert prompts(server)[-1] == [user("One"), assistant("Once"), user("Two")]


def test_ctrl_c_at_the_prompt_gives_a_new_one_and_twice_leaves(home: Home, server: ScriptedServer) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("half a li")
        terminal.expect("half a li")
        time.sleep(0.5)
        terminal.interrupt()
        terminal.expect("\r\n(Ctrl-C again or Ctrl-D to leave)\r\n> ")
        assert talk(terminal, "One") == ["Hello!"]
        for _ in range(2):
            time.sleep(0.5)  # see test_a_signal_at_the_prompt_ends_it
            terminal.interrupt()
        assert terminal.end() == 130
    assert prompts(server) == [[user("One")]]
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_ends_it(home: Home, server: ScriptedServer, number: signal.Signals) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("half")
        terminal.expect("half")
        time.sleep(0.5)  # readline notices a signal that comes just before it waits only after the next key
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number


def test_typing_after_ctrl_c_takes_the_offer_to_leave_back(home: Home, server: ScriptedServer) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        for _ in range(3):
            terminal.type("half a li")
            terminal.expect("half a li")
            time.sleep(0.5)
            terminal.interrupt()
            terminal.expect("\r\n(Ctrl-C again or Ctrl-D to leave)\r\n> ")
        time.sleep(0.5)
        terminal.interrupt()
        assert terminal.end() == 130


@pytest.mark.parametrize("word", ["/quit", "/exit", "/bye", "exit", "quit"])
def test_other_words_for_leaving_leave(home: Home, server: ScriptedServer, word: str) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type(f"{word}\n")
        assert terminal.end() == 0
    assert prompts(server) == []


def test_clear_and_a_question_mark_are_known_and_a_sentence_with_quit_is_a_prompt(
    home: Home, server: ScriptedServer
) -> None:
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        cleared, listed, answer = talk(terminal, "/clear", "/?", "quit smoking how?")
    assert cleared == "The conversation starts again."
    assert listed.startswith("/help")
    assert answer == "Hello!"


def test_tab_completes_commands_and_files(home: Home, server: ScriptedServer) -> None:
    home.write("my talk.json", json.dumps([user("One"), assistant("Two")]))
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("/lo\t my\t\n")
        terminal.expect("2 messages loaded.")


def test_an_image_goes_with_the_next_prompt_alone(home: Home, server: ScriptedServer) -> None:
    (home.path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n...")
    with home.terminal(*chatting(server), "--image", "a.png") as terminal:
        terminal.expect("> ")
        shown = talk(terminal, "One", "/image none.png", "/image a.png", "Two", "Three")
    assert shown[1:3] == ["flynn: none.png: not a file", "a.png goes with the next prompt."]
    last = prompts(server)[-1]
    assert [type(message["content"]) for message in last if message["role"] == "user"] == [list, list, str]


def test_functions_are_called_in_a_conversation(home: Home) -> None:
    home.write("here.py", "def where() -> str:\n    'Where we are.'\n    return 'Oslo'\n")
    call = {"index": 0, "id": "1", "function": {"name": "where", "arguments": "{}"}}
    answers = [stream(delta(tool_calls=[call]), delta(finish_reason="tool_calls")), UP[CHAT], UP[CHAT]]

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            route = f"{request.method} {request.target.partition('?')[0]}"
            unknown = response(b"{}", "404 Not Found")
            peer.send(answers.pop(0) if route == CHAT else UP.get(route, unknown))

    with serve(script) as server, home.terminal(*chatting(server), "--tool", "here.py:where") as terminal:
        terminal.expect("> ")
        first, second = talk(terminal, "Where are we?", "Sure?")
    assert "where {}\n-> Oslo\nHello!" in re.sub("\x1b\\[[0-9]*m", "", first)
    assert second == "Hello!"
    roles = [message["role"] for message in prompts(server)[-1]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_calls_and_an_answer_that_is_stopped_stay_in_the_conversation(home: Home) -> None:
    home.write("here.py", "def where() -> str:\n    'Where we are.'\n    return 'Oslo'\n")
    call = {"index": 0, "id": "1", "function": {"name": "where", "arguments": "{}"}}
    answers = [stream(delta(tool_calls=[call]), delta(finish_reason="tool_calls")), None, UP[CHAT]]

    def in_turn(peer: Peer) -> None:
        reply = answers.pop(0)
        peer.send(reply or STREAM_HEAD + chunk(delta("In")))
        if reply is None:
            peer.stall()

    options = ["--system", "Be brief.", "--tool", "here.py:where"]
    with serve(routes(UP, in_turn)) as server, home.terminal(*chatting(server), *options) as terminal:
        terminal.expect("> ")
        terminal.type("Where are we?\n")
        terminal.expect("In")
        terminal.interrupt()
        terminal.expect("(stopped)\r\n\r\n> ")
        assert talk(terminal, "Sure?") == ["Hello!"]
    history = [(message["role"], message["content"]) for message in prompts(server)[-1]]
    turn = [("user", "Where are we?"), ("assistant", ""), ("tool", "Oslo"), ("assistant", "In")]
    assert history == [("system", "Be brief."), *turn, ("user", "Sure?")]


def test_what_is_typed_is_bold_where_colours_are_wanted(home: Home, server: ScriptedServer) -> None:
    home.variables["TERM"] = "xterm"
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("\x1b[1m> ")
        terminal.type("One\n")
        terminal.expect("\x1b[0m")
        terminal.expect("Hello!\r\n\r\n")


def test_what_was_typed_can_be_recalled_the_next_time_and_only_by_its_owner(home: Home, server: ScriptedServer) -> None:
    state = home.path / "state"
    home.variables["XDG_STATE_HOME"] = str(state)
    for typed in "One\n", "\x10\n":  # Ctrl-P: the line before
        with home.terminal(*chatting(server)) as terminal:
            terminal.expect("> ")
            terminal.type(typed)
            terminal.expect("Hello!")
            terminal.expect("> ")
            terminal.type("\x04")
            assert terminal.end() == 0
    assert prompts(server) == [[user("One")], [user("One")]]
    assert stat.S_IMODE((state / "flynn" / "history").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "flynn").stat().st_mode) == 0o700


def test_without_a_place_for_the_history_or_without_readline_it_works_all_the_same(
    home: Home, server: ScriptedServer
) -> None:
    home.write("file", "")
    for folder, module in ("file", None), ("relative", None), ("file", "raise ImportError"):
        home.variables["XDG_STATE_HOME"] = str(home.path / folder) if folder == "file" else folder
        if module:
            home.write("readline.py", module)
        with home.terminal(*chatting(server)) as terminal:
            terminal.expect("> ")
            assert talk(terminal, "One") == ["Hello!"]
            terminal.type("\x04")
            assert terminal.end() == 0
    assert not (home.path / "relative").exists()
    assert (home.path / ".local" / "state" / "flynn" / "history").read_text().splitlines()[-1] == "One"


def test_a_server_that_is_down_ends_the_chat_at_once(home: Home) -> None:
    with home.terminal("chat", "--endpoint", NOWHERE) as terminal:
        assert terminal.end() == 69
    reason = f"llama-server not running at {NOWHERE}"
    assert terminal.text == f"flynn: {reason}; Connection refused; run flynn status for advice\r\n"
    refused = response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized")
    with serve(routes({**UP, "GET /props": refused})) as server, home.terminal(*chatting(server)) as terminal:
        assert terminal.end() == 77
    assert terminal.text.startswith("flynn: Invalid API Key; the token comes from ")


def test_a_proxy_that_lets_only_the_chat_through_is_enough(home: Home) -> None:
    hidden = response(b"no", "404 Not Found", kind="text/plain")
    with serve(routes({**UP, "GET /props": hidden})) as server, home.terminal(*chatting(server)) as terminal:
        assert terminal.expect("> ").startswith(f"llama-server at {server.endpoint}. ")
        assert talk(terminal, "One") == ["Hello!"]


def test_escape_codes_come_from_readline_alone(home: Home, server: ScriptedServer) -> None:
    home.variables = {"TERM": "xterm", "NO_COLOR": "1"}
    with home.terminal(*chatting(server)) as terminal:
        terminal.expect("> ")
        terminal.type("/help\n")
        terminal.expect("> ")
    assert "\x1b[0m" not in terminal.text
    assert "\x1b[2m" not in terminal.text


# --- with a real model ------------------------------------------------------------------------------------------------


def test_ctrl_c_frees_the_slot_of_a_real_server_and_the_talk_goes_on(home: Home, real_server: Any) -> None:
    with LlamaCppClient(real_server.endpoint) as client:
        busy: Callable[[], int] = lambda: sum(slot.is_processing for slot in client.slots())  # noqa: E731
        before = busy()
        with home.terminal("chat", "--endpoint", real_server.endpoint, "--max-tokens", "900") as terminal:
            terminal.expect("> ")
            terminal.type("Tell a long story.\n")
            terminal.expect("\r\n")
            terminal.expect(" ")
            assert busy() == before + 1
            terminal.interrupt()
            terminal.expect("(stopped)\r\n\r\n> ")
            eventually(lambda: busy() == before)
            terminal.type("/stats\n")
            terminal.expect("2 messages; ")


def test_what_a_failed_prompt_would_have_dropped_is_not_said_to_be_forgotten(
    home: Home, httpserver: HTTPServer, endpoint: str
) -> None:
    refusal = error(400, "too long", "exceed_context_size_error", n_prompt_tokens=300, n_ctx=200)

    def answer(request: Request) -> Response:
        if request.path == "/props":
            return reply({"default_generation_settings": {"n_ctx": 200}})(request)
        if request.path != "/v1/chat/completions":
            return NOT_FOUND(request)
        is_long = "long" in request.json["messages"][-1]["content"]
        return (reply(refusal, 400) if is_long else events(delta("Yes."), FINISH))(request)

    always(httpserver, answer)
    ended = home.run("chat", "--endpoint", endpoint, stdin="One\nTwo\n" + "long " * 200)
    assert (ended.code, ended.out, ended.err) == (1, "Yes.\nYes.\n", "flynn: too long\n")


def test_a_long_talk_with_a_real_model_forgets_its_beginning_and_says_so(home: Home, start_server: Any) -> None:
    server = start_server(ctx_size=256, parallel=1)
    options = ["chat", "--max-tokens", "4", "--endpoint", server.endpoint]
    lines = [f"Tell me something about the number {number} and about all the numbers after it." for number in range(8)]
    ended = home.run(*options, "--summarise", stdin="\n".join(lines))
    assert ended.code == 0
    assert re.fullmatch(r"(\(the context is full: the oldest \d+ messages are summarised\)\n)+", ended.err)
    for variables, note in ({}, "\x1b[2m(the context is full"), ({"NO_COLOR": "1"}, "\r\n(the context is full"):
        saved = f"talk{len(variables)}.json"
        home.variables = {"TERM": "xterm", **variables}
        with home.terminal(*options) as terminal:
            terminal.expect("\x1b[?2004h")
            for line in lines:
                terminal.type(f"{line}\n")
                terminal.expect("\x1b[?2004h")
            terminal.type(f"/save {saved}\n/quit\n")
            assert terminal.end() == 0
        assert note in terminal.text.replace("\x1b[?2004l\r", "\r\n")
        assert re.search(r" messages are forgotten\)(\x1b\[0m)?\r\n", terminal.text)
        assert len(json.loads((home.path / saved).read_text("utf-8"))) == 2 * len(lines)


def test_a_real_model_that_still_loads_is_waited_for(home: Home, loading_server: Any) -> None:
    server, model_arrives = loading_server
    assert home.run("status", "--endpoint", server.endpoint) == (75, f"{server.endpoint} is loading\n", "")
    with home.terminal(*chatting(server), "--max-tokens", "3") as terminal:
        assert terminal.expect("\r\n") == "The model is loading ...\r\n"
        model_arrives()
        terminal.expect("/help lists commands, Ctrl-D leaves.\r\n> ")
        assert talk(terminal, "Hi")[0]


# --- in a pipe --------------------------------------------------------------------------------------------------------


def test_each_line_is_a_prompt_and_only_answers_are_printed(home: Home, server: ScriptedServer) -> None:
    ended = home.run("chat", "--endpoint", server.endpoint, stdin="One\r\n\n  \n/reset\n")
    assert ended == (0, "Hello!\nHello!\n", "")
    assert prompts(server) == [[user("One")], [user("One"), assistant("Hello!"), user("/reset")]]


def test_an_error_in_a_pipe_ends_it_with_its_code(home: Home) -> None:
    refused = response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized")
    with serve(routes({CHAT: refused})) as server:
        ended = home.run("chat", "--endpoint", server.endpoint, stdin="One\nTwo\n")
    assert (ended.code, ended.out) == (77, "")
    assert ended.err.startswith("flynn: Invalid API Key; the token comes from ")
    assert len(prompts(server)) == 1


def test_without_any_input_it_ends(home: Home) -> None:
    assert home.run("chat") == (0, "", "")


def test_answers_can_go_to_a_file_while_prompts_are_typed(home: Home, server: ScriptedServer) -> None:
    with open(home.path / "answers", "wb") as answers, home.terminal(*chatting(server), stdout=answers) as terminal:
        terminal.type("One\n\x04")
        assert terminal.end() == 0
    assert (home.path / "answers").read_text() == "Hello!\n"


def test_a_real_model_remembers_what_was_said(home: Home, real_server: Any) -> None:
    options = ["--temperature", "0", "--max-tokens", "12", "--endpoint", real_server.endpoint]
    ended = home.run("chat", *options, stdin="My name is Bob. Say hello, Bob.\nSay my name.\n")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") >= 2
