"""The client against a real llama.cpp server."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

import pytest
from real_server import RealServer
from scripted import Proxy, eventually, forwarding, serve

from flynn import (
    AuthenticationError,
    ChatRequest,
    ContextSizeError,
    LlamaCppClient,
    Message,
    ModelLoadingError,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
)

LONG = "Tell me a very long story about the sea. " * 10
# So many tokens that the slot becomes idle soon only if the server stops generating.
ENDLESS = {"max_tokens": 900, "ignore_eos": True}


@pytest.fixture
def client(real_server: RealServer) -> Iterator[LlamaCppClient]:
    with LlamaCppClient(real_server.endpoint) as client:
        eventually(lambda: idle(client), 60)
        yield client


def idle(client: LlamaCppClient) -> bool:
    return not any(slot.is_processing for slot in client.slots())


def busy(client: LlamaCppClient) -> bool:
    return not idle(client)


# --- chat -------------------------------------------------------------------------------------------------------------


def test_chat_returns_a_complete_response(client: LlamaCppClient) -> None:
    reply = client.chat("Why is the sky blue?", max_tokens=16, seed=1)
    assert reply.content
    assert reply.message == Message("assistant", reply.content)
    assert reply.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 16
    assert reply.usage.prompt_tokens > 10
    assert reply.timings is not None
    assert reply.timings.predicted_n == 16
    assert reply.timings.predicted_per_second > 0
    assert (reply.model, reply.raw["object"]) == ("SmolLM2-135M-Instruct", "chat.completion")


def test_a_stream_yields_the_same_answer_as_chat(client: LlamaCppClient) -> None:
    request = ChatRequest([Message("user", "Count to ten.")], max_tokens=24, temperature=0, cache_prompt=False)
    with client.chat_stream(request) as stream:
        events = list(stream)
    assert "".join(event.text for event in events if event.type == "content") == stream.response.content
    assert stream.response.content == client.chat(request).content
    assert events[-1].type == "done"
    assert stream.response.usage is not None
    assert stream.response.usage.completion_tokens == 24
    assert stream.response.timings is not None
    assert stream.response.timings.predicted_n == 24
    assert stream.response.finish_reason == "length"


def test_a_conversation_continues_with_its_history(client: LlamaCppClient) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi, I am Eve.")]
    for text in ("What is my name?", "And again?"):
        messages += [client.chat(messages, max_tokens=8).message, Message("user", text)]
    reply = client.chat(messages, max_tokens=8)
    assert reply.usage is not None
    assert reply.usage.cached_tokens > 0


def test_a_last_message_of_the_assistant_is_continued(client: LlamaCppClient) -> None:
    prefill = [Message("user", "Name the first three letters."), Message("assistant", "A, B,")]
    continued = client.chat(prefill, max_tokens=8, temperature=0).raw
    assert continued["usage"]["prompt_tokens"] < client.count_tokens(prefill[:1]) + 20
    assert client.chat(prefill, max_tokens=8, temperature=0).content != client.chat(prefill[:1], max_tokens=8).content


def test_text_of_any_language_survives_the_round_trip(client: LlamaCppClient) -> None:
    text = "é ☃ 😀 \u2028 日本"
    reply = client.chat("Hi", grammar=f'root ::= "{text}"', max_tokens=60)
    assert reply.content == text
    assert "".join(client.chat_stream("Hi", grammar=f'root ::= "{text}"', max_tokens=60).text()) == text


def test_the_answer_matches_a_json_schema(client: LlamaCppClient) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for form in (
        {"json_schema": schema},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
    ):
        reply = client.chat("Describe Eve, 30 years old.", max_tokens=80, seed=1, **form)  # type: ignore[arg-type]
        person = json.loads(reply.content)
        assert set(person) == {"name", "age"}
        assert isinstance(person["age"], int)


def test_tools_are_called(tool_server: RealServer, tool_request: Dict[str, Any]) -> None:
    client = LlamaCppClient(tool_server.endpoint)
    options = {"tools": tool_request["tools"], "tool_choice": "required", "temperature": 0, "max_tokens": 60}
    reply = client.chat(tool_request["messages"], **options)
    (call,) = reply.tool_calls
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert reply.finish_reason == "tool_calls"
    with client.chat_stream(tool_request["messages"], **options) as stream:
        fragments = [event for event in stream if event.type == "tool_call"]
    assert len(fragments) > 1
    assert "".join(fragment.arguments for fragment in fragments) == stream.response.tool_calls[0].arguments
    assert stream.response.tool_calls[0].name == "get_weather"
    assert stream.response.finish_reason == "tool_calls"
    # The server accepts a history with the call and its result.
    history = [*tool_request["messages"], reply.message, Message("tool", "rain", tool_call_id=call.id)]
    assert client.chat(history, tools=tool_request["tools"], max_tokens=8).usage is not None


def test_a_named_tool_is_called(tool_server: RealServer, tool_request: Dict[str, Any]) -> None:
    other = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
    reply = LlamaCppClient(tool_server.endpoint).chat(
        tool_request["messages"],
        tools=[other, *tool_request["tools"]],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=60,
        temperature=0,
    )
    assert [call.name for call in reply.tool_calls] == ["get_weather"]


def test_each_token_has_its_log_probability(client: LlamaCppClient) -> None:
    options: Dict[str, Any] = {"max_tokens": 6, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    reply = client.chat("Hi", **options)
    assert len(reply.logprobs) == 6
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in reply.logprobs)
    with client.chat_stream("Hi", **options) as stream:
        assert sum(len(event.logprobs) for event in stream if event.type == "content") == 6
    assert len(stream.response.logprobs) == 6


def test_a_request_may_ask_for_two_choices(client: LlamaCppClient) -> None:
    reply = client.chat("Name a colour.", n=2, max_tokens=8, temperature=1.5, seed=3)
    assert len(reply.choices) == 2
    with client.chat_stream("Name a colour.", n=2, max_tokens=8, ignore_eos=True) as stream:
        pieces = {0: "", 1: ""}
        for event in stream:
            if event.type == "content":
                pieces[event.choice] += event.text
    assert [choice.message.content for choice in stream.response.choices] == [pieces[0], pieces[1]]
    assert stream.response.usage is not None
    assert stream.response.usage.completion_tokens == 16


def test_progress_is_reported_while_the_prompt_is_read(client: LlamaCppClient) -> None:
    with client.chat_stream(LONG, return_progress=True, cache_prompt=False, max_tokens=1) as stream:
        progress = [event for event in stream if event.type == "progress"]
    assert progress
    assert progress[-1].processed == progress[-1].total > 100


def test_threads_share_the_server(client: LlamaCppClient) -> None:
    replies: Dict[str, str] = {}

    def ask(word: str) -> None:
        replies[word] = client.chat("Hi", grammar=f'root ::= "{word}"', max_tokens=20).content

    words = [f"w{i}" for i in range(12)]
    threads = [threading.Thread(target=ask, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {word: word for word in words}


# --- other routes -----------------------------------------------------------------------------------------------------


def test_tokens_are_counted_and_converted_both_ways(client: LlamaCppClient) -> None:
    tokens = client.tokenize("Hello, ☃!")
    assert len(tokens) > 3
    assert client.detokenize(tokens) == "Hello, ☃!"
    assert client.tokenize("") == []
    assert len(client.tokenize("<|im_start|>")) == 1 < len(client.tokenize("<|im_start|>", parse_special=False))
    reply = client.chat("Hello there", max_tokens=1)
    assert reply.usage is not None
    assert client.count_tokens("Hello there") == reply.usage.prompt_tokens


def test_health_props_models_and_slots_describe_the_server(client: LlamaCppClient) -> None:
    props = client.props()
    assert (props.total_slots, props.n_ctx, props.model_alias) == (4, 1024, "SmolLM2-135M-Instruct")
    assert props.model_path.endswith(".gguf")
    assert "im_start" in props.chat_template
    assert props.modalities.get("vision") is False
    assert props.build_info
    (model,) = client.models()
    assert model.id == "SmolLM2-135M-Instruct"
    assert model.meta["n_ctx_train"] == 8192
    assert [slot.id for slot in client.slots()] == [0, 1, 2, 3]
    assert {slot.n_ctx for slot in client.slots()} == {1024}
    assert client.health()
    client.wait_until_ready()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_the_error_for_a_too_long_prompt_has_the_numbers_of_tokens(client: LlamaCppClient) -> None:
    for call in (client.chat, lambda prompt: list(client.chat_stream(prompt))):
        with pytest.raises(ContextSizeError, match="context") as caught:
            call("word " * 3000)
        assert caught.value.n_ctx == 1024
        assert caught.value.n_prompt_tokens is not None
        assert caught.value.n_prompt_tokens > 3000
        assert caught.value.status == 400


def test_a_refusal_has_the_servers_message(client: LlamaCppClient) -> None:
    with pytest.raises(ServerError) as caught:
        client.chat("Hi", grammar="root ::= (")
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    assert client.chat("Hi", max_tokens=1).content


def test_only_the_right_key_is_accepted(
    start_server: Callable[..., RealServer],
) -> None:
    server = start_server(api_key="sesame")
    for token in (None, "wrong"):
        with pytest.raises(AuthenticationError, match="Invalid API Key") as caught:
            LlamaCppClient(server.endpoint, auth_token=token).chat("Hi")
        assert (caught.value.status, caught.value.type) == (401, "authentication_error")
    client = LlamaCppClient(server.endpoint, auth_token="sesame")
    assert client.chat("Hi", max_tokens=2).content
    assert "".join(client.chat_stream("Hi", max_tokens=2).text())
    # The same client reports a killed server and works again after its restart.
    server.kill()
    with pytest.raises(ServerNotRunningError, match=f"^llama-server not running at {server.endpoint}"):
        client.chat("Hi")
    server.start()
    client.wait_until_ready()
    assert client.chat("Hi", max_tokens=2).content


def test_a_server_that_stops_answering_is_a_timeout(start_server: Callable[..., RealServer]) -> None:
    server = start_server(parallel=1)
    client = LlamaCppClient(server.endpoint)
    client.chat("Hi", max_tokens=1)
    stream = client.chat_stream("Hi", timeout=5, **ENDLESS)  # enough for the first token on a busy machine
    next(stream)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        for call in (lambda: client.chat("Hi", timeout=1), lambda: list(stream), lambda: client.health(timeout=1)):
            start = time.monotonic()
            with pytest.raises(RequestTimeoutError, match="^llama-server request timed out"):
                call()
            assert time.monotonic() - start < 20
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert client.chat("Hi", max_tokens=1, timeout=60).content


def test_a_call_waits_for_a_loading_model(loading_server: Tuple[RealServer, Callable[[], None]]) -> None:
    server, model_arrives = loading_server
    client = LlamaCppClient(server.endpoint)
    assert client.health().status == "loading"
    for call in (client.chat, lambda prompt, timeout: list(client.chat_stream(prompt, timeout=timeout))):
        with pytest.raises(ModelLoadingError, match="^Loading model$"):
            call("Hi", timeout=0.6)
    threading.Timer(0.5, model_arrives).start()
    assert client.chat("Hi", max_tokens=2).content


def test_a_real_server_answers_on_a_unix_socket(start_server: Callable[..., RealServer], tmp_path: Path) -> None:
    server = start_server(host=tmp_path / "llama.sock")
    client = LlamaCppClient(server.endpoint)
    assert server.endpoint.startswith("unix://")
    assert client.chat("Hi", max_tokens=2).content
    assert "".join(client.chat_stream("Hi", max_tokens=2).text())


def test_a_real_server_answers_behind_tls(tls_server: Tuple[str, ssl.SSLContext]) -> None:
    endpoint, context = tls_server
    client = LlamaCppClient(endpoint, ssl_context=context)
    assert client.chat("Hi", max_tokens=2).content
    assert "".join(client.chat_stream("Hi", max_tokens=2, ignore_eos=True).text())


# --- stopping ---------------------------------------------------------------------------------------------------------


def close(stream: Any) -> None:
    stream.close()


def leave(stream: Any) -> None:
    with stream:
        pass


def fail(stream: Any) -> None:
    with pytest.raises(KeyboardInterrupt), stream:
        raise KeyboardInterrupt


def forget(stream: Any) -> None:
    """Do nothing: dropping the last reference ends the stream."""


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("end", [close, leave, fail, forget])
def test_the_server_stops_generating_when_a_stream_ends(
    end: Callable[[Any], None], resume: bool, client: LlamaCppClient
) -> None:
    stream = client.chat_stream("Hi", resume=resume, **ENDLESS)
    next(stream)
    assert busy(client)
    end(stream)
    del stream
    eventually(lambda: idle(client))


@pytest.mark.parametrize("resume", [False, True])
def test_the_server_stops_reading_a_prompt_when_the_stream_ends(resume: bool, client: LlamaCppClient) -> None:
    """The server checks for a disconnected client after each batch, and this prompt is one batch."""
    stream = client.chat_stream(LONG * 5, resume=resume, cache_prompt=False, **ENDLESS)
    reader = threading.Thread(target=list, args=(stream,))
    reader.start()
    eventually(lambda: busy(client), 60)
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    eventually(lambda: idle(client), 60)
    assert stream.response.content == ""


@pytest.mark.parametrize("to_its_end", [False, True])
def test_an_ended_stream_leaves_nothing_on_the_server(real_server: RealServer, to_its_end: bool) -> None:
    with Proxy(real_server.endpoint) as proxy, LlamaCppClient(proxy.endpoint) as client:
        stream = client.chat_stream("Hi", resume=True, max_tokens=4, ignore_eos=True)
        next(stream)
        name = re.search(rb"X-Conversation-Id: (\w+)", proxy.received)
        assert name
        if to_its_end:
            assert list(stream)[-1].type == "done"
        else:
            stream.close()
        with pytest.raises(ServerError) as caught:
            client.request("GET", f"/v1/stream?conv_id={name[1].decode()}&from=0")
        assert caught.value.status == 404


# The configuration of Flynn's first design note, byte for byte.
SEED = b"""\
models:
  local:
    provider: llamacpp
    endpoint: http://localhost:8080
    # auth_token: optional
"""


def test_the_first_configuration_streams_an_answer_without_installed_packages(
    real_server: RealServer, tmp_path: Path
) -> None:
    (tmp_path / "flynn.yaml").write_bytes(SEED)
    program = """
from flynn import create_client, load_config
pieces = list(create_client(load_config("flynn.yaml"), "local").chat_stream("Hi", max_tokens=8).text())
print(len(pieces), "".join(pieces))
"""
    root = str(Path(__file__).parent.parent)
    try:
        with serve(forwarding(real_server.endpoint), port=8080):
            process = subprocess.run(
                [sys.executable, "-S", "-c", program],
                cwd=tmp_path,
                env={"PYTHONPATH": root, "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
            )
    except OSError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"port 8080, which that file names, is in use: {error}")
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[0]) > 1
