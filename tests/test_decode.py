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
    """What a stream of these data assembles to."""
    (*_, done) = events(*data, b"[DONE]")
    assert isinstance(done, DoneEvent)
    return done.response


# --- replies in one piece ---------------------------------------------------------------------------------------------


def test_a_reply_is_typed() -> None:
    made = decode_chat(CHAT)
    assert made.content == "Hello!"
    assert made.message == Message("assistant", "Hello!")
    assert made.finish_reason == "stop"
    assert made.usage == Usage(prompt_tokens=5, completion_tokens=10, cached_tokens=3)
    assert made.usage.total_tokens == 15
    assert made.timings is not None
    assert (made.timings.predicted_n, made.timings.predicted_per_second) == (10, 100.5)
    assert (made.id, made.model) == ("chatcmpl-1", "small")
    assert made.raw == json.loads(CHAT)
    assert (made.reasoning, made.tool_calls, made.logprobs) == (None, (), ())


def test_the_smallest_reply_is_enough() -> None:
    made = decode_chat(b'{"choices": [{"message": {"content": "Hi"}}]}')
    assert (made.content, made.finish_reason, made.usage, made.timings, made.id) == ("Hi", None, None, None, "")


def test_each_of_several_choices_is_kept() -> None:
    made = decode_chat(dump({"choices": [{"index": i, "message": {"content": str(i)}} for i in range(3)]}))
    assert [choice.message.content for choice in made.choices] == ["0", "1", "2"]
    assert made.content == "0"


def test_reasoning_is_kept_apart_from_content() -> None:
    made = decode_chat(reply({"content": "42", "reasoning_content": "6 x 7"}))
    assert (made.content, made.reasoning, made.message.reasoning) == ("42", "6 x 7", "6 x 7")


def test_tool_calls_are_typed_and_a_null_content_is_empty() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    made = decode_chat(reply({"content": None, "tool_calls": [call, call]}))
    assert made.tool_calls == (ToolCall("c1", "weather", "{}"),) * 2
    assert made.content == ""


def test_logprobs_are_given_as_the_server_sends_them() -> None:
    tokens = [{"token": "H", "logprob": -0.1, "top_logprobs": []}]
    made = decode_chat(dump({"choices": [{"message": {"content": "H"}, "logprobs": {"content": tokens}}]}))
    assert made.logprobs == tuple(tokens)


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
def test_what_is_not_json_is_a_protocol_error(data: bytes) -> None:
    for decode in (decode_json, decode_chat, ChatStreamDecoder().feed):
        with pytest.raises(ProtocolError) as caught:
            decode(data)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("depth", [*range(2, 1000, 7), 10_000, 1_000_000])
