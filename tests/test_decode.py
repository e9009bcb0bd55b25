"""llama-server's JSON as typed responses, events and errors."""

from __future__ import annotations

import json
import sys
from typing import Any, List, Optional, Type

import pytest
from scripted import CHAT, DATA, error

from flynn import (
    AuthenticationError,
    ContextSizeError,
    FlynnError,
    Message,
    ModelLoadingError,
    NotSupportedError,
    ProtocolError,
    ServerError,
    ToolCall,
)
from flynn.models.local import models, server, tokens
from flynn.models.local.decode import ChatStreamDecoder, decode_chat, decode_error, decode_json
from flynn.models.local.sse import read_events
from flynn.models.types import ContentEvent, DoneEvent, ProgressEvent, ReasoningEvent, ToolCallEvent, Usage


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def reply(message: Any = None, **more: Any) -> bytes:
    return dump({"choices": [{"index": 0, "message": message or {"role": "assistant", "content": ""}}], **more})


def chunk(delta: Any = None, choice: int = 0, finish_reason: Optional[str] = None, **more: Any) -> bytes:
    return dump({"choices": [{"index": choice, "delta": delta or {}, "finish_reason": finish_reason}], **more})


def events(*data: bytes) -> List[Any]:
    decoder = ChatStreamDecoder()
    return [event for each in data for event in decoder.feed(each)]


def response(*data: bytes) -> Any:
    """The response of a stream of these data."""
    (*_, done) = events(*data, b"[DONE]")
    assert isinstance(done, DoneEvent)
    return done.response


# --- replies in one piece ---------------------------------------------------------------------------------------------


def test_a_reply_becomes_a_typed_response() -> None:
    result = decode_chat(CHAT)
    assert result.content == "Hello!"
    assert result.message == Message("assistant", "Hello!")
    assert result.finish_reason == "stop"
    assert result.usage == Usage(prompt_tokens=5, completion_tokens=10, cached_tokens=3)
    assert result.usage.total_tokens == 15
    assert result.timings is not None
    assert (result.timings.predicted_n, result.timings.predicted_per_second) == (10, 100.5)
    assert (result.id, result.model) == ("chatcmpl-1", "small")
    assert result.raw == json.loads(CHAT)
    assert (result.reasoning, result.tool_calls, result.logprobs) == (None, (), ())


def test_a_reply_needs_no_more_than_a_message() -> None:
    result = decode_chat(b'{"choices": [{"message": {"content": "Hi"}}]}')
    assert (result.content, result.finish_reason, result.usage, result.timings, result.id) == (
        "Hi",
        None,
        None,
        None,
        "",
    )


def test_all_choices_are_kept() -> None:
    result = decode_chat(dump({"choices": [{"index": i, "message": {"content": str(i)}} for i in range(3)]}))
    assert [choice.message.content for choice in result.choices] == ["0", "1", "2"]
    assert result.content == "0"


def test_reasoning_is_separate_from_content() -> None:
    result = decode_chat(reply({"content": "42", "reasoning_content": "6 x 7"}))
    assert (result.content, result.reasoning, result.message.reasoning) == ("42", "6 x 7", "6 x 7")


def test_tool_calls_are_typed_and_a_null_content_is_empty() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    result = decode_chat(reply({"content": None, "tool_calls": [call, call]}))
    assert result.tool_calls == (ToolCall("c1", "weather", "{}"),) * 2
    assert result.content == ""


def test_logprobs_are_kept_as_the_server_sends_them() -> None:
    tokens = [{"token": "H", "logprob": -0.1, "top_logprobs": []}]
    result = decode_chat(dump({"choices": [{"message": {"content": "H"}, "logprobs": {"content": tokens}}]}))
    assert result.logprobs == tuple(tokens)


# --- malformed JSON ---------------------------------------------------------------------------------------------------

WRONG = [None, True, 5, -1.5, "text", [], [1], {}, {"x": []}, [[]]]
NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b'{"a": 1',
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a": 1} {"b": 2}',
    b"<html>",
    b"[DONE",
    b"nul",
    b'"\xff"',
    b'"\xc3"',
    b'{"a": "\n"}',
    b"\x00",
    b"\xef\xbb\xbf{}",
    b"{}".decode().encode("utf-16"),
    b"1" * 100_000 if sys.version_info >= (3, 9, 14) else b"{",
    b"[" * 100_000,
    b'{"a":' * 100_000,
]


