"""The proof that the service works: one question, and what counts as an answer."""

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


def _replying(server: HTTPServer, message: dict[str, Any]) -> str:
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", **message}}
    body = {"choices": [choice], "timings": {"predicted_per_second": 12.5}}
    server.expect_request("/v1/chat/completions").respond_with_json(body)
    return server.url_for("").rstrip("/")


def _never() -> None:
    raise AssertionError("a server that is ready need not be looked after")


def test_an_answer_is_shown_with_its_speed(server: HTTPServer) -> None:
    answer = ask(_replying(server, {"content": " A llama. "}), None, seconds=5, check_alive=_never)
    assert (answer.text, answer.is_reasoning, answer.tokens_per_second) == ("A llama.", False, 12.5)


def test_a_model_that_only_thinks_is_no_blank_answer(server: HTTPServer) -> None:
    endpoint = _replying(server, {"content": "", "reasoning_content": "Hmm, a llama"})
    answer = ask(endpoint, None, seconds=5, check_alive=_never)
    assert (answer.text, answer.is_reasoning) == ("Hmm, a llama", True)


def test_an_error_is_the_server_s_own(server: HTTPServer) -> None:
    server.expect_request("/v1/chat/completions").respond_with_json({"error": {"message": "out of luck"}}, status=500)
    with pytest.raises(InstallError, match="out of luck"):
        ask(server.url_for("").rstrip("/"), None, seconds=5, check_alive=_never)


def test_waiting_ends_when_it_is_pointless(server: HTTPServer) -> None:
    def dead() -> None:
        raise InstallError("it is dead")

    with pytest.raises(InstallError, match="it is dead"):
        ask("http://127.0.0.1:9", None, seconds=60, check_alive=dead)
