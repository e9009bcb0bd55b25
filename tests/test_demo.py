"""scripts/demo.py (`make demo`) with the real server, also on a real terminal."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from typing import Any, Dict, List
from urllib.request import urlopen

import environment
import pytest
from command import Terminal
from scripted import eventually

from flynn import LlamaCppClient

DEMO = [sys.executable, str(environment.ROOT / "scripts" / "demo.py")]
PIPES: Dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo uses all cores, and its threads wait for each other in a busy loop: slow beside other tests."""
    monkeypatch.setenv("LLAMA_ARG_THREADS", "1")


def endpoint_in(text: str) -> str:
    match = re.search(r"Ready at (http://127\.0\.0\.1:\d+);", text)
    assert match, text
    return match[1]


def is_up(endpoint: str) -> bool:
    try:
        with urlopen(f"{endpoint}/health") as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_it_answers_a_prompt_from_standard_input_and_stops_the_server(server_at_hand: None) -> None:
    ended = subprocess.run(DEMO, input="What is the capital of Japan?\n", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    assert not is_up(endpoint_in(ended.stderr))


def test_make_demo_answers_the_prompt_in_its_variable(server_at_hand: None) -> None:
    command = ["make", "-C", str(environment.ROOT), "--no-print-directory", "demo", f"PYTHON={sys.executable}"]
    ended = subprocess.run([*command, "PROMPT=Say $HOME."], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


def test_the_command_in_the_readme_gets_the_right_answer_ten_times(server_at_hand: None) -> None:
    readme = (environment.ROOT / "README.md").read_text(encoding="utf-8")
    prompt, answer = re.findall(r'\$ make demo PROMPT="(.*)"\n\.\.\.\n(.*)', readme)[0]
    assert answer == "The capital of Japan is Tokyo."
    command = ["make", "-C", str(environment.ROOT), "--no-print-directory", "demo", f"PYTHON={sys.executable}"]
    for _ in range(10):
        ended = subprocess.run([*command, f"PROMPT={prompt}"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert "a toy" in ended.stderr
        assert "Tokyo" in ended.stdout


def test_ctrl_c_stops_an_answer_and_the_end_of_the_chat_stops_the_server(
    server_at_hand: None,
) -> None:
    with Terminal(DEMO, environment.ROOT, {**os.environ, "PROMPT": "", "TERM": "xterm"}) as terminal:
        terminal.expect("> ")
        endpoint = endpoint_in(terminal.text)
        terminal.type("Tell a very long story.\n")
        terminal.expect("\r\n")
        terminal.expect(" ")
        terminal.type("\x03")
        terminal.expect("> ")
        assert is_up(endpoint)
        terminal.type("\x04")
        assert terminal.end() == 0
        assert not is_up(endpoint)


def test_serve_runs_the_server_with_tools_until_ctrl_c(
    server_at_hand: None, tool_request: Dict[str, List[Any]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with subprocess.Popen([*DEMO, "serve"], env={**os.environ, "PORT": str(port)}, **PIPES) as served:
        try:
            lines = ""
            while "Ready at" not in lines:
                lines += served.stderr.readline() or pytest.fail(lines)
            with LlamaCppClient(f"http://127.0.0.1:{port}") as client:
                messages, tools = tool_request["messages"], tool_request["tools"]
                reply = client.chat(messages, tools=tools, tool_choice="required", max_tokens=60, temperature=0)
        finally:
            served.send_signal(signal.SIGINT)
        assert served.wait(30) == 0
    assert [call.name for call in reply.tool_calls] == ["get_weather"]
    assert "SmolLM2-135M-Instruct is a toy" in lines
    assert not is_up(f"http://127.0.0.1:{port}")


def test_serve_on_a_port_in_use_prints_one_line(server_at_hand: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = subprocess.run(
            [*DEMO, "serve"], env={**os.environ, "PORT": str(port)}, capture_output=True, text=True, timeout=60
        )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert ended.stderr.startswith(f"demo: port {port}: Address already in use")


@pytest.mark.parametrize("signal_sent", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_the_demo(server_at_hand: None, signal_sent: signal.Signals) -> None:
    with subprocess.Popen(DEMO, **PIPES) as demo:
        lines = ""
        while "Ready at" not in lines:
            lines += demo.stderr.readline() or pytest.fail(lines)
        endpoint = endpoint_in(lines)
        assert is_up(endpoint)
        demo.send_signal(signal_sent)
        demo.stdin.close()
        assert demo.wait() == (143 if signal_sent is signal.SIGTERM else -9)
        eventually(lambda: not is_up(endpoint))


def test_ctrl_c_during_the_start_ends_without_a_traceback(server_at_hand: None) -> None:
    with subprocess.Popen(DEMO, **PIPES) as demo:
        started = demo.stderr.readline()
        assert started.startswith("Starting a llama.cpp server")
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate()
    assert demo.returncode == 130
    assert errors == ""


def test_a_server_that_does_not_start_prints_no_traceback(server_at_hand: None) -> None:
    variables = {**os.environ, "LLAMA_SERVER": "/nonexistent/llama-server"}
    ended = subprocess.run(DEMO, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[2:] == [
        "demo: the server ended with code 1:",
        "/nonexistent/llama-server: No such file or directory",
    ]
