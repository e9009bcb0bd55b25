"""`Conversation`: a history that fits the context."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import pytest
from answers import NOT_FOUND, Answer, always, by_route, events, in_turn, reply, sent
from pytest_httpserver import HTTPServer
from scripted import CHAT, Peer, chat, delta, error, event, serve
from werkzeug import Request, Response

from flynn import (
    AsyncConversation,
    AsyncLlamaCppClient,
    ContextSizeError,
    Conversation,
    FileError,
    LlamaCppClient,
    Message,
    RequestTimeoutError,
    ServerError,
    StreamInterruptedError,
    ToolCall,
)
from flynn.conversation import drop, summarise
from flynn.conversation.fitting import droppable, without

COUNT = "/v1/chat/completions/input_tokens"


def history(*roles: str) -> List[Dict[str, Any]]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "d": "developer"}
    return [{"role": names[role], "content": f"{place}"} for place, role in enumerate("".join(roles))]


# --- which messages can be dropped ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "groups"),
    [
        ("", []),
        ("u", []),
        ("su", []),
        ("uau", [[0, 1]]),
        ("suauau", [[1, 2], [3, 4]]),
        ("duau", [[1, 2]]),
        # a tool's result is dropped only together with its call
        ("uattau", [[0, 1, 2, 3, 4]]),
        # the newest turn keeps its question and the messages that the answer follows
        ("uauat", [[0, 1]]),
        ("uatattat", [[1, 2], [3, 4, 5]]),
        ("uatata", [[1, 2], [3, 4]]),
        # a system message in the middle is kept and does not separate a turn
        ("uasua", [[0, 1]]),
        ("uastuu", [[0, 1, 3], [4]]),
        # a history that begins in the middle of a turn
        ("tau", [[0, 1]]),
        ("atat", [[0, 1]]),
    ],
)
def test_turns_are_dropped_as_a_whole(roles: str, groups: List[List[int]]) -> None:
    assert droppable(history(roles)) == groups


def test_messages_may_be_mappings_or_messages() -> None:
    call = Message("assistant", None, tool_calls=[ToolCall("1", "f", "{}")])
    messages = [Message("user", "a"), call, {"role": "tool", "content": "x"}, Message("user", "b")]
    groups = droppable(messages)
    assert groups == [[0, 1, 2]]
    assert without(messages, groups) == [Message("user", "b")]


# --- requests ---------------------------------------------------------------------------------------------------------


def tokens_of(messages: Sequence[Any]) -> int:
    """Count tokens in a way that is easy to check: ten for each message and one for each word."""
    return sum(10 + len(str(message["content"]).split()) for message in messages)


class Model:
    """A server that counts tokens with `tokens_of` and refuses prompts longer than its context.

    Args:
        counting: whether it has the route that counts tokens.
        telling: whether /props has its context size.
        usage: whether its answers have usage.

    Attributes:
        reply: text of its answers.
        failing: answers to give first, instead of `reply`.
    """

    def __init__(self, n_ctx: int, *, counting: bool = True, telling: bool = True, usage: bool = True) -> None:
        self.n_ctx, self.counting, self.telling, self.usage = n_ctx, counting, telling, usage
        self.reply = "Yes."
        self.failing: List[Answer] = []

    def __call__(self, request: Request) -> Response:
        return self.answer(request)(request)

    def answer(self, request: Request) -> Answer:
        if request.path == "/props":
            return reply({"default_generation_settings": {"n_ctx": self.n_ctx} if self.telling else {}})
        tokens = tokens_of(request.json["messages"])
        if request.path == COUNT:
            return reply({"input_tokens": tokens}) if self.counting else NOT_FOUND
        if self.failing:
            return self.failing.pop(0)
        if tokens >= self.n_ctx:
            numbers = {"n_prompt_tokens": tokens, "n_ctx": self.n_ctx}
            return reply(error(400, "too long", "exceed_context_size_error", **numbers), 400)
        usage = {"prompt_tokens": tokens, "completion_tokens": 10 + len(self.reply.split())} if self.usage else None
        if request.json.get("stream"):
            last = [event({"choices": [], "usage": usage})] if usage else []
            return events(delta(self.reply), delta(finish_reason="stop"), *last)
        return reply({**json.loads(chat(self.reply)), "usage": usage})


BROKEN = reply(error(500, "out of memory", "server_error"), 500)


@pytest.fixture
def talk(httpserver: HTTPServer, endpoint: str) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a conversation and its server: `talk(n_ctx, **options)`, options of either."""
    with contextlib.ExitStack() as stack:

        def start(n_ctx: int = 200, **options: Any) -> tuple[Conversation, Model, HTTPServer]:
            httpserver.check()
            httpserver.clear()
            model = Model(n_ctx, **{k: options.pop(k) for k in ("counting", "telling", "usage") if k in options})
            always(httpserver, model)
            client = stack.enter_context(LlamaCppClient(endpoint))
            return Conversation(client, options.pop("system", None), **options), model, httpserver

        yield start