@pytest.mark.parametrize("data", NOT_JSON, ids=lambda data: repr(data[:20]))
def test_invalid_json_is_a_protocol_error(data: bytes) -> None:
    for decode in (decode_json, decode_chat, ChatStreamDecoder().feed):
        with pytest.raises(ProtocolError) as caught:
            decode(data)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("depth", [*range(2, 1000, 7), 10_000, 1_000_000])
def test_deep_nesting_is_a_protocol_error_and_no_crash(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for data in (nested, b'{"choices": %s}' % nested, b'{"choices": [{"message": {"content": %s}}]}' % nested):
        with pytest.raises(ProtocolError):
            decode_chat(data)
    for data in (nested, b'{"choices": %s}' % nested, b'{"choices": [{"delta": {"content": %s}}]}' % nested):
        with pytest.raises(ProtocolError):
            ChatStreamDecoder().feed(data)
    assert isinstance(decode_error(500, b'{"error": %s}' % nested), ServerError)


def replaced(value: Any, by: Any) -> Any:
    """Yield the value with each of its parts replaced in turn."""
    yield by
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        for changed in replaced(member, by):
            copy = value.copy()
            copy[key] = changed
            yield copy


FULL_REPLY = {
    "id": "x",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "Hi",
                "reasoning_content": "Hm",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
            },
            "logprobs": {"content": [{"token": "H"}]},
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
    "timings": {"prompt_n": 1, "prompt_ms": 1.5},
}
FULL_CHUNK = {
    **FULL_REPLY,
    "choices": [{**FULL_REPLY["choices"][0], "delta": FULL_REPLY["choices"][0]["message"]}],  # type: ignore[index]
    "prompt_progress": {"total": 3, "cache": 1, "processed": 2, "time_ms": 5},
}


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_wrong_type_anywhere_raises_nothing_but_a_protocol_error(wrong: Any) -> None:
    decoded = refused = 0
    for value in replaced(FULL_REPLY, wrong):
        try:
            result = decode_chat(dump(value))
        except ProtocolError:
            refused += 1
        else:
            decoded += 1
            assert isinstance(result.content, str)
            assert all(
                isinstance(part, str) for call in result.tool_calls for part in (call.id, call.name, call.arguments)
            )
            assert isinstance(result.id + result.model + result.message.role, str)
    for value in replaced(FULL_CHUNK, wrong):
        try:
            assert isinstance(response(dump(value)).content, str)
            decoded += 1
        except ProtocolError:
            refused += 1
    assert refused > 5
    assert decoded > 0


@pytest.mark.parametrize("data", [b"{}", b'{"choices": []}', b'{"choices": null}', b'{"error": {}}'])
def test_a_reply_without_choices_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected a reply with choices"):
        decode_chat(data)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_types_in_other_routes_raise_nothing_but_a_protocol_error(wrong: Any) -> None:
    decoders = (
        server.decode_props,
        models.decode_models,
        server.decode_slots,
        tokens.decode_pieces,
        server.decode_slot_file,
        server.decode_lora_adapters,
    )
    for decode in decoders:
        for value in (wrong, [wrong], {"data": wrong}, {"data": [wrong]}, {"tokens": wrong}, {"tokens": [wrong]}):
            try:
                decode(value)
            except ProtocolError:
                pass


# --- streams ----------------------------------------------------------------------------------------------------------


def test_pieces_of_text_become_events_and_are_joined_in_the_response() -> None:
    data = [chunk({"role": "assistant", "content": None}), chunk({"content": "He"}), chunk({"content": "llo"})]
    assert events(*data) == [ContentEvent("He"), ContentEvent("llo")]
    result = response(*data, chunk(finish_reason="stop", id="x", model="m"))
    assert (result.content, result.finish_reason, result.id, result.model) == ("Hello", "stop", "x", "m")
    assert result.message == Message("assistant", "Hello")


def test_reasoning_has_events_of_its_own() -> None:
    data = [
        chunk({"reasoning_content": "6 "}),
        chunk({"reasoning_content": "x 7", "content": "4"}),
        chunk({"content": "2"}),
    ]
    assert events(*data) == [ReasoningEvent("6 "), ReasoningEvent("x 7"), ContentEvent("4"), ContentEvent("2")]
    result = response(*data)
    assert (result.reasoning, result.content) == ("6 x 7", "42")


def fragment(index: int, arguments: Optional[str] = None, **more: Any) -> Any:
    function = {"function": {**({"name": more.pop("name")} if "name" in more else {}), "arguments": arguments}}
    return {"index": index, **more, **function}


