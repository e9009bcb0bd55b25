"""Options of a call besides the request: headers, retries, connect_timeout, trace and logging."""

from __future__ import annotations

import json
import logging
import random
import re
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from answers import Answer, always, events, in_turn, late, reply, sent
from pytest_httpserver import HTTPServer
from scripted import CHAT, STREAM_HEAD, answering, chunk, closing, delta, error, full_endpoint, response, serve

from flynn import (
    ChatRequest,
    ConfigError,
    ConnectionLostError,
    Conversation,
    LlamaCppClient,
    ServerError,
    ServerNotRunningError,
    StreamInterruptedError,
)
from flynn.conversation.cache import why_read_anew
from flynn.models import options
from flynn.trace import TraceEvent

TOKEN = "sk-hunter2-do-not-show"
EMBEDDINGS = {"data": [{"index": 0, "embedding": [1.0]}]}
EMPTY = {"content": "x", "stop": True}

# --- headers ----------------------------------------------------------------------------------------------------------


def calls(client: LlamaCppClient, **call: Any) -> List[Callable[[], object]]:
    return [
        lambda: client.chat("Hi", **call),
        lambda: list(client.chat_stream("Hi", **call)),
        lambda: client.complete("Hi", **call),
        lambda: list(client.complete_stream("Hi", **call)),
        lambda: client.infill("a", "b", **call),
        lambda: client.embed("Hi", **call),
        lambda: client.request("POST", "/x", {}, **call),
    ]


ANSWERS = [
    reply(CHAT),
    events(delta("x")),
    reply(EMPTY),
    events(b"data: " + json.dumps(EMPTY).encode() + b"\n\n", done=False),
    reply(EMPTY),
    reply(EMBEDDINGS),
    reply({}),
]


def test_headers_of_a_call_win_over_those_of_the_client(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, *ANSWERS)
    client = LlamaCppClient(endpoint, headers={"X-Gateway": "a", "X-Team": "blue"})
    for call in calls(client, headers={"X-Team": "red"}):
        call()
    assert len(sent(httpserver)) == len(ANSWERS)
    for request in sent(httpserver):
        assert (request.headers["X-Gateway"], request.headers["X-Team"]) == ("a", "red")


def test_headers_of_a_stream_are_sent_also_when_it_is_resumed_and_deleted(
    httpserver: HTTPServer, endpoint: str
) -> None:
    in_turn(httpserver, events(delta("a"), done=False), events(delta("b")), reply(status=204))
    stream = LlamaCppClient(endpoint).chat_stream("Hi", resume=True, headers={"X-Team": "red"})
    assert "".join(stream.text()) == "ab"
    assert [request.headers["X-Team"] for request in sent(httpserver)] == ["red"] * 3


def test_an_authorization_header_may_replace_the_token_but_not_accompany_it(
    httpserver: HTTPServer, endpoint: str
) -> None:
    always(httpserver, reply(CHAT))
    LlamaCppClient(endpoint, headers={"Authorization": "Basic eDp5"}).chat("Hi")
    assert sent(httpserver)[0].headers["Authorization"] == "Basic eDp5"
    with pytest.raises(ConfigError, match="not both"):
        LlamaCppClient(endpoint, auth_token=TOKEN, headers={"authorization": "Basic eDp5"})


@pytest.mark.parametrize(
    "headers",
    [{"X": "a\r\nB: c"}, {"X": "a\n"}, {"X": " a"}, {"X": "é"}, {"X": 5}, {"X Y": "a"}, {"": "a"}, {"X:": "a"},
     {"Content-Length": "5"}, {"transfer-encoding": "chunked"}, {"X-Conversation-Id": "x"}],
)  # fmt: skip
def test_an_invalid_header_is_refused_before_anything_is_sent(endpoint: str, headers: Dict[Any, Any]) -> None:
    with pytest.raises(ConfigError):
        LlamaCppClient(endpoint, headers=headers)
    for call in calls(LlamaCppClient(endpoint), headers=headers)[:3]:
        with pytest.raises(ConfigError):
            call()


