"""run_tools: the model calls Python functions until it answers. With both clients, streamed and not."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import gc
import json
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest
from real_server import RealServer
from scripted import STREAM_HEAD, ScriptedServer, answering, chunk, delta, eventually, response, serve, stream

from flynn import AsyncLlamaCppClient, ChatRequest, FlynnError, LlamaCppClient, Message, Tool, ToolRoundsError
from flynn.tools.loop import MAX_CALLS

Call = Tuple[str, str]  # name and arguments


def get_weather(city: str, days: int = 1) -> str:
    """Tell the weather.

    Args:
        city: its name
    """
    return f"{22 + days} °C in {city}"


def broken() -> None:
    raise RuntimeError("no\nnetwork")


class Mode:
    """One of the four ways to run tools: with either client, streamed or not."""

    def __init__(self, asynchronous: bool, streamed: bool) -> None:
        self.asynchronous, self.streamed = asynchronous, streamed

    def serve(self, *replies: Any, finish_reason: str = "tool_calls") -> ScriptedServer:
        """Start a server that gives these replies, each a text or a list of calls."""
        return serve(answering(*(self._response(reply, finish_reason) for reply in replies)))

    def _response(self, reply: Any, finish_reason: str) -> bytes:
        text, pairs = (reply, []) if isinstance(reply, str) else ("", reply)
        functions = [{"name": name, "arguments": arguments} for name, arguments in pairs]
        calls = [{"id": f"c{index}", "function": function} for index, function in enumerate(functions)]
        reason = "stop" if text else finish_reason
        if self.streamed:
            fragments = [delta(tool_calls=[{"index": index, **call}]) for index, call in enumerate(calls)]
            return stream(*([delta(text)] if text else []), *fragments, delta(finish_reason=reason))
        message = {"role": "assistant", "content": text, "tool_calls": calls}
        return response(json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode())

    def run(self, server: ScriptedServer, tools: Sequence[Any], prompt: Any = "Weather?", **options: Any) -> Outcome:
        if self.asynchronous:
            return asyncio.run(self._run(server, tools, prompt, options))
        with LlamaCppClient(server.endpoint) as client:
            run = client.run_tools(prompt, tools, stream=self.streamed, **options)
            return Outcome(list(run), run.answer(), run.messages)

    async def _run(self, server: ScriptedServer, tools: Sequence[Any], prompt: Any, options: Dict[str, Any]) -> Outcome:
        async with AsyncLlamaCppClient(server.endpoint) as client:
            run = client.run_tools(prompt, tools, stream=self.streamed, **options)
            steps = [step async for step in run]
            return Outcome(steps, await run.answer(), run.messages)


@dataclasses.dataclass
class Outcome:
    steps: List[Any]
    answer: Any
    messages: List[Any]

    @property
    def results(self) -> List[Any]:
        return [step for step in self.steps if step.type == "tool_result"]


@pytest.fixture(
    params=[(False, False), (False, True), (True, False), (True, True)],
    ids=["sync", "sync-stream", "async", "async-stream"],
)
def mode(request: pytest.FixtureRequest) -> Mode:
    return Mode(*request.param)


def weather_in(city: str) -> Call:
    return ("get_weather", json.dumps({"city": city}))


def sent(server: ScriptedServer, number: int) -> Dict[str, Any]:
    """Return the body of a request."""
    body: Dict[str, Any] = server.requests[number].json
    return body


def results_sent(server: ScriptedServer, number: int = 1) -> List[str]:
    """Return the results of tools that a request contains."""
    return [message["content"] for message in sent(server, number)["messages"] if message["role"] == "tool"]


# --- a run ------------------------------------------------------------------------------------------------------------


def test_calls_are_made_and_their_results_sent_until_the_model_answers(mode: Mode) -> None:
    with mode.serve([weather_in("Oslo"), weather_in("Rome")], [weather_in("Paris")], "Warm.") as server:
        outcome = mode.run(server, [get_weather])
    first, second, third = (sent(server, number) for number in range(3))
    assert first["messages"] == [{"role": "user", "content": "Weather?"}]
    assert first["tools"] == second["tools"] == third["tools"] == [Tool(get_weather).definition]
    assert second["messages"] == [
        *first["messages"],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": f"c{index}", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
                for index, (_, arguments) in enumerate([weather_in("Oslo"), weather_in("Rome")])
            ],
        },
        {"role": "tool", "name": "get_weather", "tool_call_id": "c0", "content": "23 °C in Oslo"},
        {"role": "tool", "name": "get_weather", "tool_call_id": "c1", "content": "23 °C in Rome"},
    ]
    assert results_sent(server, 2) == ["23 °C in Oslo", "23 °C in Rome", "23 °C in Paris"]
    assert outcome.answer.content == "Warm."


def test_the_steps_of_a_run_come_in_order(mode: Mode) -> None:
    with mode.serve([weather_in("Oslo"), ("broken", "")], "Warm.") as server:
        outcome = mode.run(server, [get_weather, broken])
    complete = [step for step in outcome.steps if step.type in ("done", "tool_result")]
    assert [step.type for step in complete] == ["done", "tool_result", "tool_result", "done"]
    assert [call.name for call in complete[0].response.tool_calls] == ["get_weather", "broken"]
    assert (complete[1].call, complete[1].content, complete[1].error) == (
        complete[0].response.tool_calls[0],
        "23 °C in Oslo",
        None,
    )
    assert isinstance(complete[2].error, RuntimeError)
    assert complete[3].response is outcome.answer
    pieces = [step.type for step in outcome.steps if step not in complete]
    assert pieces == (["tool_call", "tool_call", "content"] if mode.streamed else [])


def test_a_conversation_can_go_on_with_the_messages_of_a_run(mode: Mode) -> None:
    with mode.serve([weather_in("Oslo")], "Warm.") as server:
        messages = mode.run(server, [get_weather]).messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    with mode.serve("Cold.") as server:
        mode.run(server, [get_weather], [*messages, Message("user", "And in Rome?")])
    roles = [message["role"] for message in sent(server, 0)["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_answer_runs_all_steps() -> None:
    with Mode(False, False).serve([weather_in("Oslo")], "Warm.") as server:
        client = LlamaCppClient(server.endpoint)
        assert client.run_tools("Weather?", [get_weather]).answer().content == "Warm."
    with Mode(True, False).serve([weather_in("Oslo")], "Warm.") as server:
        asynchronous = AsyncLlamaCppClient(server.endpoint)
        assert asyncio.run(asynchronous.run_tools("Weather?", [get_weather]).answer()).content == "Warm."


def test_nothing_is_sent_before_the_first_step_and_nothing_called_before_the_second() -> None:
    called: List[str] = []
    with Mode(False, False).serve([weather_in("Oslo")], "Warm.") as server:
        run = LlamaCppClient(server.endpoint).run_tools("Weather?", [Tool(called.append, WEATHER)])
        assert server.requests == []
        assert next(run).type == "done"
        run.close()
        assert list(run) == []
    assert (called, len(server.requests)) == ([], 1)
    assert run.messages == [Message("user", "Weather?")]
    with pytest.raises(RuntimeError, match="^the run ended without an answer$"):
        run.answer()


def test_messages_grow_by_complete_rounds() -> None:
    with Mode(False, False).serve([weather_in("Oslo"), weather_in("Rome")], "Warm.") as server:
        run = LlamaCppClient(server.endpoint).run_tools("Weather?", [get_weather])
        lengths = [len(run.messages) for _ in run]
    assert lengths == [1, 1, 4, 5]


WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


ENDLESS = STREAM_HEAD + chunk(delta("word ")) * 3


def test_leaving_a_streamed_run_closes_its_stream() -> None:
    with serve(answering(ENDLESS)) as server:
        with LlamaCppClient(server.endpoint).run_tools("Weather?", [get_weather], stream=True) as run:
            for step in run:
                assert step.type == "content"
                break
        eventually(lambda: server.closed == 1)

    async def leave() -> None:
        async with AsyncLlamaCppClient(server.endpoint).run_tools("Weather?", [get_weather], stream=True) as run:
            async for step in run:
                assert step.type == "content"
                break
        eventually(lambda: server.closed == 1)

    with serve(answering(ENDLESS)) as server:
        asyncio.run(leave())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_streamed_run_without_references_closes_its_stream(asynchronous: bool) -> None:
    def start() -> None:
        run = LlamaCppClient(server.endpoint).run_tools("Weather?", [get_weather], stream=True)
        assert next(run).type == "content"

    async def start_asynchronously() -> None:
        run = AsyncLlamaCppClient(server.endpoint).run_tools("Weather?", [get_weather], stream=True)
        assert (await run.__anext__()).type == "content"
        del run
        while server.closed == 0:
            await asyncio.sleep(0.01)

    gc.disable()
    try:
        with serve(answering(ENDLESS)) as server:
            asyncio.run(start_asynchronously()) if asynchronous else start()
            eventually(lambda: server.closed == 1)
    finally:
        gc.enable()


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", "auto", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_choice_forces_a_call_in_the_first_round_only(mode: Mode, choice: Any) -> None:
    with mode.serve([weather_in("Oslo")], [weather_in("Rome")], "Warm.") as server:
        mode.run(server, [broken, get_weather], tool_choice=choice)
    first, *others = (sent(server, number) for number in range(3))
    named = isinstance(choice, dict)
    assert first["tool_choice"] == ("required" if named else choice)
    assert len(first["tools"]) == (1 if named else 2)
    for other in others:
        assert (other["tool_choice"], len(other["tools"])) == ("auto", 2)


def test_a_tool_choice_in_the_defaults_of_the_client_forces_only_the_first_round() -> None:
    with Mode(False, False).serve([weather_in("Oslo")], "Warm.") as server:
        client = LlamaCppClient(server.endpoint, defaults={"tool_choice": "required"})
        client.run_tools("Weather?", [get_weather]).answer()
    assert [sent(server, number)["tool_choice"] for number in range(2)] == ["required", "auto"]


@pytest.mark.parametrize("choice", [None, "none"])
def test_a_tool_choice_that_forces_no_call_is_unchanged(mode: Mode, choice: Optional[str]) -> None:
    with mode.serve([weather_in("Oslo")], "Warm.") as server:
        mode.run(server, [get_weather], tool_choice=choice)
    assert [sent(server, number).get("tool_choice") for number in range(2)] == [choice, choice]


def test_other_options_go_with_every_request(mode: Mode) -> None:
    request = ChatRequest([Message("user", "Hi")], max_tokens=9)
    with mode.serve([weather_in("Oslo")], "Warm.") as server:
        mode.run(server, [get_weather], request, parallel_tool_calls=True, temperature=0, timeout=30)
    for number in range(2):
        body = sent(server, number)
        assert (body["max_tokens"], body["parallel_tool_calls"], body["temperature"]) == (9, True, 0)


def test_the_timeout_applies_to_each_request(mode: Mode) -> None:
    with serve(lambda peer: peer.stall()) as server, pytest.raises(TimeoutError):
        mode.run(server, [get_weather], timeout=0.2)


@pytest.mark.parametrize(
    ("tools", "options", "error", "message"),
    [
        ([get_weather], {"max_rounds": 0}, ValueError, "max_rounds must be a whole number above 0, not 0"),
        ([get_weather], {"max_result": "1"}, ValueError, "max_result must be a whole number above 0, not '1'"),
        ([get_weather, get_weather], {}, ValueError, "two tools have the name 'get_weather'"),
        ([get_weather], {"temprature": 1}, TypeError, "unknown option 'temprature'; did you mean 'temperature'"),
        ([lambda: 1], {}, TypeError, "<function .* has no name"),
    ],
)
def test_invalid_tools_and_options_are_refused_at_once(tools: Any, options: Any, error: Any, message: str) -> None:
    for client in (LlamaCppClient("http://localhost:1"), AsyncLlamaCppClient("http://localhost:1")):
        with pytest.raises(error, match=f"^{message}"):
            client.run_tools("Hi", tools, **options)


def test_a_request_with_tools_of_its_own_is_refused() -> None:
    with pytest.raises(TypeError, match=r"flynn\.Tool\(function, definition\)"):
        LlamaCppClient("http://localhost:1").run_tools(ChatRequest([], tools=[WEATHER]), [get_weather])


# --- a model that misbehaves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("broken", "{}", "RuntimeError: no network"),
        ("brokn", "{}", "no tool is named 'brokn'; did you mean 'broken'? (expected one of: get_weather, broken)"),
        ("", "{}", "no tool is named '' (expected one of: get_weather, broken)"),
        ("get_weather", "{}", "city: missing"),
        ("get_weather", '{"city": 3}', "city: expected a string, got 3"),
        ("get_weather", '{"city": "", "dais": 2}', "dais: get_weather has no such key; did you mean 'days'?"),
        ("get_weather", '"Oslo"', "the arguments are not a JSON object with a member for each"),
        ("get_weather", "{'city'}", "the arguments are not JSON: Expecting property name enclosed in double quotes: "),
    ],
)
def test_a_failed_call_is_a_one_line_error_for_the_model(mode: Mode, name: str, arguments: str, line: str) -> None:
    with mode.serve([(name, arguments)], "Sorry.") as server:
        outcome = mode.run(server, [get_weather, broken])
    assert results_sent(server)[0].startswith(f"error: {line}")
    assert "\n" not in results_sent(server)[0]
    assert (outcome.results[0].content, outcome.answer.content) == (results_sent(server)[0], "Sorry.")
    assert isinstance(outcome.results[0].error, (RuntimeError, ValueError))


# Python's json accepts the last three.
UNREADABLE = ["", "{", "null", "[1]", '"x"', "nonsense", '{"x": NaN}', '{"x": 1e999}', r'{"x": "\ud800"}']


@pytest.mark.parametrize("arguments", [*UNREADABLE, '{"x": 1%s}' % ("0" * 400)])
def test_arguments_that_llama_server_refuses_are_not_sent_back(mode: Mode, arguments: str) -> None:
    """llama-server answers 500 to messages with arguments that its JSON parser refuses."""
    with mode.serve([("get_weather", arguments)], "Sorry.") as server:
        outcome = mode.run(server, [get_weather])
    (call,) = sent(server, 1)["messages"][1]["tool_calls"]
    assert call["function"]["arguments"] == "{}"
    assert outcome.results[0].call.arguments == arguments


def test_the_error_of_a_call_cut_at_the_token_limit_says_so(mode: Mode) -> None:
    with mode.serve([("get_weather", '{"city": "Os')], "Sorry.", finish_reason="length") as server:
        mode.run(server, [get_weather])
    assert results_sent(server)[0].endswith(" (the reply was cut at the token limit)")


def test_a_model_that_never_answers_is_stopped_after_max_rounds(mode: Mode) -> None:
    called = []

    def look(city: str) -> str:
        called.append(city)
        return "nothing"

    calls = [("look", json.dumps({"city": str(number)})) for number in range(3)]
    raised = pytest.raises(ToolRoundsError, match="^the model still calls tools after 3 rounds$")
    with mode.serve(*([call] for call in calls)) as server, raised as caught:
        mode.run(server, [look], max_rounds=3)
    assert isinstance(caught.value, FlynnError)
    assert caught.value.response is not None
    assert caught.value.response.tool_calls[0].arguments == '{"city": "2"}'
    assert (called, len(server.requests)) == (["0", "1"], 3)


def test_one_round_is_one_request(mode: Mode) -> None:
    with mode.serve("Warm.") as server:
        assert mode.run(server, [get_weather], max_rounds=1).answer.content == "Warm."


def test_the_number_of_calls_in_a_reply_is_limited(mode: Mode) -> None:
    called = []

    def note(number: int) -> None:
        called.append(number)

    numbers = range(MAX_CALLS + 3)
    with mode.serve([("note", json.dumps({"number": number})) for number in numbers], "Ok.") as server:
        outcome = mode.run(server, [note])
    assert sorted(called) == list(numbers)[:MAX_CALLS]
    assert len(results_sent(server)) == len(outcome.results) == MAX_CALLS
    assert len(sent(server, 1)["messages"][1]["tool_calls"]) == MAX_CALLS
    assert len(outcome.messages) == 1 + 1 + MAX_CALLS + 1


# --- results ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Station:
    name: str
    height: float


class Modelled:
    """A class with the method of a pydantic model."""

    def model_dump(self, mode: str) -> Any:
        return {"mode": mode}


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("unspeakable")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is \n", "as it is \n"),
        ("", ""),
        (None, "null"),
        (22.5, "22.5"),
        ({"é": [1, True, None]}, '{"é": [1, true, null]}'),
        ((1, 2), "[1, 2]"),
        ({7}, "[7]"),
        (Station("Blindern", 94.0), '{"name": "Blindern", "height": 94.0}'),
        ([Modelled()], '[{"mode": "json"}]'),
        (datetime.date(2026, 2, 5), '"2026-02-05"'),
        (Path("/tmp"), '"/tmp"'),
        ({(1, 2): 3}, "error: TypeError: keys must be str, int, float, bool or None, not tuple"),
        (Unprintable(), "error: ValueError: unspeakable"),
    ],
)  # fmt: skip
def test_strings_are_sent_unchanged_and_other_values_as_json(value: Any, text: str) -> None:
    mode = Mode(False, False)
    with mode.serve([("look", "")], "Ok.") as server:
        mode.run(server, [Tool(lambda: value, {"type": "function", "function": {"name": "look"}})])
    assert results_sent(server) == [text]


def test_a_long_result_is_cut_with_a_note(mode: Mode) -> None:
    def read(size: int) -> str:
        return "é" * size

    calls = [("read", f'{{"size": {size}}}') for size in (10, 11, 20_001)]
    with mode.serve(calls, "Ok.") as server:
        mode.run(server, [read], max_result=10)
    assert results_sent(server)[0] == "é" * 10
    assert results_sent(server)[1] == "é" * 10 + "\n[cut: these are 10 of 11 characters]"
    assert results_sent(server)[2] == "é" * 10 + "\n[cut: these are 10 of 20001 characters]"
    with mode.serve(calls, "Ok.") as server:
        mode.run(server, [read])
    assert [len(text) for text in results_sent(server)[:2]] == [10, 11]
    assert results_sent(server)[2] == "é" * 20_000 + "\n[cut: these are 20000 of 20001 characters]"


def test_a_synchronous_function_that_returns_an_awaitable_is_an_error() -> None:
    async def wait() -> None: ...

    awaitable = wait()
    mode = Mode(False, False)
    with mode.serve([("look", "")], "Ok.") as server:
        mode.run(server, [Tool(lambda: awaitable, {"type": "function", "function": {"name": "look"}})])
    awaitable.close()
    assert results_sent(server) == ["error: TypeError: the function returned an awaitable: define it with async def"]


# --- exceptions and errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exceptions_that_end_a_program_end_the_run(kind: Any) -> None:
    def leave() -> None:
        raise kind

    for mode in (Mode(False, False), Mode(True, False)):
        with mode.serve([("leave", "")], "Ok.") as server, pytest.raises(kind):
            mode.run(server, [leave])
        assert len(server.requests) == 1


def test_an_exception_whose_str_fails_is_named_by_its_class(mode: Mode) -> None:
    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def speechless() -> None:
        raise Speechless

    with mode.serve([("speechless", "{}")], "Sorry.") as server:
        (result,) = mode.run(server, [speechless]).results
        assert (result.content, type(result.error)) == ("error: Speechless", Speechless)


def test_a_stream_with_an_invalid_id_in_its_last_chunk_has_an_answer() -> None:
    last = b'data: {"id": 5, "model": [], "choices": []}\n\n'
    with serve(answering(stream(delta("Warm."), delta(finish_reason="stop"), last))) as server:
        run = LlamaCppClient(server.endpoint).run_tools("Weather?", [get_weather], stream=True)
        assert [step.type for step in run] == ["content", "done"]
        assert (run.answer().content, run.answer().id) == ("Warm.", "")


def test_stop_iteration_is_an_error_for_the_model(mode: Mode) -> None:
    def first() -> Any:
        return next(iter(()))

    with mode.serve([("first", "")], "Ok.") as server:
        mode.run(server, [first])
    assert results_sent(server) == ["error: StopIteration"]


def test_an_error_of_the_server_is_raised(mode: Mode) -> None:
    refusal = response(b'{"error": {"message": "no"}}', "500 Error")
    with serve(answering(refusal)) as server, pytest.raises(FlynnError, match="^no$"):
        mode.run(server, [get_weather])


# --- asynchronous functions -------------------------------------------------------------------------------------------

ASYNCHRONOUS = [Mode(True, False), Mode(True, True)]


async def slow_weather(city: str) -> str:
    await asyncio.sleep(0)
    return f"rain in {city}"


@pytest.mark.parametrize("mode", ASYNCHRONOUS, ids=["async", "async-stream"])
def test_asynchronous_functions_run_in_the_event_loop_and_others_in_threads(mode: Mode) -> None:
    threads: Dict[str, threading.Thread] = {}

    async def here() -> str:
        threads["here"] = threading.current_thread()
        return "here"

    def there() -> str:
        threads["there"] = threading.current_thread()
        return "there"

    with mode.serve([("here", ""), ("there", "")], "Ok.") as server:
        mode.run(server, [here, there])
    assert results_sent(server) == ["here", "there"]
    assert threads["here"] is threading.main_thread()
    assert threads["there"] is not threading.main_thread()


def test_the_calls_of_a_reply_run_at_the_same_time_and_their_results_keep_the_order() -> None:
    """`first` returns only after `last` has started, and `left` and `right` wait for each other."""

    async def run() -> None:
        event, barrier = asyncio.Event(), threading.Barrier(2, timeout=10)

        async def first() -> str:
            await asyncio.wait_for(event.wait(), 10)
            return "first"

        async def last() -> str:
            event.set()
            return "last"

        def left() -> str:
            barrier.wait()
            return "left"

        def right() -> str:
            barrier.wait()
            return "right"

        steps = AsyncLlamaCppClient(server.endpoint).run_tools("Hi", [first, last, left, right])
        results = [step.content async for step in steps if step.type == "tool_result"]
        assert results == ["first", "left", "right", "last"]

    with Mode(True, False).serve([("first", ""), ("left", ""), ("right", ""), ("last", "")], "Ok.") as server:
        asyncio.run(run())


def test_an_exception_of_an_asynchronous_function_is_an_error_for_the_model() -> None:
    async def fail(city: str) -> None:
        raise LookupError(city)

    mode = Mode(True, False)
    with mode.serve([("fail", '{"city": "Oslo"}'), ("fail", "{}")], "Ok.") as server:
        mode.run(server, [fail])
    assert results_sent(server) == ["error: LookupError: Oslo", "error: city: missing"]


@pytest.mark.parametrize("streamed", [False, True])
def test_cancelling_ends_the_functions_and_the_run(streamed: bool) -> None:
    finished: List[str] = []

    async def cancel() -> None:
        started = asyncio.Event()

        async def endless() -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                finished.append("endless")

        run = AsyncLlamaCppClient(server.endpoint).run_tools("Hi", [endless], stream=streamed)
        task = asyncio.ensure_future(run.answer())
        await started.wait()
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()
        assert finished == ["endless", "endless"]

    with Mode(True, streamed).serve([("endless", ""), ("endless", "")], "Ok.") as server:
        asyncio.run(cancel())
    assert len(server.requests) == 1


def test_cancelling_does_not_wait_for_a_thread() -> None:
    release = threading.Event()

    async def cancel() -> None:
        started = threading.Event()

        def endless() -> None:
            started.set()
            release.wait(30)

        task = asyncio.ensure_future(AsyncLlamaCppClient(server.endpoint).run_tools("Hi", [endless]).answer())
        while not started.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not release.is_set()
        release.set()

    with Mode(True, False).serve([("endless", "")], "Ok.") as server:
        asyncio.run(cancel())


def test_the_synchronous_client_refuses_asynchronous_functions() -> None:
    with pytest.raises(TypeError, match="^slow_weather is asynchronous: only AsyncLlamaCppClient can call it$"):
        LlamaCppClient("http://localhost:1").run_tools("Hi", [get_weather, slow_weather])


# --- a real server ----------------------------------------------------------------------------------------------------

REAL = {"temperature": 0, "max_tokens": 60, "tool_choice": "required"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_real_model_calls_a_function_and_answers(
    tool_server: RealServer, tool_request: Dict[str, Any], streamed: bool
) -> None:
    client = LlamaCppClient(tool_server.endpoint)
    run = client.run_tools(tool_request["messages"], [get_weather], stream=streamed, **REAL)
    (result,) = (step for step in run if step.type == "tool_result")
    assert (result.call.name, json.loads(result.call.arguments)) == ("get_weather", {"city": "Paris"})
    assert (result.content, result.error) == ("23 °C in Paris", None)
    answer = run.answer()
    assert answer.content
    assert answer.finish_reason == "stop"
    assert [message.role for message in run.messages[3:]] == ["assistant", "tool", "assistant"]  # type: ignore[union-attr]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_real_model_calls_an_asynchronous_function_and_answers(
    tool_server: RealServer, tool_request: Dict[str, Any], streamed: bool
) -> None:
    async def weather() -> None:
        async with AsyncLlamaCppClient(tool_server.endpoint) as client:
            tool = Tool(slow_weather, tool_request["tools"][0])
            run = client.run_tools(tool_request["messages"], [tool], stream=streamed, **REAL)
            results = [step.content async for step in run if step.type == "tool_result"]
            assert results == ["rain in Paris"]
            assert (await run.answer()).content

    asyncio.run(weather())


def test_a_real_server_accepts_the_messages_after_invalid_calls(tool_server: RealServer) -> None:
    """A scripted model writes invalid calls; the real server gets the messages of that run."""
    mode = Mode(False, False)
    nonsense = [("get_weather", arguments) for arguments in UNREADABLE]
    nonsense += [("nothing", "[1]"), ("", '"x"'), ("broken", "{}")]
    with mode.serve(nonsense, "Sorry.") as server:
        messages = mode.run(server, [get_weather, broken]).messages
    client = LlamaCppClient(tool_server.endpoint)
    assert client.run_tools(messages[:-1], [get_weather, broken], max_tokens=8).answer().usage is not None