def test_fragments_of_tool_calls_become_events_and_are_joined_in_the_response() -> None:
    data = [
        chunk({"tool_calls": [fragment(0, "", id="c0", type="function", name="weather")]}),
        chunk({"tool_calls": [fragment(0, '{"city"')]}),
        chunk({"tool_calls": [fragment(1, "{}", id="c1", name="clock"), fragment(0, ': "Bern"}')]}),
        chunk(finish_reason="tool_calls"),
    ]
    assert events(*data) == [
        ToolCallEvent(0, "c0", "weather", ""),
        ToolCallEvent(0, "", "", '{"city"'),
        ToolCallEvent(1, "c1", "clock", "{}"),
        ToolCallEvent(0, "", "", ': "Bern"}'),
    ]
    result = response(*data)
    assert result.tool_calls == (ToolCall("c0", "weather", '{"city": "Bern"}'), ToolCall("c1", "clock", "{}"))
    assert result.finish_reason == "tool_calls"


def test_ten_thousand_fragments_are_joined() -> None:
    data = [chunk({"tool_calls": [fragment(i % 2, "x")]}) for i in range(10_000)]
    assert [len(call.arguments) for call in response(*data).tool_calls] == [5000, 5000]


def test_events_name_their_choice() -> None:
    data = [
        chunk({"content": "b"}, 1),
        chunk({"content": "a"}, 0),
        chunk({"tool_calls": [fragment(0, "{}", id="c")]}, 1),
        chunk({"content": "B"}, 1),
        chunk({}, 1, "length"),
        chunk({}, 0, "stop"),
    ]
    assert [event.choice for event in events(*data)] == [1, 0, 1, 1]
    result = response(*data)
    assert [(c.message.content, c.finish_reason) for c in result.choices] == [("a", "stop"), ("bB", "length")]
    assert result.choices[1].message.tool_calls == (ToolCall("c", "", "{}"),)