def test_the_value_of_a_header_is_in_no_error_and_no_repr(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LlamaCppClient(endpoint, headers={"X-Key": f"{TOKEN}\n"})
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(LlamaCppClient(endpoint, headers={"X-Key": TOKEN}))


# --- retries ----------------------------------------------------------------------------------------------------------

BUSY = reply(error(429, "slow down", "rate_limit_error"), 429, headers={"Retry-After": "0"})
BAD_GATEWAY = reply(b"<html>", 502, "text/html", {"Retry-After": "0"})


@pytest.mark.parametrize("failure", [BUSY, BAD_GATEWAY, reply(b"", 504, headers={"Retry-After": "0"})])
def test_a_temporary_failure_is_retried_as_often_as_the_client_allows(
    httpserver: HTTPServer, endpoint: str, failure: Answer
) -> None:
    in_turn(httpserver, failure, failure, reply(CHAT))
    assert LlamaCppClient(endpoint, retries=2).chat("Hi").content == "Hello!"
    httpserver.clear()
    in_turn(httpserver, failure, failure)
    with pytest.raises(ServerError):
        LlamaCppClient(endpoint, retries=1).chat("Hi")
    assert len(sent(httpserver)) == 2


def test_nothing_is_retried_by_default(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, BUSY)
    with pytest.raises(ServerError, match="slow down"):
        LlamaCppClient(endpoint).chat("Hi")


@pytest.mark.parametrize("status", [400, 401, 404, 500, 501])
def test_a_refusal_is_not_retried(httpserver: HTTPServer, endpoint: str, status: int) -> None:
    in_turn(httpserver, reply(error(status, "no", "invalid_request_error"), status))
    with pytest.raises(ServerError, match="no"):
        LlamaCppClient(endpoint, retries=5).chat("Hi")


def test_a_stream_is_retried_until_it_begins(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, BUSY, BAD_GATEWAY, events(delta("x")))
    assert "".join(LlamaCppClient(endpoint, retries=2).chat_stream("Hi").text()) == "x"


def test_a_stream_cut_after_a_token_is_not_retried() -> None:
    with serve(closing(STREAM_HEAD + chunk(delta("x")))) as server, pytest.raises(StreamInterruptedError):
        list(LlamaCppClient(server.endpoint, retries=5).chat_stream("Hi"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(("part", "attempts"), [(b"", 2), (b"HTTP/1.1 200 OK\r\n", 1), (response(CHAT)[:-1], 1)])
def test_a_lost_connection_is_retried_only_if_none_of_the_answer_was_received(part: bytes, attempts: int) -> None:
    with serve(closing(part), answering(response(CHAT))) as server:
        client = LlamaCppClient(server.endpoint, retries=3)
        if attempts == 2:
            assert client.chat("Hi").content == "Hello!"
        else:
            with pytest.raises(ConnectionLostError):
                client.chat("Hi")
    assert len(server.requests) == attempts


def test_a_refused_connection_is_retried() -> None:
    with serve(answering(response(CHAT))) as gone:
        endpoint = gone.endpoint
    pauses: List[float] = []
    with pytest.raises(ServerNotRunningError):
        LlamaCppClient(endpoint, retries=2, trace=lambda event: pauses.append(event.data.get("pause", -1))).chat("Hi")
    assert len([pause for pause in pauses if pause >= 0]) == 2


def test_a_pause_longer_than_the_timeout_ends_the_retries(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply(error(503, "no slot", "unavailable_error"), 503, headers={"Retry-After": "20"}))
    start = time.monotonic()
    with pytest.raises(ServerError, match="no slot"):
        LlamaCppClient(endpoint, retries=100, timeout=5).chat("Hi")
    assert time.monotonic() < start + 5
    assert len(sent(httpserver)) == 1


def test_pauses_are_random_and_grow_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from flynn.retry import LONGEST_PAUSE, pause

    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert [pause(attempt) for attempt in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert pause(10**6) == LONGEST_PAUSE
    assert (pause(0, 7.0), pause(0, 10.0**8)) == (7.0, LONGEST_PAUSE)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "2", None])
def test_retries_are_a_whole_number(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="retries must be a whole number"):
        LlamaCppClient(retries=wrong)


# --- connecting -------------------------------------------------------------------------------------------------------


def test_connect_timeout_notices_an_address_that_drops_packets() -> None:
    with full_endpoint() as endpoint:
        start = time.monotonic()
        with pytest.raises(ServerNotRunningError, match="llama-server not running at") as caught:
            LlamaCppClient(endpoint, timeout=600, connect_timeout=0.3).chat("Hi")
        assert time.monotonic() < start + 60
    assert "timed out" in caught.value.hint


def test_connect_timeout_does_not_limit_the_answer(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, late(0.4, reply(CHAT)))
    assert LlamaCppClient(endpoint, connect_timeout=0.2).chat("Hi").content == "Hello!"


# --- what type checkers see -------------------------------------------------------------------------------------------


def test_the_options_that_editors_complete_are_the_fields_of_a_request() -> None:
    declared = {field.name: (field.type, field.metadata.get("completion", True)) for field in fields(ChatRequest)}
    del declared["messages"]
    both = {**options.CompletionOptions.__annotations__, **options.ChatOptions.__annotations__}
    shown = {name: getattr(kind, "__forward_arg__", kind) for name, kind in both.items()}
    assert shown == {name: kind for name, (kind, _) in declared.items()}
    completion = options.CompletionOptions.__annotations__
    assert set(completion) == {name for name, (_, is_completion) in declared.items() if is_completion}


def test_the_help_of_a_request_says_what_each_option_means() -> None:
    for field in fields(ChatRequest):
        if field.metadata:
            assert f"{field.name}: {field.metadata['help']}." in (ChatRequest.__doc__ or "")


def test_the_repr_of_a_request_has_only_what_is_set() -> None:
    assert repr(ChatRequest([], max_tokens=5)) == "ChatRequest(messages=[], max_tokens=5)"


# --- trace and logging ------------------------------------------------------------------------------------------------


def names(reported: List[TraceEvent]) -> List[str]:
    return [event.name for event in reported]


def test_a_call_reports_its_requests_responses_and_answer(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, BUSY, reply(CHAT), reply(CHAT))
    reported: List[TraceEvent] = []
    client = LlamaCppClient(endpoint, auth_token=TOKEN, retries=1, trace=reported.append)
    reply_of_first = client.chat("a secret prompt")
    assert names(reported) == ["request", "response", "retry", "request", "response", "answer"]
    assert {event.call for event in reported} == {reported[0].call}
    assert [event.seconds for event in reported] == sorted(event.seconds for event in reported)
    assert (reported[0].data["method"], reported[0].data["path"]) == ("POST", "/v1/chat/completions")
    assert reported[0].data["bytes"] == len(sent(httpserver)[0].data)
    assert [reported[1].data["status"], reported[4].data["status"]] == [429, 200]
    assert reported[2].data["left"] == 0
    assert (reported[5].data["response"], reported[5].data["bytes"]) == (reply_of_first, len(CHAT))
    client.chat("Hi")
    assert reported[-1].call != reported[0].call
    everything = "".join(f"{event} {event!r}" for event in reported)
    assert "hunter2" not in everything
    assert "secret prompt" not in everything


def test_a_stream_reports_its_cuts_and_resumes(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, events(delta("a"), done=False), events(delta("b")), reply(status=204))
    reported: List[TraceEvent] = []
    stream = LlamaCppClient(endpoint, trace=reported.append).chat_stream("Hi", resume=True)
    list(stream)
    assert names(reported) == ["request", "response", "cut", "request", "response", "resume", "answer"]
    assert reported[2].data["position"] == reported[5].data["position"] == len(delta("a"))
    assert reported[-1].data["response"] == stream.response


def test_a_failed_call_reports_its_error(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply(error(400, "no", "invalid_request_error"), 400))
    reported: List[TraceEvent] = []
    client = LlamaCppClient(endpoint, trace=reported.append)
    for call in (lambda: client.chat("Hi"), lambda: list(client.chat_stream("Hi"))):
        reported.clear()
        with pytest.raises(ServerError) as caught:
            call()
        assert names(reported) == ["request", "response", "error"]
        assert reported[-1].data["error"] is caught.value


def test_a_stream_closed_early_reports_that(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, events(delta("a"), delta("b")))
    reported: List[TraceEvent] = []
    client = LlamaCppClient(endpoint, trace=reported.append)
    for _ in client.chat_stream("Hi"):
        break
    assert names(reported) == ["request", "response", "closed"]
    reported.clear()
    stream = client.chat_stream("Hi")
    next(stream)
    stream.abort()
    stream.close()
    assert names(reported) == ["request", "response", "closed"]


def test_a_loading_model_is_reported(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, reply(error(503, "Loading model", "unavailable_error"), 503), reply(CHAT))
    reported: List[TraceEvent] = []
    LlamaCppClient(endpoint, trace=reported.append).chat("Hi")
    assert names(reported) == ["request", "response", "loading", "request", "response", "answer"]


def test_the_logger_flynn_writes_the_events_as_lines(
    httpserver: HTTPServer, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    in_turn(httpserver, BUSY, reply(CHAT))
    with caplog.at_level(logging.DEBUG, "flynn"):
        LlamaCppClient(endpoint, retries=1, auth_token=TOKEN).chat("a secret prompt")
    records = [record for record in caplog.records if record.name == "flynn"]  # the test's server logs as well
    lines = [re.sub(r"#\d+ [\d.]+ s: ", "", record.getMessage()) for record in records]
    assert lines[0].startswith("POST /v1/chat/completions, ")
    assert lines[1:3] == ["HTTP 429", "trying again in 0.00 s, 0 times more: slow down"]
    assert lines[-1] == f"{len(CHAT)} bytes of answer"
    assert {record.levelname for record in records} == {"DEBUG", "INFO"}
    assert "secret prompt" not in caplog.text
    assert "hunter2" not in caplog.text


PROGRAM = """
import sys
from flynn import LlamaCppClient
LlamaCppClient(sys.argv[1]).chat("a secret prompt")
print("logging" in sys.modules)
"""


@pytest.mark.parametrize(
    ("level", "shows", "prompts"), [("", False, False), ("debug", True, False), ("prompts", True, True)]
)
def test_flynn_log_shows_the_lines_in_a_program_without_logging_set_up(
    httpserver: HTTPServer, endpoint: str, level: str, shows: bool, prompts: bool
) -> None:
    """Without it, `logging` is not even imported."""
    always(httpserver, reply(CHAT))
    root = str(Path(__file__).parent.parent)
    environment = {"PYTHONPATH": root, "FLYNN_LOG": level}
    ended = subprocess.run([sys.executable, "-c", PROGRAM, endpoint], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{shows}\n"
    assert ("POST /v1/chat/completions" in ended.stderr) is shows
    assert ("secret prompt" in ended.stderr) is prompts


def test_a_prompt_that_the_server_knows_whole_was_not_read_again(start_server: Callable[..., Any]) -> None:
    client = LlamaCppClient(start_server(parallel=1).endpoint)
    prompt = "Why is the sky blue?"
    client.chat(prompt, max_tokens=1)
    again = client.chat(prompt, max_tokens=1)
    assert again.usage is not None
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert why_read_anew(client, prompt, prompt, again) == ""


def test_a_conversation_whose_prompt_is_read_again_reports_why(start_server: Callable[..., Any]) -> None:
    server = start_server(parallel=1)
    reported: List[TraceEvent] = []
    client = LlamaCppClient(server.endpoint, trace=reported.append)
    conversation = Conversation(client, "Today is Monday. Be brief.", max_tokens=4)
    conversation.chat("Why is the sky blue?")
    conversation.chat("And at dusk?")
    assert "cache" not in names(reported)
    conversation.system = "Today is Tuesday. Be brief."
    conversation.chat("And at night?")
    (event,) = (event for event in reported if event.name == "cache")
    message = re.sub(r"^cached \d+ of \d+ tokens: ", "", event.data["message"])
    assert re.match(r"the prompts differ from token \d+ on: ' ?Mon.* became ' ?Tues", message), message
