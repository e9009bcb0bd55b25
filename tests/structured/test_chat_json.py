"""chat_json and chat_json_stream: the request, the result, and answers that are not valid."""

from __future__ import annotations

import asyncio
import enum
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional

import pytest
from answers import Answer, always, events, in_turn, reply, sent
from pytest_httpserver import HTTPServer
from scripted import STREAM_HEAD, Peer, Script, chunk, delta, eventually, serve

import flynn
from flynn import AsyncLlamaCppClient, ChatRequest, FlynnError, LlamaCppClient, Message, StructuredOutputError

from . import schema_of


class Color(enum.Enum):
    RED = "red"


@dataclass
class Pet:
    name: str
    color: Color = Color.RED


@dataclass
class Person:
    name: str
    pets: List[Pet]
    age: Optional[int] = None


TEXT = '{"name": "Ada", "pets": [{"name": "Rex", "color": "red"}]}'
ADA = Person("Ada", [Pet("Rex")])


def answer(content: Optional[str], finish_reason: str = "stop", **more: Any) -> Answer:
    """Return a reply with this content, not streamed."""
    choice = {"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish_reason}
    return reply({"choices": [choice], "usage": {"completion_tokens": 7}})


def streamed(text: str, finish_reason: str = "stop", size: int = 3) -> Answer:
    pieces = [delta(text[start : start + size]) for start in range(0, len(text), size)]
    return events(*pieces, delta(finish_reason=finish_reason))


# --- not streamed -----------------------------------------------------------------------------------------------------


def test_chat_json_sends_the_schema_and_returns_an_instance(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, answer(TEXT))
    assert LlamaCppClient(endpoint).chat_json("Invent a person", Person, max_tokens=5) == ADA
    (request,) = sent(httpserver)
    schema = {"name": "answer", "schema": schema_of(Person)}
    assert request.json["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert request.json["max_tokens"] == 5


def test_a_json_schema_is_sent_unchanged_and_returns_json(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, answer('{"a": "b"}'))
    schema = {"type": "object", "additionalProperties": {"type": "string"}}
    assert LlamaCppClient(endpoint).chat_json("Hi", schema) == {"a": "b"}
    assert sent(httpserver)[0].json["response_format"]["json_schema"]["schema"] == schema


def test_a_json_schema_is_narrowed_for_llama_cpp(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, answer('"12"'))
    assert LlamaCppClient(endpoint).chat_json("Hi", {"type": "string", "pattern": r"^\d+$"}) == "12"
    assert sent(httpserver)[0].json["response_format"]["json_schema"]["schema"]["pattern"] == "^[0-9]+$"


def test_any_annotation_can_be_the_schema(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, answer("[1, 2]"), answer('"red"'))
    assert LlamaCppClient(endpoint).chat_json("Hi", List[int]) == [1, 2]
    assert LlamaCppClient(endpoint).chat_json("Hi", Color) is Color.RED


@pytest.mark.parametrize("request_", ["Hi", [Message("user", "Hi")], ChatRequest([Message("user", "Hi")], seed=1)])
def test_the_request_has_the_same_forms_as_in_chat(request_: Any, httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, answer(TEXT))
    assert LlamaCppClient(endpoint).chat_json(request_, Person) == ADA
    assert sent(httpserver)[0].json["messages"] == [{"role": "user", "content": "Hi"}]


def test_the_schema_overrides_the_defaults_of_the_client(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, answer(TEXT))
    client = LlamaCppClient(endpoint, defaults={"response_format": {"type": "text"}})
    assert client.chat_json("Hi", Person) == ADA
    assert sent(httpserver)[0].json["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("name", ["response_format", "json_schema", "grammar"])
def test_a_second_constraint_is_refused(name: str) -> None:
    client = LlamaCppClient("http://127.0.0.1:9")
    with pytest.raises(TypeError, match=f"^the schema must be the only constraint of the answer: leave out {name}$"):
        client.chat_json("Hi", Person, **{name: "x"})
    with pytest.raises(TypeError, match=f"leave out {name}$"):
        client.chat_json_stream(ChatRequest([], **{name: "x"}), Person)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (complex, "^schema: complex cannot be expressed in JSON"),
        ({"type": "string", "pattern": "(?=a)"}, r"^llama.cpp's grammar cannot express the pattern '\(\?=a\)': use "),
    ],
)
def test_an_unsupported_type_or_pattern_is_refused_before_anything_is_sent(annotation: Any, message: str) -> None:
    client = LlamaCppClient("http://127.0.0.1:9")  # nothing listens there
    for call in (client.chat_json, client.chat_json_stream, AsyncLlamaCppClient("http://127.0.0.1:9").chat_json_stream):
        with pytest.raises(TypeError, match=message):
            call("Hi", annotation)


# --- invalid answers --------------------------------------------------------------------------------------------------

HOSTILE = "[" * 100_000
INVALID_ANSWERS = [
    (
        '{"name": "Ada", "pets": [{"na',
        "length",
        r"the model ran out of tokens at pets\[0\], after 7 of them: raise max_tok",
    ),
    ('{"name": "A', "length", "the model ran out of tokens at name, after 7 of them: raise max_tokens, or bound what "),
    ("", "length", "the model ran out of tokens, after 7 of them: raise"),
    ("", "stop", "the answer is empty"),
    ("Sure! Here", "stop", 'the answer is not JSON: expected a value, got "Sure! Here"'),
    ('{"name": Ada}', "stop", 'the answer is not JSON at name: expected a value, got "Ada}"'),
    ('{"name": "Ada", "pets": [', "stop", r"the answer is not JSON at pets\[0\]: it ends too early"),
    ('{"name": "Ada"}', "stop", "the answer does not fit: pets: missing"),
    (
        '{"name": "Ada", "pets": [{"name": 5}]}',
        "stop",
        r"the answer does not fit: pets\[0\].name: expected a string, got 5",
    ),
    ('{"name": NaN}', "stop", 'the answer is not JSON at name: expected a value, got "NaN}"'),
    ('{"name": "a", "pets": [], "age": ' + "1" * 5000 + "}", "stop", "the answer is not JSON at age: "),
    (
        '{"name": "a", "pets": [], "age": 1e999}',
        "stop",
        "the answer does not fit: age: expected an integer or null, got Inf",
    ),
    (HOSTILE, "stop", r"the answer is not JSON at (\[0\]){10}…(\[0\]){10}: nested deeper than 1000$"),
    ('{"name": "a\x00', "stop", "the answer is not JSON at name: expected a character of a string, got "),
]


@pytest.mark.parametrize(("text", "finish_reason", "message"), INVALID_ANSWERS)
def test_an_invalid_answer_is_an_error_with_its_text(
    text: str, finish_reason: str, message: str, httpserver: HTTPServer, endpoint: str
) -> None:
    always(httpserver, answer(text, finish_reason))
    with pytest.raises(StructuredOutputError) as raised:
        LlamaCppClient(endpoint).chat_json("Hi", Person)
    assert raised.match(f"^{message}")
    error = raised.value
    assert "\n" not in str(error)
    assert len(str(error)) < 200
    assert error.text == text
    assert error.response is not None
    assert error.response.finish_reason == finish_reason
    assert isinstance(error, FlynnError)
    assert isinstance(error, ValueError)


def test_a_tool_call_instead_of_an_answer_is_an_error(httpserver: HTTPServer, endpoint: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    always(httpserver, answer(None, "tool_calls", tool_calls=[call]))
    with pytest.raises(StructuredOutputError, match="^the model calls tools instead of answering$"):
        LlamaCppClient(endpoint).chat_json("Hi", Person)


def test_a_complete_value_at_the_token_limit_is_an_answer(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, answer(TEXT, "length"))
    assert LlamaCppClient(endpoint).chat_json("Hi", Person) == ADA


def test_a_number_at_the_token_limit_is_incomplete(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, answer("12", "length"), answer("12"))
    client = LlamaCppClient(endpoint)
    with pytest.raises(StructuredOutputError, match="^the model ran out of tokens, after 7 of them"):
        client.chat_json("Hi", int)
    assert client.chat_json("Hi", int) == 12


class Silent(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("not even a message")


@dataclass
class Refusing:
    value: int

    def __post_init__(self) -> None:
        raise Silent


def test_an_exception_whose_str_fails_is_named_by_its_class(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, answer('{"value": 1}'))
    with pytest.raises(StructuredOutputError, match="^the answer does not fit: Silent$"):
        LlamaCppClient(endpoint).chat_json("Hi", Refusing)


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(StructuredOutputError("the answer is empty")))
    assert (str(error), error.text, error.response) == ("the answer is empty", "", None)


# --- retries ----------------------------------------------------------------------------------------------------------


def test_a_retry_tells_the_model_why_its_answer_does_not_fit(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, answer('{"name": "Ada"}'), answer(TEXT))
    assert LlamaCppClient(endpoint).chat_json("Invent a person", Person, retries=2, seed=1) == ADA
    first, second = sent(httpserver)
    assert second.json["messages"] == [
        *first.json["messages"],
        {"role": "assistant", "content": '{"name": "Ada"}'},
        {
            "role": "user",
            "content": "Your last answer cannot be used: the answer does not fit: pets: missing. "
            "Answer once more, with JSON only.",
        },
    ]
    assert {**second.json, "messages": ()} == {**first.json, "messages": ()}


def test_a_retry_after_a_truncated_answer_says_that_it_was_too_long(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, answer('{"name": "A', "length"), answer(TEXT))
    assert LlamaCppClient(endpoint).chat_json("Hi", Person, retries=1) == ADA
    assert "cannot be used: it is too long." in sent(httpserver)[1].json["messages"][-1]["content"]


def test_retries_limits_the_number_of_requests(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, answer("[]"), answer("{}"), answer("1"))
    with pytest.raises(StructuredOutputError, match="expected an object, got 1$") as raised:
        LlamaCppClient(endpoint).chat_json((part for part in [Message("user", "Hi")]), Person, retries=2)  # type: ignore[arg-type]
    assert raised.value.text == "1"
    assert [len(request.json["messages"]) for request in sent(httpserver)] == [1, 3, 5]


@pytest.mark.parametrize("retries", [-1, 1.5, "1", None])
def test_retries_must_be_a_whole_number(retries: Any) -> None:
    with pytest.raises(ValueError, match="^retries must be a whole number, 0 or more, not "):
        LlamaCppClient("http://127.0.0.1:9").chat_json("Hi", Person, retries=retries)


def test_a_server_error_is_not_retried(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, reply({"error": {"message": "no"}}, 500))
    with pytest.raises(FlynnError, match="^no$"):
        LlamaCppClient(endpoint).chat_json("Hi", Person, retries=5)


# --- streamed ---------------------------------------------------------------------------------------------------------


def test_a_stream_yields_the_value_so_far_and_ends_with_the_instance(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, streamed('{"name": "Ada", "pets": [{"name": "Rex"}]}', size=4))
    with LlamaCppClient(endpoint).chat_json_stream("Hi", Person) as stream:
        seen = [json.dumps(value) for value in stream]
    assert seen == [
        "{}",
        '{"name": "Ad"}',
        '{"name": "Ada"}',
        '{"name": "Ada", "pets": [{}]}',
        '{"name": "Ada", "pets": [{"name": "R"}]}',
        '{"name": "Ada", "pets": [{"name": "Rex"}]}',
    ]
    assert stream.result == ADA
    assert stream.value == {"name": "Ada", "pets": [{"name": "Rex"}]}
    assert stream.response.content.startswith('{"name"')
    (request,) = sent(httpserver)
    assert request.json["response_format"]["type"] == "json_schema"
    assert request.json["stream"] is True


def test_the_result_of_a_stream_with_a_json_schema_is_json(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, streamed('{"a": [1]}'))
    stream = LlamaCppClient(endpoint).chat_json_stream("Hi", {"type": "object"})
    list(stream)
    assert stream.result == {"a": [1]}


def test_a_stream_takes_the_options_of_chat_stream(httpserver: HTTPServer, endpoint: str) -> None:
    in_turn(httpserver, streamed(TEXT), reply(status=204))
    stream = LlamaCppClient(endpoint).chat_json_stream("Hi", Person, resume=True, timeout=5, seed=1)
    list(stream)
    assert stream.resumes == 0
    assert "X-Conversation-Id" in sent(httpserver)[0].headers
    assert sent(httpserver)[0].json["seed"] == 1


@pytest.mark.parametrize(("text", "finish_reason", "message"), INVALID_ANSWERS)
def test_an_invalid_answer_in_a_stream_raises_the_same_error(
    text: str, finish_reason: str, message: str, httpserver: HTTPServer, endpoint: str
) -> None:
    always(httpserver, streamed(text, finish_reason, size=10**6))
    stream = LlamaCppClient(endpoint).chat_json_stream("Hi", Person)
    with pytest.raises(StructuredOutputError, match=f"^{message.replace(', after 7 of them', '')}"):
        list(stream)
    with pytest.raises(StructuredOutputError, match="^there is no result: "):
        stream.result  # noqa: B018


# Raw sockets from here on: pytest-httpserver cannot stop in the middle of a stream.


def unfinished(*texts: str) -> Script:
    """Play a stream that stops in the middle, and wait until the client disconnects."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD + b"".join(chunk(delta(text)) for text in texts))
        peer.stall()

    return script


def test_a_stream_is_closed_at_the_first_text_that_cannot_be_json() -> None:
    with serve(unfinished('{"name": "Ada"', " oops")) as server:
        stream = LlamaCppClient(server.endpoint).chat_json_stream("Hi", Person)
        with pytest.raises(StructuredOutputError) as raised:
            list(stream)
        assert str(raised.value) == 'the answer is not JSON at name: expected a comma or }, got "oops"'
        assert raised.value.text == '{"name": "Ada" oops'
        eventually(lambda: server.closed == 1)


def test_a_closed_stream_has_no_result() -> None:
    with serve(unfinished('{"name": "Ad')) as server:
        with LlamaCppClient(server.endpoint).chat_json_stream("Hi", Person) as stream:
            assert next(stream) == {"name": "Ad"}
        assert list(stream) == []
        assert stream.value == {"name": "Ad"}
        with pytest.raises(StructuredOutputError, match="^there is no result: the stream was not read to its end"):
            stream.result  # noqa: B018
        eventually(lambda: server.closed == 1)


def test_a_stream_without_references_is_closed() -> None:
    with serve(unfinished("[1, 2, ")) as server:
        stream = LlamaCppClient(server.endpoint).chat_json_stream("Hi", List[int])
        assert next(stream) == [1, 2]
        del stream
        eventually(lambda: server.closed == 1)


# --- asynchronous -----------------------------------------------------------------------------------------------------


def test_asynchronous_calls_return_the_same(httpserver: HTTPServer, endpoint: str) -> None:
    async def main() -> List[Any]:
        async with AsyncLlamaCppClient(endpoint) as client:
            instance = await client.chat_json("Hi", Person, retries=1)
            async with client.chat_json_stream("Hi", Person) as stream:
                seen = [json.dumps(value) async for value in stream]
            return [instance, stream.result, seen[0], seen[-1]]

    in_turn(httpserver, answer("{}"), answer(TEXT), streamed(TEXT))
    assert asyncio.run(main()) == [ADA, ADA, "{}", TEXT]


def test_asynchronous_calls_raise_the_same_errors(httpserver: HTTPServer, endpoint: str) -> None:
    async def main() -> None:
        async with AsyncLlamaCppClient(endpoint) as client:
            with pytest.raises(StructuredOutputError, match="^the model ran out of tokens at name"):
                await client.chat_json("Hi", Person)
            stream = client.chat_json_stream("Hi", Person)
            with pytest.raises(StructuredOutputError, match="^the model ran out of tokens at name"):
                async for _ in stream:
                    pass
            with pytest.raises(StructuredOutputError, match="^the answer is not JSON: expected a value"):
                async for _ in client.chat_json_stream("Hi", Person):
                    pass

    in_turn(httpserver, answer('{"name": "', "length"), streamed('{"name": "', "length"), streamed("No, endless"))
    asyncio.run(main())


def test_a_cancelled_task_closes_its_stream() -> None:
    async def main(endpoint: str) -> None:
        async def read() -> None:
            async for value in AsyncLlamaCppClient(endpoint).chat_json_stream("Hi", List[int]):
                seen.append(list(value))
                begun.set()

        begun, seen = asyncio.Event(), []  # type: ignore[var-annotated]
        task = asyncio.ensure_future(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [[1, 2]]

    with serve(unfinished("[1, 2, ")) as server:
        asyncio.run(main(server.endpoint))
        eventually(lambda: server.closed == 1)


# --- imports ----------------------------------------------------------------------------------------------------------


def test_a_chat_imports_neither_structured_nor_tools(httpserver: HTTPServer, endpoint: str) -> None:
    program = """
import sys
from flynn import LlamaCppClient
list(LlamaCppClient(sys.argv[1]).chat_stream("Hi"))
print(*sys.modules)
"""
    always(httpserver, streamed("Hi"))
    command = [sys.executable, "-S", "-E", "-c", program, endpoint]
    process = subprocess.run(command, capture_output=True, text=True, cwd=Path(flynn.__file__).parents[1], timeout=60)
    loaded = set(process.stdout.split())
    assert "flynn.models.local.llamacpp" in loaded, process.stderr
    assert not any(name.startswith(("flynn.structured", "flynn.tools")) for name in loaded)
