"""The question that proves that the service works, and its possible answers."""

from __future__ import annotations

from typing import Any

import pytest
from installer.errors import InstallError
from installer.question import ask
from pytest_httpserver import HTTPServer


@pytest.fixture
def server(httpserver: HTTPServer) -> HTTPServer:
    httpserver.expect_request("/health").respond_with_json({"status": "ok"})
    return httpserver


def _reply(server: HTTPServer, message: dict[str, Any]) -> str:
    """Answer chats with this message. Returns the endpoint."""
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", **message}}
    body = {"choices": [choice], "timings": {"predicted_per_second": 12.5}}
    server.expect_request("/v1/chat/completions").respond_with_json(body)
    return server.url_for("").rstrip("/")


def _must_not_be_called() -> None:
    raise AssertionError("the server is ready: its service must not be checked")


def test_an_answer_is_shown_with_its_speed(server: HTTPServer) -> None:
    answer = ask(_reply(server, {"content": " A llama. "}), None, seconds=5, check_alive=_must_not_be_called)
    assert (answer.text, answer.is_reasoning, answer.tokens_per_second) == ("A llama.", False, 12.5)


def test_a_reply_with_only_reasoning_is_shown_as_reasoning(server: HTTPServer) -> None:
    endpoint = _reply(server, {"content": "", "reasoning_content": "Hmm, a llama"})
    answer = ask(endpoint, None, seconds=5, check_alive=_must_not_be_called)
    assert (answer.text, answer.is_reasoning) == ("Hmm, a llama", True)


def test_an_error_message_of_the_server_is_shown(server: HTTPServer) -> None:
    server.expect_request("/v1/chat/completions").respond_with_json({"error": {"message": "out of luck"}}, status=500)
    with pytest.raises(InstallError, match="out of luck"):
        ask(server.url_for("").rstrip("/"), None, seconds=5, check_alive=_must_not_be_called)


def test_waiting_ends_when_the_service_has_failed() -> None:
    def fail() -> None:
        raise InstallError("the service has failed")

    with pytest.raises(InstallError, match="the service has failed"):
        ask("http://127.0.0.1:9", None, seconds=60, check_alive=fail)
