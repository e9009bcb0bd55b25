"""`chat` with functions as tools and with types: the request, and `parsed` in the response."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Dict

import pytest
from answers import Answer, always, events, in_turn, reply, sent
from pytest_httpserver import HTTPServer
from scripted import delta

from flynn import (
    AsyncLlamaCppClient,
    Conversation,
    LlamaCppClient,
    Message,
    StructuredOutputError,
    Tool,
)

DEFINITION = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


@dataclass
class City:
    name: str


def get_weather(city: City, days: int = 1) -> str:
    """Tell the weather.

    Args:
        city:where
    """
    return f"{city.name}, {days}"


def calling(*calls: Any, finish_reason: str = "tool_calls") -> Answer:
    """Return a reply with tool calls, given as pairs of name and arguments."""
    return reply({"choices": [choice("", *calls, finish_reason=finish_reason)]})


def choice(content: str, *calls: Any, finish_reason: str = "stop") -> Dict[str, Any]:
    functions = [{"id": "1", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    message = {"role": "assistant", "content": content, "tool_calls": functions}
    return {"message": message, "finish_reason": finish_reason}


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", [get_weather, Tool(get_weather)])
def test_a_function_among_the_tools_is_described_to_the_model(tool: Any, httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, calling(("get_weather", '{"city": {"name": "Oslo"}}')))
    LlamaCppClient(endpoint).chat("Weather?", tools=[tool, DEFINITION])
    described, other = sent(httpserver)[0].json["tools"]
    assert described["function"]["name"] == "get_weather"
    assert described["function"]["parameters"]["properties"]["city"]["description"] == "where"
    assert other == DEFINITION


def test_a_call_has_parsed_arguments_for_the_function(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, calling(("get_weather", '{"city": {"name": "Oslo"}, "days": 3}')))
    (call,) = LlamaCppClient(endpoint).chat("Weather?", tools=[get_weather]).tool_calls
    assert call.parsed == {"city": City("Oslo"), "days": 3}
    assert get_weather(**call.parsed) == "Oslo, 3"
    assert call.arguments == '{"city": {"name": "Oslo"}, "days": 3}'


def test_the_call_of_a_tool_given_as_a_mapping_is_not_parsed(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, calling(("search", "[")))
    (call,) = LlamaCppClient(endpoint).chat("Hi", tools=[get_weather, DEFINITION]).tool_calls
    assert call.parsed is None


@pytest.mark.parametrize(
    ("arguments", "finish_reason", "message"),
    [
        ('{"city": 1}', "tool_calls", "the call of get_weather does not fit: city: expected an object, got 1"),
        ("{", "length", r"the call of get_weather .*\(the model ran out of tokens: raise max_tokens\)"),
    ],
)
def test_invalid_arguments_are_an_error_with_the_response(
    arguments: str, finish_reason: str, message: str, httpserver: HTTPServer, endpoint: str
) -> None:
    always(httpserver, calling(("get_weather", arguments), finish_reason=finish_reason))
    with pytest.raises(StructuredOutputError, match=f"^{message}$") as raised:
        LlamaCppClient(endpoint).chat("Hi", tools=[get_weather])
    assert raised.value.response is not None
    assert raised.value.response.tool_calls[0].arguments == arguments


def test_the_message_of_a_call_is_sent_back_unchanged(httpserver: HTTPServer, endpoint: str) -> None:
    arguments = '{"city": {"name": "Oslo"}}'
    in_turn(httpserver, calling(("get_weather", arguments)), reply({"choices": [choice("Cold.")]}))
    client = LlamaCppClient(endpoint)
    message = client.chat("Weather?", tools=[get_weather]).message
    client.chat([Message("user", "Weather?"), message, Message("tool", "-5 °C", tool_call_id="1")])
    (call,) = sent(httpserver)[1].json["messages"][1]["tool_calls"]
    assert call == {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def test_the_response_of_a_stream_has_the_parsed_arguments(httpserver: HTTPServer, endpoint: str) -> None:
    pieces = ['{"city": {"na', 'me": "Oslo"}}']
    fragments = [{"index": 0, "id": "1", "function": {"name": "get_weather", "arguments": pieces[0]}}]
    fragments += [{"index": 0, "function": {"arguments": pieces[1]}}]
    always(httpserver, events(*(delta(tool_calls=[one]) for one in fragments), delta(finish_reason="tool_calls")))
    with LlamaCppClient(endpoint).chat_stream("Hi", tools=[get_weather]) as stream:
        *_, done = stream
    assert done.response.tool_calls[0].parsed == {"city": City("Oslo")}
    assert stream.response.tool_calls[0].parsed == {"city": City("Oslo")}


def test_an_asynchronous_chat_has_parsed_arguments(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, calling(("get_weather", '{"city": {"name": "Oslo"}}')))

    async def ask() -> Any:
        async with AsyncLlamaCppClient(endpoint) as client:
            return (await client.chat("Weather?", tools=[get_weather])).tool_calls[0].parsed

    assert asyncio.run(ask()) == {"city": City("Oslo")}


def test_a_conversation_accepts_functions_and_types(httpserver: HTTPServer, endpoint: str) -> None:
    httpserver.expect_request("/props").respond_with_json({"default_generation_settings": {"n_ctx": 4096}})
    httpserver.expect_request("/v1/chat/completions").respond_with_json({"choices": [choice('{"name": "Oslo"}')]})
    conversation = Conversation(LlamaCppClient(endpoint), tools=[get_weather])
    assert conversation.chat("Where?", response_format=City).parsed == City("Oslo")


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        (get_weather, "tools must be a list, not function"),
        ([get_weather, "search"], "a tool is a function or a flynn.Tool, not str"),
        ([lambda: 1], "<function .* has no name; describe it yourself"),
    ],
)
def test_an_invalid_tool_is_refused_before_anything_is_sent(tools: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}"):
        LlamaCppClient("http://localhost:1").chat("Hi", tools=tools)


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["response_format", "json_schema"])
def test_the_answer_for_a_type_is_an_instance(option: str, httpserver: HTTPServer, endpoint: str) -> None:
    message = {"role": "assistant", "content": '{"name": "Oslo"}', "reasoning_content": "Norway"}
    usage = {"prompt_tokens": 5, "completion_tokens": 9}
    always(httpserver, reply({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}))
    response = LlamaCppClient(endpoint).chat("Where?", **{option: City})  # type: ignore[arg-type]
    assert response.parsed == City("Oslo")
    assert (response.content, response.reasoning) == ('{"name": "Oslo"}', "Norway")
    assert response.usage is not None
    assert response.usage.completion_tokens == 9
    body = sent(httpserver)[0].json
    assert body["response_format"]["json_schema"]["schema"]["properties"] == {"name": {"type": "string"}}
    assert "json_schema" not in body


def test_each_choice_has_its_own_instance(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply({"choices": [choice('{"name": "Oslo"}'), choice("{}"), choice('{"name": "Rome"}')]}))
    response = LlamaCppClient(endpoint).chat("Where?", response_format=City, n=3)
    assert [one.parsed for one in response.choices] == [City("Oslo"), None, City("Rome")]


def test_an_answer_in_which_no_choice_fits_is_an_error(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply({"choices": [choice("{}"), choice("[]")]}))
    with pytest.raises(StructuredOutputError, match="^the answer does not fit: name: missing$"):
        LlamaCppClient(endpoint).chat("Where?", response_format=City, n=2)


def test_a_tool_call_is_accepted_instead_of_an_instance(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, calling(("get_weather", '{"city": {"name": "Oslo"}}')))
    response = LlamaCppClient(endpoint).chat("Where?", response_format=City, tools=[get_weather])
    assert response.parsed is None
    assert response.tool_calls[0].parsed == {"city": City("Oslo")}


def test_the_response_of_a_stream_has_the_instance(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, events(delta('{"name": '), delta('"Oslo"}'), delta(finish_reason="stop")))
    with LlamaCppClient(endpoint).chat_stream("Where?", response_format=City) as stream:
        texts = [event.text for event in stream if event.type == "content"]
    assert texts == ['{"name": ', '"Oslo"}']
    assert stream.response.parsed == City("Oslo")


def test_a_stream_whose_answer_does_not_fit_ends_with_an_error(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, events(delta("{}"), delta(finish_reason="stop")))
    with LlamaCppClient(endpoint).chat_stream("Where?", response_format=City) as stream:
        assert next(stream).type == "content"
        with pytest.raises(StructuredOutputError, match="^the answer does not fit: name: missing$"):
            next(stream)
    assert stream.response.content == "{}"


# --- forced calls -----------------------------------------------------------------------------------------------------

FORCED = [{"tool_choice": "required"}, {"tool_choice": {"type": "function", "function": {"name": "search"}}}]


@pytest.mark.parametrize("options", FORCED)
def test_the_error_for_a_missing_forced_call_names_the_chat_template(
    options: Any, httpserver: HTTPServer, endpoint: str
) -> None:
    always(httpserver, reply({"choices": [choice("I cannot.")]}))
    with pytest.raises(StructuredOutputError, match="chat template probably knows no tools") as raised:
        LlamaCppClient(endpoint).chat("Hi", tools=[DEFINITION], **options)
    assert raised.value.text == "I cannot."


def test_the_error_for_a_forced_call_at_the_token_limit_names_max_tokens(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply({"choices": [choice("I", finish_reason="length")]}))
    with pytest.raises(StructuredOutputError, match="raise max_tokens$"):
        LlamaCppClient(endpoint).chat("Hi", tools=[DEFINITION], tool_choice="required")


def test_a_missing_forced_call_ends_run_tools_with_an_error(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply({"choices": [choice("I cannot.")]}))
    with pytest.raises(StructuredOutputError, match="chat template probably knows no tools"):
        LlamaCppClient(endpoint).run_tools("Hi", [get_weather], tool_choice="required").answer()


@pytest.mark.parametrize("options", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}])
def test_a_call_that_is_not_forced_may_be_missing(options: Any, httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply({"choices": [choice("Hello.")]}))
    assert LlamaCppClient(endpoint).chat("Hi", tools=[DEFINITION], **options).content == "Hello."


# --- options of a call ------------------------------------------------------------------------------------------------


def test_headers_of_a_call_are_sent_for_typed_answers_and_every_request_of_run_tools(
    httpserver: HTTPServer, endpoint: str
) -> None:
    text = '{"name": "Oslo"}'
    in_turn(
        httpserver,
        reply({"choices": [choice(text)]}),
        events(delta(text), delta(finish_reason="stop")),
        calling(("get_weather", json.dumps({"city": {"name": "Oslo"}}))),
        reply({"choices": [choice("Cold.")]}),
    )
    client, headers = LlamaCppClient(endpoint), {"X-Trace": "7"}
    assert client.chat_json("Where?", City, headers=headers) == City("Oslo")
    with client.chat_json_stream("Where?", City, headers=headers) as stream:
        list(stream)
    assert client.run_tools("Weather?", [get_weather], headers=headers).answer().content == "Cold."
    assert [request.headers["X-Trace"] for request in sent(httpserver)] == ["7"] * 4