def prompts(server: HTTPServer) -> List[List[Any]]:
    """Return the messages of each chat request."""
    return [request.json["messages"] for request in sent(server) if request.path == "/v1/chat/completions"]


def counts(server: HTTPServer) -> int:
    return sum(request.path == COUNT for request in sent(server))


def test_prompts_and_answers_are_the_history(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(10_000, system="Be brief.")
    assert conversation.chat("One").content == "Yes."
    with conversation.chat_stream("Two", temperature=0) as stream:
        assert [event.type for event in stream] == ["content", "done"]
    assert list(conversation.chat_stream([Message("user", "Three")]).text()) == ["Yes."]
    system, answer = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}
    one, two, three = ({"role": "user", "content": text} for text in ("One", "Two", "Three"))
    assert prompts(server) == [[system, one], [system, one, answer, two], [system, one, answer, two, answer, three]]
    assert [message.content for message in conversation.messages] == ["One", "Yes.", "Two", "Yes.", "Three", "Yes."]
    assert conversation.dropped == []
    # Everything fits for certain: the server is asked once for its context size and never to count.
    assert [request.path for request in sent(server)].count("/props") == 1
    assert counts(server) == 0


def test_a_long_conversation_always_fits(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(2000, system="Be brief.", reserve=100)
    for number in range(300):
        conversation.chat(f"Question {number} " + "and more " * 10)
        assert len(conversation.dropped) + len(conversation.messages) == 2 * (number + 1)
    for messages in prompts(server):
        assert tokens_of(messages) <= 1900
        assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 99][: len(messages)]
    contents = [message.content for message in [*conversation.dropped, *conversation.messages]]
    assert contents[::2] == [f"Question {number} " + "and more " * 10 for number in range(300)]
    # A prompt that continues the one before is read from the server's cache.
    misses = sum(after[: len(before)] != before for before, after in zip(prompts(server), prompts(server)[1:]))
    assert 10 < misses < 16
    assert counts(server) <= 300 + 3 * misses  # once a turn, and again where turns are dropped


