"""A chat request as llama-server's JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List, Type

import pytest

from flynn import Audio, ChatRequest, FileError, Image, Message, ToolCall
from flynn.models.local.encode import chat_request, encode_chat, with_defaults
from flynn.models.request import option_types

# What the chat route takes, with a value for each: the OpenAI names that llama-server reads, and the options of its
# completion route (tools/server/README.md and tools/server/server-schema.cpp in ggml-org/llama.cpp).
DOCUMENTED: Dict[str, Any] = {
    "model": "small",
    "max_tokens": 20,
    "max_completion_tokens": 20,
    "n_predict": -1,
    "stop": ["\n"],
    "ignore_eos": True,
    "t_max_predict_ms": 100,
    "n_indent": 2,
    "n": 2,
    "n_cmpl": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "n_probs": 3,
    "post_sampling_probs": True,
    "temperature": 0.5,
    "dynatemp_range": 0.1,
    "dynatemp_exponent": 1.5,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.1,
    "top_n_sigma": 1.0,
    "typical_p": 0.9,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.2,
    "repeat_penalty": 1.1,
    "repeat_last_n": 32,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "dry_multiplier": 0.8,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n", ":"],
    "mirostat": 2,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "adaptive_target": 0.5,
    "adaptive_decay": 0.9,
    "seed": 42,
    "samplers": ["top_k", "temperature"],
    "min_keep": 1,
    "logit_bias": [[15043, 1.0], ["word", False]],
    "backend_sampling": True,
    "grammar": 'root ::= "yes" | "no"',
    "grammar_lazy": True,
    "grammar_triggers": [{"type": 0, "value": "<tool>"}],
    "preserved_tokens": ["<tool>"],
    "json_schema": {"type": "object"},
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "parse_tool_calls": True,
    "reasoning_effort": "low",
    "reasoning_format": "none",
    "reasoning_budget_tokens": 100,
    "reasoning_budget_message": "enough",
    "reasoning_control": True,
    "chat_template_kwargs": {"enable_thinking": False},
    "add_generation_prompt": False,
    "continue_final_message": True,
    "cache_prompt": False,
    "id_slot": 0,
    "n_keep": -1,
    "n_discard": 0,
    "n_cache_reuse": 256,
    "lora": [{"id": 0, "scale": 0.5}],
    "return_progress": True,
    "return_tokens": True,
    "timings_per_token": True,
    "sse_ping_interval": 5,
    "response_fields": ["content"],
    "echo": True,
    "verbose": True,
}
WEATHER = DOCUMENTED["tools"][0]
CLOCK = {"type": "function", "function": {"name": "clock"}}
PNG = b"\x89PNG\r\n\x1a\n-pixels"
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "


def encoded(prompt: Any = "Hi", *, stream: bool = False, **options: Any) -> Dict[str, Any]:
    value = json.loads(encode_chat(chat_request(prompt, options), stream=stream))
    assert isinstance(value, dict)
    return value


def content(*parts: Any) -> List[Any]:
    parts = encoded([Message("user", parts)])["messages"][0]["content"]
    assert isinstance(parts, list)
    return parts


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_field_is_an_option_sent_under_its_own_name(name: str) -> None:
    value = DOCUMENTED[name]
    assert encoded(**{name: value})[name] == value
    assert encoded(ChatRequest([Message("user", "Hi")], **{name: value}))[name] == value


def test_no_other_field_is_an_option() -> None:
    """The list above is complete: add a new field there too."""
    fields = {field.name for field in dataclasses.fields(ChatRequest)}
    assert fields - set(DOCUMENTED) == {"messages", "extra"}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_declared_type_of_each_option_accepts_its_values(name: str) -> None:
    assert isinstance(DOCUMENTED[name], option_types()[name])


def test_options_that_are_not_set_are_not_sent() -> None:
    assert encoded() == {"messages": [{"role": "user", "content": "Hi"}]}
    assert encoded(max_tokens=None) == encoded()


def test_zero_false_and_empty_values_are_sent() -> None:
    assert (
        encoded(temperature=0, cache_prompt=False, stop=[], grammar="").items()
        >= {
            "temperature": 0,
            "cache_prompt": False,
            "stop": [],
            "grammar": "",
        }.items()
    )


def test_extra_is_merged_last() -> None:
    assert encoded(max_tokens=5, extra={"max_tokens": 6, "new": [None]}) == {
        **encoded(),
        "max_tokens": 6,
        "new": [None],
    }
    assert encoded(stream=True, extra={"stream_options": {}})["stream_options"] == {}


def test_a_stream_asks_for_usage() -> None:
    body = encoded(stream=True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert not {"stream", "stream_options"} & set(encoded())


@pytest.mark.parametrize(
    ("wrong", "right"), [("max_token", "max_tokens"), ("temprature", "temperature"), ("tool", "tools")]
)
def test_an_unknown_option_is_refused_naming_the_nearest_one_and_extra(wrong: str, right: str) -> None:
    with pytest.raises(TypeError) as caught:
        encoded(**{wrong: 1})
    message = str(caught.value)
    assert f"unknown option {wrong!r}" in message
    assert f"did you mean {right!r}?" in message
    assert "extra" in message


def test_a_request_refuses_an_unknown_option_like_a_call() -> None:
    with pytest.raises(TypeError, match="unknown option 'temprature'; did you mean 'temperature'?"):
        ChatRequest([], temprature=1)


def test_a_request_holds_its_options_and_none_for_the_others() -> None:
    request = ChatRequest([], seed=1, top_k=None)
    assert (request.seed, request.top_k, request.extra) == (1, None, {})
    assert request == ChatRequest([], seed=1) != ChatRequest([], seed=2)
    assert dataclasses.replace(request, seed=2) == ChatRequest([], seed=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": float("nan")}, ValueError, "^temperature: Out of range float values"),
        ({"logit_bias": {1}}, TypeError, "^logit_bias: Object of type set is not JSON serializable$"),
        ({"extra": {"new": b"x"}}, TypeError, "^new: Object of type bytes is not JSON serializable$"),
        ({"extra": 5}, TypeError, "^extra must be a mapping, not int$"),
    ],
)
def test_a_value_that_json_cannot_hold_is_refused_with_its_name(
    options: Dict[str, Any], error: Type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encoded(**options)


def test_messages_is_not_an_option() -> None:
    with pytest.raises(TypeError, match="unknown option 'messages'"):
        encoded("Hi", messages=[])


def test_an_option_wins_over_the_same_field_of_a_request() -> None:
    request = ChatRequest([Message("user", "Hi")], max_tokens=5, seed=1)
    assert encoded(request, max_tokens=6) == {**encoded(), "max_tokens": 6, "seed": 1}
    assert request.max_tokens == 5


def test_defaults_fill_options_that_a_request_does_not_set() -> None:
    request = with_defaults(
        chat_request("Hi", {"seed": 1, "temperature": 0}), {"seed": 2, "temperature": 1, "top_k": 3}
    )
    assert json.loads(encode_chat(request, stream=False)) == {**encoded(), "seed": 1, "temperature": 0, "top_k": 3}


def test_extra_of_the_defaults_is_sent_too() -> None:
    request = with_defaults(chat_request("Hi", {"extra": {"a": 1}}), {"extra": {"a": 2, "b": 3}})
    assert json.loads(encode_chat(request, stream=False)) == {**encoded(), "a": 1, "b": 3}
    request = with_defaults(chat_request("Hi", {}), {"extra": {"a": 2}})
    assert json.loads(encode_chat(request, stream=False)) == {**encoded(), "a": 2}


def test_an_extra_of_none_adds_nothing() -> None:
    assert encoded(extra=None) == encoded()
    request = with_defaults(chat_request("Hi", {"extra": None}), {"extra": {"a": 2}})
    assert json.loads(encode_chat(request, stream=False)) == {**encoded(), "a": 2}
    request = with_defaults(chat_request("Hi", {"extra": {"a": 2}}), {"extra": None})
    assert json.loads(encode_chat(request, stream=True))["a"] == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encoded(temperature=value)


def test_values_that_json_lacks_are_refused() -> None:
    with pytest.raises(TypeError):
        encoded(extra={"x": object()})


# --- prompts and messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "Hi",
        Message("user", "Hi"),
        [Message("user", "Hi")],
        (Message("user", "Hi"),),
        [{"role": "user", "content": "Hi"}],
        (message for message in [Message("user", "Hi")]),
        ChatRequest([Message("user", "Hi")]),
        ChatRequest([{"role": "user", "content": "Hi"}]),
    ],
)
def test_a_prompt_is_text_messages_mappings_or_a_request(prompt: Any) -> None:
    assert encoded(prompt) == {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("prompt", [None, 5, b"Hi", {"role": "user", "content": "Hi"}, ["Hi"], [None], [b"Hi"]])
def test_any_other_prompt_is_a_type_error(prompt: Any) -> None:
    with pytest.raises(TypeError, match="a prompt is a string, a sequence of Message or mappings, or a ChatRequest"):
        encoded(prompt)


def test_text_is_sent_as_utf_8() -> None:
    body = encode_chat(chat_request("é ☃ 😀 \u2028 \0", {}), stream=False)
    assert "é ☃ 😀 \u2028 \\u0000".encode() in body


def test_an_unpaired_surrogate_is_sent_as_a_question_mark() -> None:
    assert encoded("a\ud83db")["messages"][0]["content"] == "a?b"


def test_messages_of_all_roles_are_sent_with_all_their_fields() -> None:
    messages = [
        Message("system", "Be brief."),
        Message("user", "Weather?", name="eve"),
        Message("assistant", None, [ToolCall("c1", "weather", '{"city": "Bern"}')], reasoning="I look."),
        Message("tool", "rain", tool_call_id="c1"),
        {"role": "assistant", "content": "It rains", "whatever": 1},
    ]
    assert encoded(messages)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?", "name": "eve"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
            ],
            "reasoning_content": "I look.",
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It rains", "whatever": 1},
    ]


def test_an_assistants_message_at_the_end_is_sent_as_prefill() -> None:
    messages = [Message("user", "Count."), Message("assistant", "One, two,")]
    assert encoded(messages)["messages"][-1] == {"role": "assistant", "content": "One, two,"}


# --- images and recordings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"BM....", "image/bmp"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"?", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_the_bytes_of_an_image_become_base64_with_their_media_type(data: bytes, kind: str) -> None:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    assert content("What?", Image(data)) == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]


def test_an_image_file_is_sent_like_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(PNG)
    assert content(Image(file)) == content(Image(str(file))) == content(Image(PNG))


@pytest.mark.parametrize("url", ["http://a/b.png", "HTTPS://a/b.png", "data:image/png;base64,AAAA"])
def test_the_url_of_an_image_is_sent_unchanged(url: str) -> None:
    assert content(Image(url)) == [{"type": "image_url", "image_url": {"url": url}}]


@pytest.mark.parametrize(("data", "kind"), [(WAV, "wav"), (b"ID3\x04", "mp3"), (b"\xff\xfb", "mp3")])
def test_a_recording_becomes_base64(data: bytes, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "recording"
    file.write_bytes(data)
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}
    assert content(Audio(data)) == content(Audio(file)) == [part]


def test_the_url_of_a_recording_is_sent_unchanged() -> None:
    assert content(Audio("https://a/b.mp3")) == [{"type": "input_audio", "input_audio": {"url": "https://a/b.mp3"}}]


def test_content_may_be_a_single_image() -> None:
    assert encoded([Message("user", Image(PNG))])["messages"][0]["content"] == content(Image(PNG))  # type: ignore[arg-type]


def test_parts_that_are_mappings_are_sent_unchanged_and_images_beside_them_encoded() -> None:
    part = {"type": "input_video", "input_video": {"url": "http://a/b"}}
    mapping = {"role": "user", "content": [part, "text", Image(PNG)]}
    assert encoded([mapping])["messages"][0]["content"] == [
        part,
        {"type": "text", "text": "text"},
        *content(Image(PNG)),
    ]
    assert mapping["content"][2] == Image(PNG)


@pytest.mark.parametrize(("made", "what"), [(Image, "image"), (Audio, "recording")])
def test_a_file_that_cannot_be_read_is_named(made: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=rf"^cannot read the {what} '/nonexistent/a.png': No such file or directory$"):
        content(made("/nonexistent/a.png"))
    with pytest.raises(FileError, match="Is a directory"):
        content(made(tmp_path))
    with pytest.raises(FileError, match="null byte"):
        content(made("a\0b"))


# --- a named tool -----------------------------------------------------------------------------------------------------


def test_a_named_tool_is_forced_by_sending_only_that_tool() -> None:
    tools = [CLOCK, WEATHER]
    body = encoded(tools=tools, tool_choice={"type": "function", "function": {"name": "weather"}})
    assert body["tools"] == [WEATHER]
    assert body["tool_choice"] == "required"
    assert tools == [CLOCK, WEATHER]


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_tool_choice_that_is_a_string_is_sent_unchanged(choice: str) -> None:
    body = encoded(tools=[CLOCK, WEATHER], tool_choice=choice)
    assert (body["tools"], body["tool_choice"]) == ([CLOCK, WEATHER], choice)


def test_a_named_tool_that_is_missing_is_refused() -> None:
    for tools in ([WEATHER], [], None):
        with pytest.raises(ValueError, match="tool_choice names 'moon', which is not among tools"):
            encoded(tools=tools, tool_choice={"type": "function", "function": {"name": "moon"}})


@pytest.mark.parametrize("choice", [{}, {"name": "weather"}, {"function": "weather"}, 5])
def test_a_malformed_tool_choice_is_refused(choice: Any) -> None:
    with pytest.raises(ValueError, match='tool_choice must be "auto"'):
        encoded(tools=[WEATHER], tool_choice=choice)
