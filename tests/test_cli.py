"""The command as a whole: how it is called, what it exits with, and what never shows a traceback."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, List, Type

import pytest
from command import FLYNN, ROOT, Home, routes
from scripted import (
    DONE,
    HELLO,
    LOADING,
    STREAM_HEAD,
    Peer,
    ScriptedServer,
    answering,
    chunk,
    delta,
    error,
    eventually,
    response,
    serve,
    stream,
)

import flynn
from flynn import FlynnError, errors
from flynn.cli import COMMANDS, EXIT_CODES, exit_code, main, report
from flynn.cli.terminal import Terminal
from flynn.http.endpoint import DEFAULT_ENDPOINT

NOWHERE = "http://127.0.0.1:1"
INVALID_KEY = (
    "flynn: Invalid API Key; the token comes from auth_token=, $FLYNN_AUTH_TOKEN, or auth_token or auth_token_file in "
    "the configuration\n"
)
ANSWERS = {"POST /v1/chat/completions": HELLO}
# What each command but the batch, which has tests of its own, is called with.
CALLS = {"ask": ["ask", "Hi"], "chat": ["chat"], "status": ["status"], "tokens": ["tokens", "Hi"]}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def asking(server: ScriptedServer) -> List[str]:
    return ["ask", "Hi", "--endpoint", server.endpoint]


def call(command: str, endpoint: str, home: Home, *arguments: str) -> Any:
    return home.run(*CALLS[command], "--endpoint", endpoint, *arguments, stdin="Hi\n" if command == "chat" else "")


# --- how it is called -------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_and_the_exit_codes(home: Home) -> None:
    ended = home.run("--help")
    assert (ended.code, ended.err) == (0, "")
    for name, purpose in COMMANDS.items():
        assert f"  {name:<18}{purpose}\n" in ended.out
    for code, meaning in EXIT_CODES.items():
        assert f"  {code:<18}{meaning}\n" in ended.out


def test_without_a_command_the_help_goes_to_standard_error(home: Home) -> None:
    assert home.run() == (2, "", home.run("--help").out)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples_and_the_options_of_every_command(home: Home, command: str) -> None:
    ended = home.run(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"examples:\n  flynn {command}" in ended.out or f"\n  flynn {command}" in ended.out
    assert len(ended.out.splitlines()) <= 80
    for option in ("--endpoint", "--config", "--timeout", "--auth-token-file"):
        assert (option in ended.out) == (command != "completion")


def test_help_is_a_command_too(home: Home) -> None:
    assert home.run("help") == home.run("--help")
    assert home.run("help", "ask") == home.run("ask", "--help")


def test_the_help_names_the_default_endpoint_and_its_variable(home: Home) -> None:
    assert "$FLYNN_ENDPOINT" in (shown := " ".join(home.run("ask", "--help").out.split()))
    assert DEFAULT_ENDPOINT in shown
    assert "FLYNN_ENDPOINT" in home.run("--help").out


def test_a_dash_stands_for_standard_input(home: Home) -> None:
    counted = routes({"POST /tokenize": response(b'{"tokens": [1]}')})
    with serve(counted) as server:
        assert home.run("tokens", "-", "--endpoint", server.endpoint, stdin="piped").code == 0
        with home.terminal("tokens", "-", "--endpoint", server.endpoint) as terminal:
            terminal.type("typed\n\x04")
            assert terminal.end() == 0
    assert [request.json["content"] for request in server.requests] == ["piped", "typed\n"]


def test_version(home: Home) -> None:
    assert home.run("--version") == (0, f"flynn {flynn.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aks"], f"unknown command 'aks'; did you mean 'ask'? (expected one of: {', '.join(COMMANDS)})"),
        (
            ["--endpoint", "x", "ask"],
            "unknown option '--endpoint': the options of a command follow it (see flynn --help)",
        ),
        (
            ["ask", "--temprature=1"],
            "unknown option '--temprature'; did you mean '--temperature'? (see flynn ask --help)",
        ),
        (["ask", "--temp", "1"], "unknown option '--temp'; did you mean '--temperature'? (see flynn ask --help)"),
        (["ask", "--foo"], "unknown option '--foo' (see flynn ask --help)"),
        (["ask", "--json", "-x"], "argument -x/--extract: not allowed with argument --json (see flynn ask --help)"),
        (["status", "please"], "unexpected argument 'please' (see flynn status --help)"),
        (["status", "--", "please"], "unexpected argument 'please' (see flynn status --help)"),
        (["ask", "--max-tokens"], "argument --max-tokens: expected one argument (see flynn ask --help)"),
        (
            ["ask", "--temperature", "nan"],
            "argument --temperature: expected a number, not 'nan' (see flynn ask --help)",
        ),
        (
            ["ask", "--temperature", "hot"],
            "argument --temperature: expected a number, not 'hot' (see flynn ask --help)",
        ),
        (
            ["status", "--timeout", "0"],
            "argument --timeout: expected seconds above 0, or none for no limit, not '0' (see flynn status --help)",
        ),
        (
            ["status", "--endpoint", "localhost"],
            "argument --endpoint: not an endpoint: 'localhost'; write http://HOST:PORT, https://HOST:PORT or "
            "unix:///path/to.sock (see flynn status --help)",
        ),
        (["status", "--config", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line_and_2(home: Home, arguments: list[str], message: str) -> None:
    assert home.run(*arguments) == (2, "", f"flynn: {message}\n")


def test_options_and_words_mix_and_after_two_dashes_all_are_words(home: Home) -> None:
    routed = routes({"POST /tokenize": response(b'{"tokens": [1, 2]}')})
    with serve(routed) as server:
        home.run("tokens", "one", "--endpoint", server.endpoint, "two", "-5", "--", "--three", "--")
    assert server.requests[0].json["content"] == "one two -5 --three --"


def test_main_takes_arguments_and_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--version"]) == 0
    assert main(["status", "--endpoint", NOWHERE]) == 69
    assert capsys.readouterr().out == f"flynn {flynn.__version__}\n{NOWHERE} is down\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_main_runs_in_any_thread(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor() as pool:
        assert pool.submit(main, ["status", "--endpoint", NOWHERE]).result() == 69
    assert capsys.readouterr().out == f"{NOWHERE} is down\n"


def test_a_command_loads_nothing_that_it_does_not_need(home: Home) -> None:
    with serve(routes(ANSWERS)) as server:
        ended = home.run(
            "ask", "Hi", "--endpoint", server.endpoint, python=(sys.executable, "-S", "-X", "importtime", "-m", "flynn")
        )
    assert ended.out == "Hello!\n"
    loaded = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    assert "flynn.cli.options" in loaded
    assert not loaded & {"readline", "asyncio", "tempfile", "difflib", "textwrap", "shutil", "flynn.conversation"}


# --- what it exits with -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ask", "chat", "tokens"])
def test_a_server_that_is_not_running_is_69(home: Home, command: str) -> None:
    reason = "Connection refused"
    message = f"flynn: llama-server not running at {NOWHERE}; {reason}; run flynn status for advice\n"
    assert call(command, NOWHERE, home) == (69, "", message)


@pytest.mark.parametrize("command", ["ask", "chat", "tokens"])
def test_a_model_that_still_loads_when_the_time_is_up_is_75(home: Home, command: str) -> None:
    with serve(answering(LOADING)) as server:
        assert call(command, server.endpoint, home, "--timeout", "0.3") == (75, "", "flynn: Loading model\n")


@pytest.mark.parametrize("command", CALLS)
def test_a_server_that_says_nothing_is_75(home: Home, command: str) -> None:
    with serve(Peer.stall) as server:
        ended = call(command, server.endpoint, home, "--timeout", "0.3")
    assert (ended.code, ended.out) == (75, "")
    expected = r"flynn: llama-server request timed out; the limit for .* is 0\.3 s; .*--timeout sets another one\n"
    assert re.fullmatch(expected, ended.err)


@pytest.mark.parametrize("command", CALLS)
def test_a_wrong_key_is_77(home: Home, command: str) -> None:
    refused = response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized")
    answers = {"POST /v1/chat/completions": refused, "GET /props": refused, "POST /tokenize": refused}
    with serve(routes({**answers, "GET /health": response(b'{"status": "ok"}')})) as server:
        assert call(command, server.endpoint, home) == (77, "", INVALID_KEY)


def test_any_other_error_is_1_and_its_message_one_clean_line(home: Home) -> None:
    failure = response(error(500, "two\nlines\x1b[2J\x9b", "server_error"), "500 Internal Server Error")
    with serve(routes({"POST /tokenize": failure})) as server:
        assert call("tokens", server.endpoint, home) == (1, "", "flynn: two lines[2J\n")


def test_every_error_has_an_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FlynnError)]
    special = {
        errors.ServerNotRunningError: 69,
        errors.RequestTimeoutError: 75,
        errors.ModelLoadingError: 75,
        errors.AuthenticationError: 77,
        errors.ConfigError: 2,
        errors.FileError: 2,
        errors.RequestError: 2,
    }
    assert {kind: exit_code(kind("x")) for kind in kinds} == {**dict.fromkeys(kinds, 1), **special}


@pytest.mark.parametrize("kind", [ZeroDivisionError, TypeError])
def test_a_bug_is_not_disguised(kind: Type[Exception]) -> None:
    with pytest.raises(kind):
        report(kind("a bug"), Terminal(io.StringIO(), io.StringIO()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_stream_on_the_server_too(home: Home, number: signal.Signals) -> None:
    def one_piece(peer: Peer) -> None:
        peer.send(STREAM_HEAD + chunk(delta("Once")))
        peer.stall()

    with serve(routes({}, one_piece)) as server, home.start("ask", "Hi", "--endpoint", server.endpoint) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.close()
        assert process.stdout.read(4) == b"Once"
        process.send_signal(number)
        assert (process.wait(10), process.stdout.read(), process.stderr.read()) == (128 + number, b"", b"")
    assert [request.method for request in server.requests] == ["POST", "DELETE"]


def test_ctrl_c_while_the_interpreter_ends_prints_nothing(home: Home) -> None:
    late = "import atexit, signal, sys; atexit.register(signal.raise_signal, signal.SIGINT); from flynn.cli import main"
    ended = home.run("--version", python=(sys.executable, "-c", f"{late}; sys.exit(main())"))
    assert ended == (-signal.SIGINT, f"flynn {flynn.__version__}\n", "")


def test_a_signal_that_is_ignored_stays_ignored(home: Home) -> None:
    def slowly(peer: Peer) -> None:
        peer.send(STREAM_HEAD + chunk(delta("Once")))
        eventually(lambda: go)
        peer.send(chunk(delta(" upon")) + chunk(DONE) + b"0\r\n\r\n")

    go: list[bool] = []
    nohup = (
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])",
    )
    python = (*nohup, *FLYNN)
    with serve(routes({}, slowly)) as server, home.start(*asking(server), python=python) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.read(4) == b"Once"
        process.send_signal(signal.SIGHUP)
        go.append(True)
        assert process.stdout.read() == b" upon\n"
        assert process.wait(10) == 0


# --- where the server is ----------------------------------------------------------------------------------------------


def test_the_endpoint_option_wins_over_the_environment_and_that_over_the_configuration(home: Home) -> None:
    config = home.write("flynn.yaml", f"models:\n  local:\n    endpoint: {NOWHERE}/file\n")
    assert home.run("status").out == f"{NOWHERE}/file is down\n"
    home.variables["FLYNN_ENDPOINT"] = f"{NOWHERE}/environment"
    assert home.run("status").out == f"{NOWHERE}/environment is down\n"
    assert (
        home.run("status", "--config", config, "--endpoint", f"{NOWHERE}/option").out == f"{NOWHERE}/option is down\n"
    )


def test_the_timeout_comes_from_the_option_or_the_configuration(home: Home) -> None:
    home.write("flynn.yaml", "models:\n  local:\n    timeout: 0.2\n")

    def one_second_late(peer: Peer) -> None:
        peer.request()
        peer.server.later.wait(1)  # type: ignore[attr-defined]
        peer.send(response(b'{"tokens": [1]}'))

    for arguments, code in ([], 75), (["--timeout", "none"], 0), (["--timeout", "30"], 0):
        with serve(one_second_late) as server:
            server.later = threading.Event()  # type: ignore[attr-defined]
            assert call("tokens", server.endpoint, home, *arguments).code == code


def test_the_token_is_read_from_a_file_and_sent(home: Home) -> None:
    home.variables["FLYNN_AUTH_TOKEN"] = "environment"
    token = home.write("token", "s3cret\n")
    with serve(routes({"POST /tokenize": response(b'{"tokens": [1]}')})) as server:
        assert call("tokens", server.endpoint, home, "--auth-token-file", token) == (0, "1\n", "")
    assert server.requests[0].headers["authorization"] == "Bearer s3cret"


def test_a_token_that_others_can_read_is_refused(home: Home) -> None:
    token = home.write("token", "s3cret\n", mode=0o644)
    message = f"flynn: others may open this file (mode 644): run chmod 600 {token}\n"
    assert call("tokens", NOWHERE, home, "--auth-token-file", token) == (2, "", message)


def test_a_real_server_wants_its_key(home: Home, start_server: Any) -> None:
    endpoint = start_server(api_key="s3cret").endpoint
    wrong = home.write("wrong", "guessed\n")
    right = home.write("right", "s3cret\n")
    refused = (77, "", INVALID_KEY)
    for command in CALLS:
        assert call(command, endpoint, home) == refused
        assert call(command, endpoint, home, "--auth-token-file", wrong) == refused
        limit = ["--max-tokens", "2"] if command in ("ask", "chat") else []
        ended = call(command, endpoint, home, "--auth-token-file", right, *limit)
        assert (ended.code, ended.err) == (0, "")


# --- what never shows a traceback -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["ask", "Hi", "--endpoint", "ENDPOINT"], ["--help"], ["ask", "--help"], ["status", "--endpoint", NOWHERE]],
)
def test_a_closed_pipe_ends_it_quietly(home: Home, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with serve(routes(ANSWERS)) as server:
        arguments = [server.endpoint if word == "ENDPOINT" else word for word in arguments]
        ended = home.run(*arguments, stdout=writer)
    os.close(writer)
    assert ended == (141, "", "")


def test_a_closed_pipe_stops_the_server_from_generating(home: Home) -> None:
    def endless(peer: Peer) -> None:
        peer.send(STREAM_HEAD)
        while True:
            peer.send(chunk(delta("word ")))

    with serve(routes({}, endless)) as server:
        with home.start("ask", "Hi", "--endpoint", server.endpoint) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.close()
            assert process.stdout.read(5) == b"word "
            process.stdout.close()
            assert process.wait(10) == 141
            assert process.stderr.read() == b""
        assert server.requests[-1].method == "DELETE"


def test_a_closed_standard_error_is_a_closed_pipe_too(home: Home) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = home.run("ask", "--temperature", "hot", stderr=writer)
    os.close(writer)
    assert ended == (2, "", "")


def test_a_full_disk_is_one_line(home: Home) -> None:
    for arguments in ["ask", "Hi", "--endpoint"], ["ask", "--help"]:
        with serve(routes(ANSWERS)) as server, open("/dev/full", "wb") as full:
            ended = home.run(*arguments, *([server.endpoint] if arguments[-1] == "--endpoint" else []), stdout=full)
        assert ended == (1, "", "flynn: standard output: No space left on device\n")


def test_closed_streams_are_one_line_at_most(home: Home) -> None:
    with serve(routes(ANSWERS)) as server:
        shell = ("/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *FLYNN)
        ended = home.run("ask", "Hi", "--endpoint", server.endpoint, python=shell)
        assert ended == (1, "", "flynn: standard output: Bad file descriptor\n")
        shell = ("/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *FLYNN)
        assert home.run("ask", "--temperature", "hot", python=shell) == (2, "", "")


def test_standard_input_that_cannot_be_read_is_one_line(home: Home) -> None:
    shell = ("/bin/sh", "-c", 'exec "$@" 0>/dev/null', "sh", *FLYNN)
    assert home.run("tokens", python=shell) == (1, "", "flynn: standard input: Bad file descriptor\n")


def test_a_terminal_without_utf_8_gets_question_marks(home: Home) -> None:
    home.variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    text = {"POST /v1/chat/completions": stream(delta("caf\xe9 \u2615"), delta(" \ud83d"), delta(finish_reason="stop"))}
    with serve(routes(text)) as server:
        assert home.run("ask", "Hi", "--endpoint", server.endpoint) == (0, "caf? ? ?\n", "")


def test_input_in_another_encoding_is_read_as_far_as_it_can_be(home: Home) -> None:
    counted = routes({"POST /tokenize": response(b'{"tokens": [1]}')})
    with serve(counted) as server, home.start("tokens", "--endpoint", server.endpoint) as process:
        out, err = process.communicate(b"caf\xe9!")
    assert (process.returncode, out, err) == (0, b"1\n", b"")
    assert server.requests[0].json["content"] == "caf\ufffd!"


def test_it_runs_from_a_copied_folder_without_site_packages(home: Home) -> None:
    shutil.copytree(ROOT / "flynn", home.path / "flynn", ignore=shutil.ignore_patterns("__pycache__"))
    home.write("flynn.yaml", "models:\n  local:\n    provider: llamacpp\n    endpoint: ENDPOINT\n")
    with serve(routes(ANSWERS)) as server:
        home.write("flynn.yaml", f"models:\n  local:\n    provider: llamacpp\n    endpoint: {server.endpoint}\n")
        home.variables["PYTHONPATH"] = ""
        python = (sys.executable, "-S", "-W", "error", "-m", "flynn")
        assert home.run("ask", "Hi", python=python) == (0, "Hello!\n", "")
        where = subprocess.run(
            [sys.executable, "-S", "-c", "import flynn; print(flynn.__file__)"],
            cwd=home.path, env={}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    assert where == f"{home.path}/flynn/__init__.py\n"