def test_the_newest_message_is_never_dropped(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(200, system="Be brief.")
    conversation.chat("One")
    with pytest.raises(ContextSizeError, match="the prompt, .* is 222 tokens long; the context is 200") as caught:
        conversation.chat("word " * 200)
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (222, 200)
    assert [message.content for message in conversation.messages] == ["One", "Yes."]
    assert len(prompts(server)) == 1
    assert conversation.chat("Two").content == "Yes."


def test_tokens_are_reserved_for_the_answer(talk: Callable[..., Any]) -> None:
    for options, call_options, longest in (
        ({}, {}, 150),  # a quarter
        ({}, {"max_tokens": 80}, 120),
        ({"n_predict": 80}, {}, 120),
        ({"max_tokens": -1}, {}, 150),
        ({}, {"max_tokens": 5000}, 100),  # no more than half
        ({"reserve": 10}, {"max_tokens": 80}, 190),
    ):
        conversation, _, server = talk(200, **options)
        lengths = []
        for _ in range(30):
            conversation.chat("a b c", **call_options)
            lengths.append(tokens_of(prompts(server)[-1]))
        assert longest - 24 <= max(lengths) <= longest


def test_a_prompt_may_use_the_default_reserve_but_not_an_explicit_one(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(200)
    assert conversation.chat("word " * 180).content == "Yes."
    conversation.reserve = 50
    with pytest.raises(ContextSizeError, match="190 tokens long; the context is 200, of which 50 are kept for the ans"):
        conversation.chat("word " * 180)


def test_an_error_leaves_the_conversation_unchanged(talk: Callable[..., Any]) -> None:
    conversation, model, _ = talk(200)
    for number in range(5):
        conversation.chat(f"Number {number}")
    before = list(conversation.messages)
    model.failing = [BROKEN, BROKEN]
    with pytest.raises(ServerError, match="out of memory"):
        conversation.chat("word " * 60)
    with pytest.raises(ServerError, match="out of memory"), conversation.chat_stream("word " * 60):
        pass
    assert (conversation.messages, conversation.dropped) == (before, [])
    conversation.chat("word " * 60)
    assert conversation.dropped == before[: len(conversation.dropped)] != []


def test_tool_calls_stay_with_their_results(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(400, system="Be brief.")
    function = {"name": "f", "arguments": "{}"}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    for number in range(40):
        conversation.messages += [Message("user", f"Question {number}"), call]
        conversation.chat([Message("tool", f"result {number}", tool_call_id="1")])
    for messages in prompts(server):
        assert tokens_of(messages) <= 300
        assert [message["role"][0] for message in messages[1:]] == (["u", "a", "t", "a"] * 40)[: len(messages) - 1]


def test_a_long_run_of_tool_calls_keeps_its_question(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(400)
    conversation.chat("What is all this?")
    for number in range(40):
        conversation.chat([Message("tool", f"result {number}", tool_call_id="1")])
    for messages in prompts(server):
        assert tokens_of(messages) <= 300
        assert messages[0]["content"] == "What is all this?"
        assert [message["role"] for message in messages[1:]] == (["assistant", "tool"] * 40)[: len(messages) - 1]
    assert conversation.dropped


def test_without_props_the_context_size_comes_from_the_error(talk: Callable[..., Any]) -> None:
    for counting in True, False:
        conversation, _, server = talk(400, telling=False, counting=counting)
        for number in range(60):
            assert conversation.chat(f"Number {number}").content == "Yes."
        assert 0 < len(conversation.messages) < 40
        if not counting:
            assert counts(server) < 20


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_refuses_to_count_is_estimated(talk: Callable[..., Any], status: int) -> None:
    conversation, model, server = talk(400)
    answer = model.answer
    refused = reply(error(status, "no", "not_found_error"), status)
    model.answer = lambda request: refused if request.path == COUNT else answer(request)
    for number in range(60):
        assert conversation.chat(f"Number {number}").content == "Yes."
    assert conversation.dropped
    assert counts(server) == 1


def test_a_smaller_context_after_a_restart_of_the_server_is_noticed(talk: Callable[..., Any]) -> None:
    conversation, model, server = talk(1000)
    for number in range(30):
        conversation.chat(f"Number {number}")
    model.n_ctx = 300
    for number in range(30):
        assert conversation.chat(f"Number {number}").content == "Yes."
    assert conversation.n_ctx == 300
    assert tokens_of(prompts(server)[-1]) <= 225


def test_the_text_of_a_cut_answer_is_kept_and_its_tool_calls_are_not(talk: Callable[..., Any]) -> None:
    conversation, model, _ = talk()
    broken = b"data: " + error(500, "out of memory", "server_error") + b"\n\n"
    call = [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}}]
    model.failing = [events(delta("Half"), delta(tool_calls=call), broken), events(delta(tool_calls=call), broken)]
    for _ in range(2):
        with pytest.raises(ServerError, match="out of memory"):
            list(conversation.chat_stream("One"))
    assert conversation.messages == [Message("user", "One"), Message("assistant", "Half")]
    stream = conversation.chat_stream("Two")
    assert next(stream).type == "content"
    stream.close()
    stream.close()
    assert conversation.messages[2:] == [Message("user", "Two"), Message("assistant", "Yes.")]


def test_a_stream_closed_before_it_is_read_sends_nothing(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk()
    stream = conversation.chat_stream("One")
    stream.close()
    assert (list(stream), stream.response.content, stream.resumes) == ([], "", 0)
    assert (sent(server), conversation.messages) == ([], [])


def test_options_of_the_conversation_go_with_every_request(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(temperature=0.5, seed=1, timeout=20)
    conversation.chat("One", seed=2)
    body = sent(server)[-1].json
    assert (body["temperature"], body["seed"]) == (0.5, 2)
    with pytest.raises(TypeError, match="temprature"):
        conversation.chat("One", temprature=1)


def test_chat_ignores_stream_options_of_the_conversation(talk: Callable[..., Any]) -> None:
    conversation, _, _ = talk(resume=True, resume_for=5)
    assert conversation.chat("a").content
    with pytest.raises(TypeError, match="resume"):
        conversation.chat("c", resume=True)


def test_fit_returns_the_messages_that_would_be_sent(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(200, system="Be brief.")
    for number in range(20):
        messages = conversation.fit(f"Number {number}")
        assert [message.role for message in messages] == ["system", *["user", "assistant"] * 20][: len(messages)]
        conversation.messages += [messages[-1], Message("assistant", "No.")]
    assert prompts(server) == []
    assert conversation.dropped


# --- rules ------------------------------------------------------------------------------------------------------------


def test_a_rule_gets_the_oldest_turns_and_its_result_replaces_them(talk: Callable[..., Any]) -> None:
    seen = []

    def rule(oldest: Conversation) -> Sequence[Any]:
        seen.append([message.content for message in oldest.messages])
        assert oldest.system == "Be brief."
        return [Message("user", "Before that:"), oldest.messages[1]]

    conversation, _, server = talk(300, system="Be brief.", rule=rule)
    for number in range(20):
        conversation.chat(f"Number {number}")
    first = next(messages for messages in prompts(server) if messages[1]["content"] == "Before that:")
    assert seen[0][:2] == ["Number 0", "Yes."]
    assert [message["content"] for message in first[:3]] == ["Be brief.", "Before that:", "Yes."]
    assert len(seen) > 1
    assert seen[1][:2] == ["Before that:", "Yes."]
    # What the rule kept is not among the dropped messages.
    assert [message.content for message in conversation.dropped[:2]] == ["Number 0", "Number 1"]


def test_the_result_of_a_rule_is_dropped_if_it_does_not_fit(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(300, rule=lambda oldest: [Message("user", "word " * 300)])
    for number in range(20):
        conversation.chat(f"Number {number}")
    assert all(tokens_of(messages) <= 225 for messages in prompts(server))
    assert len(conversation.dropped) + len(conversation.messages) == 40


def test_a_summary_is_a_turn_and_its_request_begins_like_the_conversation(talk: Callable[..., Any]) -> None:
    conversation, model, server = talk(600, system="Be brief.", rule=summarise)
    for number in range(40):
        model.reply = f"It was about {number}."
        conversation.chat(f"Number {number}")
    requests = [messages for messages in prompts(server) if messages[-1]["content"].startswith("Summarise")]
    assert requests
    before = prompts(server)[prompts(server).index(requests[0]) - 1]
    assert before[: len(requests[0]) - 1] == requests[0][:-1]
    after = prompts(server)[prompts(server).index(requests[0]) + 1]
    assert [message["role"] for message in after[:4]] == ["system", "user", "assistant", "user"]
    assert after[1]["content"].startswith("Summarise our conversation so far in at most 37 words")
    assert all(tokens_of(messages) <= 450 for messages in prompts(server))


def test_a_failed_summary_leaves_the_conversation_unchanged(talk: Callable[..., Any]) -> None:
    conversation, model, server = talk(300, rule=summarise)
    while counts(server) == 0 or tokens_of(prompts(server)[-1]) < 180:
        conversation.chat("a b c")
    before = list(conversation.messages)
    model.failing = [BROKEN]
    with pytest.raises(ServerError, match="out of memory"):
        conversation.chat("word " * 100)
    assert (conversation.messages, conversation.dropped) == (before, [])


def test_turns_too_long_for_one_summary_are_summarised_as_far_as_they_fit(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(300, rule=summarise)
    conversation.messages = history("ua" * 100)  # as loaded from a file of a server with a larger context
    assert conversation.chat("One").content == "Yes."
    assert all(tokens_of(messages) < 300 for messages in prompts(server))
    assert len(conversation.dropped) == 200 - len(conversation.messages) + 4


# --- the file ---------------------------------------------------------------------------------------------------------


def test_all_messages_are_saved_and_a_loaded_conversation_goes_on(talk: Callable[..., Any], tmp_path: Path) -> None:
    conversation, _, server = talk(200, system="Be br\xefef.")
    for number in range(20):
        conversation.chat(f"Number {number}")
    path = str(tmp_path / "talk.json")
    conversation.save(path)
    conversation.save(path)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    saved = json.loads(Path(path).read_text("utf-8"))
    assert [message["content"] for message in saved[::2]] == ["Be br\xefef.", *["Yes."] * 20]
    other, _, server = talk(200)
    other.load(path)
    assert (other.system, len(other.messages), other.dropped) == ("Be br\xefef.", 40, [])
    other.chat("Go on")
    assert prompts(server)[-1][0] == saved[0]
    assert prompts(server)[-1][-2] == saved[-1]
    other.save(path)
    assert json.loads(Path(path).read_text("utf-8"))[:41] == saved


def test_save_does_not_overwrite_other_files(talk: Callable[..., Any], tmp_path: Path) -> None:
    conversation, _, _ = talk()
    (tmp_path / "notes").write_text("important")
    with pytest.raises(FileError, match="it exists and is not a conversation"):
        conversation.save(str(tmp_path / "notes"))
    with pytest.raises(FileError, match="not JSON"):
        conversation.load(str(tmp_path / "notes"))
    (tmp_path / "twice").write_text('[{"role": "user", "content": "a", "content": "b"}]')
    with pytest.raises(FileError, match="the key 'content' is given twice"):
        conversation.load(str(tmp_path / "twice"))
    assert (tmp_path / "notes").read_text() == "important"


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_an_asynchronous_conversation_does_the_same(httpserver: HTTPServer, endpoint: str) -> None:
    async def hold(endpoint: str) -> AsyncConversation:
        async with AsyncLlamaCppClient(endpoint) as client:
            conversation = AsyncConversation(client, "Be brief.", rule=summarise)
            for number in range(10):
                assert (await conversation.chat(f"Number {number}")).content == "Yes."
                async with conversation.chat_stream("And?") as stream:
                    assert [event.type async for event in stream] == ["content", "done"]
                assert stream.response.content == "Yes."
                assert [text async for text in conversation.chat_stream("And?").text()] == ["Yes."]
            assert (await conversation.fit("Last"))[-1] == Message("user", "Last")
            return conversation

    always(httpserver, Model(400))
    conversation = asyncio.run(hold(endpoint))
    assert conversation.messages[0].content.startswith("Summarise")
    assert conversation.dropped
    assert all(tokens_of(messages) <= 300 for messages in prompts(httpserver))


def silent(peer: Peer) -> None:
    peer.request()
    peer.stall()


def test_a_cancelled_task_also_ends_the_request_for_the_context_size() -> None:
    async def cancel(endpoint: str, streaming: bool) -> AsyncConversation:
        async with AsyncLlamaCppClient(endpoint) as client:
            conversation = AsyncConversation(client)

            async def go() -> None:
                if streaming:
                    async for _ in conversation.chat_stream("Hi"):
                        pass
                else:
                    await conversation.chat("Hi")

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(go(), 0.2)
            return conversation

    for streaming in True, False:
        with serve(silent) as server:
            assert asyncio.run(cancel(server.endpoint, streaming)).messages == []
        assert [request.target for request in server.requests] == ["/props"]


# --- servers that fail or lack routes ---------------------------------------------------------------------------------


def test_a_slow_server_is_a_timeout(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    release = threading.Event()

    def slow(request: Request) -> Response:
        release.wait(10)
        return reply(CHAT)(request)

    in_turn(httpserver, reply({}), slow)
    with pytest.raises(RequestTimeoutError):
        Conversation(client, timeout=0.2).chat("Hi")
    release.set()


def test_a_cut_stream_raises_and_its_text_is_kept(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    in_turn(httpserver, reply({}), events(delta("Half"), done=False))
    conversation = Conversation(client)
    with pytest.raises(StreamInterruptedError):
        list(conversation.chat_stream("Hi"))
    assert conversation.messages[-1] == Message("assistant", "Half")


def test_a_server_that_has_only_the_chat_route_is_enough(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    by_route(httpserver, {"POST /v1/chat/completions": reply(CHAT)})
    conversation = Conversation(client)
    assert conversation.chat("Hi").content == "Hello!"
    assert conversation.n_ctx is None


# --- with a real model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [drop, summarise])
def test_a_conversation_with_a_real_model_goes_on_when_the_context_is_full(start_server: Any, rule: Any) -> None:
    server = start_server(ctx_size=256, parallel=1)
    with LlamaCppClient(server.endpoint) as client:
        conversation = Conversation(client, "Be brief.", rule=rule, max_tokens=8, temperature=0)
        assert conversation.n_ctx == 256
        for number in range(10):
            with conversation.chat_stream(f"Number {number}: tell me more about all this, please.") as stream:
                for _ in stream:
                    pass
            usage = stream.response.usage
            assert usage is not None
            assert usage.prompt_tokens <= 256 - 8
            assert client.count_tokens(conversation.fit("Next")) <= 256 - 8
        assert conversation.dropped
        with pytest.raises(ContextSizeError):
            conversation.chat("word " * 300)
        assert conversation.chat("And then?").finish_reason in ("stop", "length")