def test_logprobs_are_part_of_their_event_and_joined_in_the_response() -> None:
    data = [
        dump({"choices": [{"delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}]}) for text in "ab"
    ]
    assert [event.logprobs for event in events(*data)] == [({"token": "a"},), ({"token": "b"},)]
    assert response(*data).logprobs == ({"token": "a"}, {"token": "b"})


def test_progress_events_are_yielded_only_on_request() -> None:
    progress = {"total": 30, "cache": 10, "processed": 20, "time_ms": 5}
    data = chunk({"role": "assistant", "content": None}, prompt_progress=progress)
    assert ChatStreamDecoder(progress=True).feed(data) == [ProgressEvent(30, 10, 20, 5)]
    assert ChatStreamDecoder().feed(data) == []


def test_the_response_has_usage_and_timings_of_the_last_chunk() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    result = response(chunk({"content": "x"}), dump({"choices": [], "usage": usage, "timings": {"predicted_n": 2}}))
    assert result.usage == Usage(5, 2, 4)
    assert result.timings.predicted_n == 2


def test_completion_tokens_of_choices_are_summed_and_the_prompt_counts_once() -> None:
    usages = [
        {"prompt_tokens": 5, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": c}}
        for n, c in ((2, 1), (3, 5))
    ]
    result = response(*(dump({"choices": [], "usage": usage}) for usage in usages))
    assert result.usage == Usage(5, 5, 1)


def test_an_unfinished_stream_has_the_response_so_far() -> None:
    decoder = ChatStreamDecoder()
    assert decoder.response().content == ""
    decoder.feed(chunk({"content": "Hel"}))
    assert (decoder.response().content, decoder.response().finish_reason, decoder.done) == ("Hel", None, False)


def test_a_recorded_stream_of_two_choices_is_read() -> None:
    decoder = ChatStreamDecoder(progress=True)
    lines = (DATA / "chat_stream.sse").read_bytes().splitlines(keepends=True)
    result = [event for data in read_events(lines) for event in decoder.feed(data)]
    whole = result[-1].response
    assert result[0].type == "progress"
    for number, choice in enumerate(whole.choices):
        pieces = [e.text for e in result if e.type == "content" and e.choice == number]
        assert "".join(pieces) == choice.message.content != ""
        assert len(choice.logprobs) > 0
    assert [choice.finish_reason for choice in whole.choices] == ["stop", "length"]
    assert whole.usage == Usage(prompt_tokens=38, completion_tokens=15, cached_tokens=24)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (400, "invalid_request_error", "Failed to parse messages", ServerError),
        (401, "authentication_error", "Invalid API Key", AuthenticationError),
        (403, "permission_error", "No", AuthenticationError),
        (404, "not_found_error", "File Not Found", ServerError),
        (501, "not_supported_error", "This server does not support embeddings.", NotSupportedError),
        (503, "unavailable_error", "Loading model", ModelLoadingError),
        (503, "unavailable_error", "No slot", ServerError),
        (500, "server_error", "boom", ServerError),
    ],
)
def test_an_error_has_the_servers_message_and_the_class_of_its_kind(
    status: int, kind: str, message: str, expected: Type[ServerError]
) -> None:
    body = error(status, message, kind)
    result = decode_error(status, body)
    assert type(result) is expected
    assert (str(result), result.status, result.type, result.body) == (message, status, kind, body.decode())


def test_the_error_of_a_too_long_prompt_has_its_numbers_of_tokens() -> None:
    result = decode_error(400, error(400, "too long", "exceed_context_size_error", n_prompt_tokens=9000, n_ctx=4096))
    assert isinstance(result, ContextSizeError)
    assert (str(result), result.n_prompt_tokens, result.n_ctx) == ("too long", 9000, 4096)
    result = decode_error(400, error(400, "too long", "exceed_context_size_error", n_prompt_tokens="many"))
    assert isinstance(result, ContextSizeError)
    assert (result.n_prompt_tokens, result.n_ctx) == (None, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"upstream is down\n", "upstream is down"),
        (b"<html><h1>502 Bad Gateway</h1></html>", "HTTP 502 Bad Gateway"),
        (b"  <!DOCTYPE html>", "HTTP 502 Bad Gateway"),
        (b"", "HTTP 502 Bad Gateway"),
        (b"x" * 10_000, "HTTP 502 Bad Gateway"),
        (b"{", "HTTP 502 Bad Gateway"),
        (b"{}", "HTTP 502 Bad Gateway"),
        (b'{"error": null}', "HTTP 502 Bad Gateway"),
        (b'{"error": {"message": 5}}', "HTTP 502 Bad Gateway"),
        (b'{"error": {"message": ""}}', "HTTP 502 Bad Gateway"),
        (b'{"error": "in words"}', "in words"),
        (b"caf\xe9", "caf\ufffd"),
        (b"[" * 100_000, "HTTP 502 Bad Gateway"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_the_error_of_a_proxy_is_one_line(body: bytes, message: str) -> None:
    result = decode_error(502, body, "Bad Gateway")
    assert (type(result), str(result), result.status) == (ServerError, message, 502)
    assert result.body == body.decode(errors="replace")


def test_an_error_event_is_raised_with_its_code_as_status() -> None:
    decoder = ChatStreamDecoder()
    decoder.feed(chunk({"content": "so far"}))
    with pytest.raises(ServerError, match="^boom$") as caught:
        decoder.feed(error(500, "boom", "server_error"))
    assert (caught.value.status, caught.value.type) == (500, "server_error")
    assert decoder.response().content == "so far"


@pytest.mark.parametrize("body", [b'{"error": {}}', b'{"error": []}', b'{"error": {"code": "x"}}'])
def test_an_error_event_without_a_message_has_a_readable_message(body: bytes) -> None:
    with pytest.raises(ServerError) as caught:
        ChatStreamDecoder().feed(body)
    assert "None" not in str(caught.value)
    assert "error" in str(caught.value)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_any_malformed_error_event_is_a_flynn_error(wrong: Any) -> None:
    for value in replaced({"error": {"code": 400, "message": "m", "type": "t", "n_ctx": 5}}, wrong):
        if isinstance(value, dict) and value.get("error") is not None:
            with pytest.raises(FlynnError):
                ChatStreamDecoder().feed(dump(value))


def test_an_error_that_is_null_is_ignored() -> None:
    """LiteLLM's proxy and others send it in every event."""
    assert ChatStreamDecoder().feed(b'{"error": null, "choices": [{"delta": {"content": "x"}}]}')[0].text == "x"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["id", "model"])
@pytest.mark.parametrize("wrong", [1, [], {}, True])
def test_an_id_or_model_that_is_not_a_string_is_ignored(name: str, wrong: Any) -> None:
    decoder = ChatStreamDecoder()
    decoder.feed(dump({"choices": [{"delta": {"content": "x"}}], name: wrong}))
    (done,) = decoder.feed(b"[DONE]")
    assert isinstance(done, DoneEvent)
    assert (done.response.content, getattr(done.response, name)) == ("x", "")


def test_the_response_has_the_last_timings_and_finish_reason() -> None:
    decoder = ChatStreamDecoder()
    for number, reason in ((1, "stop"), (2, "length"), (1, "stop")):
        item = {"index": 0, "delta": {"content": "x"}, "finish_reason": reason}
        decoder.feed(dump({"choices": [item], "timings": {"predicted_n": number}}))
    response = decoder.response()
    assert (response.timings and response.timings.predicted_n, response.finish_reason) == (1, "stop")