def test_nesting_of_any_depth_is_a_protocol_error_at_most(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for data in (nested, b'{"choices": %s}' % nested, b'{"choices": [{"message": {"content": %s}}]}' % nested):
        with pytest.raises(ProtocolError):
            decode_chat(data)
    for data in (nested, b'{"choices": %s}' % nested, b'{"choices": [{"delta": {"content": %s}}]}' % nested):
        with pytest.raises(ProtocolError):
            ChatStreamDecoder().feed(data)
    assert isinstance(decode_error(500, b'{"error": %s}' % nested), ServerError)


def replaced(value: Any, by: Any) -> Any:
    """The value with each of its parts in turn replaced."""
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
def test_a_wrong_type_anywhere_is_a_protocol_error_at_most(wrong: Any) -> None:
    decoded = refused = 0
    for value in replaced(FULL_REPLY, wrong):
        try:
            made = decode_chat(dump(value))
        except ProtocolError:
            refused += 1
        else:
            decoded += 1
            assert isinstance(made.content, str)
            assert all(
                isinstance(part, str) for call in made.tool_calls for part in (call.id, call.name, call.arguments)
            )
            assert isinstance(made.id + made.model + made.message.role, str)
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
def test_what_the_server_says_of_itself_is_checked_too(wrong: Any) -> None:
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


def test_pieces_of_text_are_events_and_assemble() -> None:
    data = [chunk({"role": "assistant", "content": None}), chunk({"content": "He"}), chunk({"content": "llo"})]
    assert events(*data) == [ContentEvent("He"), ContentEvent("llo")]
    made = response(*data, chunk(finish_reason="stop", id="x", model="m"))
    assert (made.content, made.finish_reason, made.id, made.model) == ("Hello", "stop", "x", "m")
    assert made.message == Message("assistant", "Hello")


def test_reasoning_comes_as_events_of_its_own() -> None:
    data = [
        chunk({"reasoning_content": "6 "}),
        chunk({"reasoning_content": "x 7", "content": "4"}),
        chunk({"content": "2"}),
    ]
    assert events(*data) == [ReasoningEvent("6 "), ReasoningEvent("x 7"), ContentEvent("4"), ContentEvent("2")]
    made = response(*data)
    assert (made.reasoning, made.content) == ("6 x 7", "42")


def fragment(index: int, arguments: Optional[str] = None, **more: Any) -> Any:
    function = {"function": {**({"name": more.pop("name")} if "name" in more else {}), "arguments": arguments}}
    return {"index": index, **more, **function}


def test_fragments_of_tool_calls_are_events_and_assemble() -> None:
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
    made = response(*data)
    assert made.tool_calls == (ToolCall("c0", "weather", '{"city": "Bern"}'), ToolCall("c1", "clock", "{}"))
    assert made.finish_reason == "tool_calls"


def test_ten_thousand_fragments_assemble() -> None:
    data = [chunk({"tool_calls": [fragment(i % 2, "x")]}) for i in range(10_000)]
    assert [len(call.arguments) for call in response(*data).tool_calls] == [5000, 5000]


def test_the_pieces_of_several_choices_are_told_apart() -> None:
    data = [
        chunk({"content": "b"}, 1),
        chunk({"content": "a"}, 0),
        chunk({"tool_calls": [fragment(0, "{}", id="c")]}, 1),
        chunk({"content": "B"}, 1),
        chunk({}, 1, "length"),
        chunk({}, 0, "stop"),
    ]
    assert [event.choice for event in events(*data)] == [1, 0, 1, 1]
    made = response(*data)
    assert [(c.message.content, c.finish_reason) for c in made.choices] == [("a", "stop"), ("bB", "length")]
    assert made.choices[1].message.tool_calls == (ToolCall("c", "", "{}"),)


def test_logprobs_come_with_their_text_and_assemble() -> None:
    data = [
        dump({"choices": [{"delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}]}) for text in "ab"
    ]
    assert [event.logprobs for event in events(*data)] == [({"token": "a"},), ({"token": "b"},)]
    assert response(*data).logprobs == ({"token": "a"}, {"token": "b"})


def test_progress_comes_as_an_event_to_those_who_ask_for_it() -> None:
    progress = {"total": 30, "cache": 10, "processed": 20, "time_ms": 5}
    data = chunk({"role": "assistant", "content": None}, prompt_progress=progress)
    assert ChatStreamDecoder(progress=True).feed(data) == [ProgressEvent(30, 10, 20, 5)]
    assert ChatStreamDecoder().feed(data) == []


def test_usage_and_timings_of_the_last_chunk_are_kept() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    made = response(chunk({"content": "x"}), dump({"choices": [], "usage": usage, "timings": {"predicted_n": 2}}))
    assert made.usage == Usage(5, 2, 4)
    assert made.timings.predicted_n == 2


def test_completion_tokens_of_several_choices_are_summed_and_the_prompt_counts_once() -> None:
    usages = [
        {"prompt_tokens": 5, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": c}}
        for n, c in ((2, 1), (3, 5))
    ]
    made = response(*(dump({"choices": [], "usage": usage}) for usage in usages))
    assert made.usage == Usage(5, 5, 1)


def test_an_unfinished_stream_has_a_response_so_far() -> None:
    decoder = ChatStreamDecoder()
    assert decoder.response().content == ""
    decoder.feed(chunk({"content": "Hel"}))
    assert (decoder.response().content, decoder.response().finish_reason, decoder.done) == ("Hel", None, False)


def test_a_recorded_stream_of_two_choices_is_read() -> None:
    decoder = ChatStreamDecoder(progress=True)
    lines = (DATA / "chat_stream.sse").read_bytes().splitlines(keepends=True)
    made = [event for data in read_events(lines) for event in decoder.feed(data)]
    whole = made[-1].response
    assert made[0].type == "progress"
    for number, choice in enumerate(whole.choices):
        pieces = [e.text for e in made if e.type == "content" and e.choice == number]
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
def test_an_error_has_the_servers_message_and_says_what_kind_it_is(
    status: int, kind: str, message: str, expected: Type[ServerError]
) -> None:
    body = error(status, message, kind)
    made = decode_error(status, body)
    assert type(made) is expected
    assert (str(made), made.status, made.type, made.body) == (message, status, kind, body.decode())


def test_a_prompt_that_is_too_long_has_its_numbers() -> None:
    made = decode_error(400, error(400, "too long", "exceed_context_size_error", n_prompt_tokens=9000, n_ctx=4096))
    assert isinstance(made, ContextSizeError)
    assert (str(made), made.n_prompt_tokens, made.n_ctx) == ("too long", 9000, 4096)
    made = decode_error(400, error(400, "too long", "exceed_context_size_error", n_prompt_tokens="many"))
    assert isinstance(made, ContextSizeError)
    assert (made.n_prompt_tokens, made.n_ctx) == (None, None)


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
    made = decode_error(502, body, "Bad Gateway")
    assert (type(made), str(made), made.status) == (ServerError, message, 502)
    assert made.body == body.decode(errors="replace")


def test_an_error_event_is_raised_with_its_code_as_status() -> None:
    decoder = ChatStreamDecoder()
    decoder.feed(chunk({"content": "so far"}))
    with pytest.raises(ServerError, match="^boom$") as caught:
        decoder.feed(error(500, "boom", "server_error"))
    assert (caught.value.status, caught.value.type) == (500, "server_error")
    assert decoder.response().content == "so far"


@pytest.mark.parametrize("body", [b'{"error": {}}', b'{"error": []}', b'{"error": {"code": "x"}}'])
def test_an_error_event_without_a_message_is_still_an_error_in_words(body: bytes) -> None:
    with pytest.raises(ServerError) as caught:
        ChatStreamDecoder().feed(body)
    assert "None" not in str(caught.value)
    assert "error" in str(caught.value)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_any_error_event_is_an_error_of_flynn(wrong: Any) -> None:
    for value in replaced({"error": {"code": 400, "message": "m", "type": "t", "n_ctx": 5}}, wrong):
        if isinstance(value, dict) and value.get("error") is not None:
            with pytest.raises(FlynnError):
                ChatStreamDecoder().feed(dump(value))


def test_an_error_of_null_is_no_error() -> None:
    """As LiteLLM's proxy and others send it in each event."""
    assert ChatStreamDecoder().feed(b'{"error": null, "choices": [{"delta": {"content": "x"}}]}')[0].text == "x"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["id", "model"])
@pytest.mark.parametrize("wrong", [1, [], {}, True])
def test_a_name_that_is_not_a_string_is_left_out_and_ends_no_stream(name: str, wrong: Any) -> None:
    decoder = ChatStreamDecoder()
    decoder.feed(dump({"choices": [{"delta": {"content": "x"}}], name: wrong}))
    (done,) = decoder.feed(b"[DONE]")
    assert isinstance(done, DoneEvent)
    assert (done.response.content, getattr(done.response, name)) == ("x", "")


def test_the_last_timings_and_finish_reason_are_those_of_the_response() -> None:
    decoder = ChatStreamDecoder()
    for number, reason in ((1, "stop"), (2, "length"), (1, "stop")):
        item = {"index": 0, "delta": {"content": "x"}, "finish_reason": reason}
        decoder.feed(dump({"choices": [item], "timings": {"predicted_n": number}}))
    response = decoder.response()
    assert (response.timings and response.timings.predicted_n, response.finish_reason) == (1, "stop")
