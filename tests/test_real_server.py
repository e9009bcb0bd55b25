"""The real server that other tests and the demo use: scripts/real_server.py and scripts/xllamacpp_server.py."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple
from urllib.parse import urlsplit

import environment
import pytest
from real_server import RealServer, ServerFailed


def call(
    endpoint: str,
    path: str,
    body: Optional[Dict[str, Any]] = None,
    token: str = "",
    ssl_context: Optional[ssl.SSLContext] = None,
) -> Tuple[int, Any]:
    url = urlsplit(endpoint)
    connection: http.client.HTTPConnection
    if ssl_context:
        connection = http.client.HTTPSConnection(url.netloc, context=ssl_context, timeout=60)
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
    if url.scheme == "unix":
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(url.path)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        prefix = "" if url.scheme == "unix" else url.path
        connection.request("POST" if body else "GET", prefix + path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_the_server_chats(real_server: RealServer) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    status, reply = call(real_server.endpoint, "/v1/chat/completions", body)
    assert status == 200
    assert reply["choices"][0]["message"]["content"]
    assert reply["usage"]["completion_tokens"] == 4


def test_the_server_has_four_slots_of_1024_tokens_and_names_its_model(real_server: RealServer) -> None:
    assert [slot["n_ctx"] for slot in call(real_server.endpoint, "/slots")[1]] == [1024] * 4
    assert call(real_server.endpoint, "/v1/models")[1]["data"][0]["id"] == "SmolLM2-135M-Instruct"


def test_with_a_template_for_tools_the_model_calls_a_tool(
    tool_server: RealServer, tool_request: Dict[str, Any]
) -> None:
    body = {**tool_request, "temperature": 0, "max_tokens": 100}
    (choice,) = call(tool_server.endpoint, "/v1/chat/completions", body)[1]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (tool_call,) = choice["message"]["tool_calls"]
    assert tool_call["function"]["name"] == "get_weather"
    assert json.loads(tool_call["function"]["arguments"]) == {"city": "Paris"}


def test_the_template_renders_tool_results_and_a_system_message(
    tool_server: RealServer, tool_request: Dict[str, Any]
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        *tool_request["messages"][:2],
        {"role": "tool", "tool_call_id": "0", "content": "rain"},
    ]
    prompt = call(tool_server.endpoint, "/apply-template", {"messages": messages})[1]["prompt"]
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is the weather in Oslo?<|im_end|>\n"
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_port_is_reserved_before_the_server_starts(server_at_hand: None) -> None:
    with contextlib.closing(RealServer()) as server, socket.socket() as other:
        with pytest.raises(ConnectionRefusedError):
            call(server.endpoint, "/health")
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", urlsplit(server.endpoint).port))


def test_a_killed_server_comes_back_on_the_same_port(start_server: Callable[..., RealServer]) -> None:
    server = start_server()
    endpoint, first = server.endpoint, server.pid
    server.kill()
    assert server.pid is None
    with pytest.raises(ConnectionRefusedError):
        call(endpoint, "/health")
    server.restart()
    assert server.endpoint == endpoint
    assert server.pid not in (None, first)
    assert call(endpoint, "/health") == (200, {"status": "ok"})


def test_the_server_answers_503_until_its_model_arrives(loading_server: Tuple[RealServer, Callable[[], None]]) -> None:
    server, model_arrives = loading_server
    for _ in range(3):
        status, body = call(server.endpoint, "/v1/models")
        assert (status, body["error"]["message"]) == (503, "Loading model")
        time.sleep(0.3)
    model_arrives()
    server.wait_until_ready()
    assert call(server.endpoint, "/health")[0] == 200


def test_the_server_listens_on_a_unix_socket_also_after_a_restart(
    start_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    server = start_server(host=tmp_path / "llama.sock")
    assert server.endpoint == f"unix://{tmp_path}/llama.sock"
    assert call(server.endpoint, "/health")[0] == 200
    server.kill()
    server.restart()
    assert call(server.endpoint, "/health")[0] == 200


def test_the_server_is_reached_through_tls(tls_server: Tuple[str, ssl.SSLContext]) -> None:
    endpoint, trusted = tls_server
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert call(endpoint, "/v1/chat/completions", body, ssl_context=trusted)[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        call(endpoint, "/health", ssl_context=ssl.create_default_context())


def test_options_reach_the_server_and_the_key_is_not_in_its_command_line(
    start_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    server = start_server(
        api_key="secret", api_prefix="/llm", parallel=1, ctx_size=512, embeddings=True, pooling="mean", metrics=False,
        alias="tiny", slot_save_path=tmp_path,
    )  # fmt: skip
    assert call(server.endpoint, "/slots")[0] == 401
    assert [slot["n_ctx"] for slot in call(server.endpoint, "/slots", token="secret")[1]] == [512]
    assert call(server.endpoint, "/v1/models", token="secret")[1]["data"][0]["id"] == "tiny"
    embedding = call(server.endpoint, "/v1/embeddings", {"input": "a"}, token="secret")[1]["data"][0]["embedding"]
    assert len(embedding) == 576  # of SmolLM2-135M
    assert call(server.endpoint, "/metrics", token="secret")[0] == 501
    assert call(server.endpoint, "/slots/0?action=save", {"filename": "slot"}, token="secret")[0] == 200
    assert (tmp_path / "slot").exists()
    command_line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert b"--alias\0tiny" in command_line
    assert b"secret" not in command_line


def test_the_error_of_a_server_that_cannot_start_has_the_end_of_its_log(tmp_path: Path, server_at_hand: None) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ServerFailed, match=r"the server ended with code 1:\n(.*\n)*.*broken\.gguf"):
        RealServer(model=tmp_path / "broken.gguf").__enter__()


def test_the_error_for_an_unknown_option_names_it(server_at_hand: None) -> None:
    with pytest.raises(ServerFailed, match="--frobnicate"):
        RealServer(frobnicate=1).__enter__()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a process a signal when its parent ends")
def test_the_server_dies_with_its_parent(server_at_hand: None) -> None:
    script = "from real_server import *; s = RealServer(); s.__enter__(); print(s.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=environment.ROOT / "scripts")
    with parent:
        assert parent.stdout
        server = int(parent.stdout.readline())
        os.kill(server, 0)
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(server, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(server, signal.SIGKILL)
    pytest.fail("the server still runs after its parent has ended")


def test_an_installed_llama_server_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    llama_server = tmp_path / "llama-server"
    llama_server.write_text("#!/bin/sh\necho 'llama-server was called with' \"$@\"\n")
    llama_server.chmod(0o755)
    model = tmp_path / "m.gguf"
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ServerFailed, match=rf"llama-server was called with --host 127.0.0.1 .*--model {model}"):
        RealServer(model=model).__enter__()
    monkeypatch.setenv("LLAMA_SERVER", "/nonexistent/llama-server")
    with pytest.raises(ServerFailed, match="/nonexistent/llama-server: No such file"):
        RealServer(model=model).__enter__()
