"""`Conversation`: a history that fits the context."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
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
from flynn.conversation.fitting import droppable, number_to_drop, without

COUNT = "/v1/chat/completions/input_tokens"


def said(*roles: str) -> List[Dict[str, Any]]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "d": "developer"}
    return [{"role": names[role], "content": f"{place}"} for place, role in enumerate("".join(roles))]


# --- which messages may go --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "groups"),
    [
        ("", []),
        ("u", []),
        ("su", []),
        ("uau", [[0, 1]]),
        ("suauau", [[1, 2], [3, 4]]),
        ("duau", [[1, 2]]),
        # a tool's result never without its call
        ("uattau", [[0, 1, 2, 3, 4]]),
        # of the newest turn the question stays, and what the answer is to follow upon
        ("uauat", [[0, 1]]),
        ("uatattat", [[1, 2], [3, 4, 5]]),
        ("uatata", [[1, 2], [3, 4]]),
        # a system message in the middle stays, and parts nobody
        ("uasua", [[0, 1]]),
        ("uastuu", [[0, 1, 3], [4]]),
        # what begins in the middle of a turn
        ("tau", [[0, 1]]),
        ("atat", [[0, 1]]),
    ],
)
def test_turns_go_as_a_whole(roles: str, groups: List[List[int]]) -> None:
    assert droppable(said(roles)) == groups


def test_messages_may_be_mappings_or_messages() -> None:
    call = Message("assistant", None, tool_calls=[ToolCall("1", "f", "{}")])
    history = [Message("user", "a"), call, {"role": "tool", "content": "x"}, Message("user", "b")]
    groups = droppable(history)
    assert groups == [[0, 1, 2]]
    assert without(history, groups) == [Message("user", "b")]


# --- how many have to go ----------------------------------------------------------------------------------------------


def search(sizes: Sequence[int], tokens: Sequence[int], room: int) -> tuple[int, int, int]:
    """Groups gone, tokens left, requests counted."""
    counted = []

    def count(number: int) -> int:
        counted.append(number)
        return tokens[number]

    gone, left = number_to_drop(sizes, tokens[0], room, count)
    return gone, left, len(counted)


def test_half_of_what_the_oldest_may_take_up_is_cleared_with_one_count() -> None:
    tokens = [1000 - 10 * number for number in range(100)]
    assert search([4 * number for number in tokens], tokens, 900) == (55, 450, 1)


def test_nothing_goes_if_all_fits() -> None:
    assert search([400, 100], [100, 25], 100) == (0, 100, 0)


def test_all_go_where_that_is_not_enough() -> None:
    gone, left, _ = search([4000, 3900, 3800], [1000, 990, 980], 900)
    assert (gone, left) == (2, 980)
    assert search([4000], [1000], 900) == (0, 1000, 0)


def test_sizes_that_mislead_cost_few_counts() -> None:
    # All tokens are in the newest of the groups, all bytes in the oldest one.
    tokens = [1000] * 1000 + [10]
    sizes = [10_000, *range(1001, 1, -1)]
    gone, left, counts = search(sizes, tokens, 900)
    assert (gone, left) == (1000, 10)
    assert counts <= 11


@pytest.mark.parametrize("seed", range(50))
def test_what_is_left_fits_whenever_it_can(seed: int) -> None:
    random_ = random.Random(seed)
    weights = [(random_.randrange(1, 50), random_.randrange(1, 300)) for _ in range(random_.randrange(1, 60))]
    tokens = [sum(weight[0] for weight in weights[number:]) + 20 for number in range(len(weights) + 1)]
    sizes = [sum(weight[1] for weight in weights[number:]) + 50 for number in range(len(weights) + 1)]
    room = random_.randrange(10, tokens[0] + 10)
    gone, left, counts = search(sizes, tokens, room)
    assert left == tokens[gone]
    assert left <= room or gone == len(weights)
    assert counts <= 8


# --- what is sent -----------------------------------------------------------------------------------------------------


def tokens_of(messages: Sequence[Any]) -> int:
    """A tokenizer that everyone can check: ten tokens a message, and one for each word of it."""
    return sum(10 + len(str(message["content"]).split()) for message in messages)


class Model:
    """Answers as a model that counts like `tokens_of`, and refuses what is longer than its context.

    Args:
        counting, telling, usage: whether it counts prompts when asked, tells its context, and counts in its answers.

    Attributes:
        reply: what it says; failing: answers to be given first, in place of that.
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
    """Start a conversation with a model of its own: `talk(n_ctx, **options)`, options of either."""
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
    """The messages of each request for an answer."""
    return [request.json["messages"] for request in sent(server) if request.path == "/v1/chat/completions"]


def counts(server: HTTPServer) -> int:
    return sum(request.path == COUNT for request in sent(server))


def test_prompts_and_answers_are_the_history(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(10_000, system="Be brief.")
    assert conversation.chat("One").content == "Yes."
    with conversation.chat_stream("Two", temperature=0) as streamed:
        assert [event.type for event in streamed] == ["content", "done"]
    assert list(conversation.chat_stream([Message("user", "Three")]).text()) == ["Yes."]
    system, answer = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}
    one, two, three = ({"role": "user", "content": text} for text in ("One", "Two", "Three"))
    assert prompts(server) == [[system, one], [system, one, answer, two], [system, one, answer, two, answer, three]]
    assert [message.content for message in conversation.messages] == ["One", "Yes.", "Two", "Yes.", "Three", "Yes."]
    assert conversation.dropped == []
    # Nothing can be too long: the server is asked once for its context, and never to count.
    assert [request.path for request in sent(server)].count("/props") == 1
    assert counts(server) == 0


def test_a_long_talk_always_fits_keeps_what_must_stay_and_asks_seldom(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(2000, system="Be brief.", reserve=100)
    for number in range(300):
        conversation.chat(f"Question {number} " + "and more " * 10)
        assert len(conversation.dropped) + len(conversation.messages) == 2 * (number + 1)
    for messages in prompts(server):
        assert tokens_of(messages) <= 1900
        assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 99][: len(messages)]
    whole = [message.content for message in [*conversation.dropped, *conversation.messages]]
    assert whole[::2] == [f"Question {number} " + "and more " * 10 for number in range(300)]
    # A prompt that goes on where the last one ended is read from the server's cache.
    anew = [1 for before, after in zip(prompts(server), prompts(server)[1:]) if after[: len(before)] != before]
    assert 10 < sum(anew) < 16
    assert counts(server) <= 6 * sum(anew)


def test_the_newest_message_is_never_dropped(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(200, system="Be brief.")
    conversation.chat("One")
    with pytest.raises(ContextSizeError, match="the prompt, .* is 222 tokens long; the context is 200") as caught:
        conversation.chat("word " * 200)
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (222, 200)
    assert [message.content for message in conversation.messages] == ["One", "Yes."]
    assert len(prompts(server)) == 1
    assert conversation.chat("Two").content == "Yes."


def test_room_is_kept_for_the_answer(talk: Callable[..., Any]) -> None:
    for options, asked, longest in (
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
            conversation.chat("a b c", **asked)
            lengths.append(tokens_of(prompts(server)[-1]))
        assert longest - 24 <= max(lengths) <= longest


def test_a_prompt_may_use_what_was_to_be_kept_unless_that_was_said(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(200)
    assert conversation.chat("word " * 180).content == "Yes."
    conversation.reserve = 50
    with pytest.raises(ContextSizeError, match="190 tokens long; the context is 200, of which 50 are kept for the ans"):
        conversation.chat("word " * 180)


def test_an_error_leaves_the_conversation_as_it_was(talk: Callable[..., Any]) -> None:
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


def test_calls_of_tools_stay_with_their_results(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(400, system="Be brief.")
    function = {"name": "f", "arguments": "{}"}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    for number in range(40):
        conversation.messages += [Message("user", f"Question {number}"), call]
        conversation.chat([Message("tool", f"result {number}", tool_call_id="1")])
    for messages in prompts(server):
        assert tokens_of(messages) <= 300
        assert [message["role"][0] for message in messages[1:]] == (["u", "a", "t", "a"] * 40)[: len(messages) - 1]


def test_a_long_run_of_tools_keeps_the_question_it_began_with(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(400)
    conversation.chat("What is all this?")
    for number in range(40):
        conversation.chat([Message("tool", f"result {number}", tool_call_id="1")])
    for messages in prompts(server):
        assert tokens_of(messages) <= 300
        assert messages[0]["content"] == "What is all this?"
        assert [message["role"] for message in messages[1:]] == (["assistant", "tool"] * 40)[: len(messages) - 1]
    assert conversation.dropped


def test_a_server_that_tells_nothing_beforehand_tells_when_it_is_too_long(talk: Callable[..., Any]) -> None:
    for counting in True, False:
        conversation, _, server = talk(400, telling=False, counting=counting)
        for number in range(60):
            assert conversation.chat(f"Number {number}").content == "Yes."
        assert 0 < len(conversation.messages) < 40
        if not counting:
            assert counts(server) < 20


def test_a_server_that_came_back_with_a_smaller_context_is_no_end(talk: Callable[..., Any]) -> None:
    conversation, model, server = talk(1000)
    for number in range(30):
        conversation.chat(f"Number {number}")
    model.n_ctx = 300
    for number in range(30):
        assert conversation.chat(f"Number {number}").content == "Yes."
    assert conversation.n_ctx == 300
    assert tokens_of(prompts(server)[-1]) <= 225


def test_an_answer_that_is_cut_short_stays_as_it_is_but_no_call_that_may_be_cut(talk: Callable[..., Any]) -> None:
    conversation, model, _ = talk()
    broken = b"data: " + error(500, "out of memory", "server_error") + b"\n\n"
    call = [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}}]
    model.failing = [events(delta("Half"), delta(tool_calls=call), broken), events(delta(tool_calls=call), broken)]
    for _ in range(2):
        with pytest.raises(ServerError, match="out of memory"):
            list(conversation.chat_stream("One"))
    assert conversation.messages == [Message("user", "One"), Message("assistant", "Half")]
    streamed = conversation.chat_stream("Two")
    assert next(streamed).type == "content"
    streamed.close()
    streamed.close()
    assert conversation.messages[2:] == [Message("user", "Two"), Message("assistant", "Yes.")]


def test_a_stream_that_is_closed_before_it_began_asks_nothing(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk()
    streamed = conversation.chat_stream("One")
    streamed.close()
    assert (list(streamed), streamed.response.content, streamed.resumes) == ([], "", 0)
    assert (sent(server), conversation.messages) == ([], [])


def test_options_may_be_of_every_request(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(temperature=0.5, seed=1, timeout=20)
    conversation.chat("One", seed=2)
    body = sent(server)[-1].json
    assert (body["temperature"], body["seed"]) == (0.5, 2)
    with pytest.raises(TypeError, match="temprature"):
        conversation.chat("One", temprature=1)


def test_options_of_streams_do_not_keep_an_answer_from_coming_in_one_piece(talk: Callable[..., Any]) -> None:
    conversation, _, _ = talk(resume=True, resume_for=5)
    assert conversation.chat("a").content
    with pytest.raises(TypeError, match="resume"):
        conversation.chat("c", resume=True)


def test_what_would_be_sent_can_be_had_for_other_calls(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(200, system="Be brief.")
    for number in range(20):
        messages = conversation.fit(f"Number {number}")
        assert [message.role for message in messages] == ["system", *["user", "assistant"] * 20][: len(messages)]
        conversation.messages += [messages[-1], Message("assistant", "No.")]
    assert prompts(server) == []
    assert conversation.dropped


# --- rules ------------------------------------------------------------------------------------------------------------


def test_a_rule_gets_the_oldest_turns_and_what_it_returns_takes_their_place(talk: Callable[..., Any]) -> None:
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
    assert [message.content for message in conversation.dropped[:2]] == ["Number 0", "Number 1"]  # not what it kept


def test_what_a_rule_returns_is_dropped_if_it_does_not_fit(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(300, rule=lambda oldest: [Message("user", "word " * 300)])
    for number in range(20):
        conversation.chat(f"Number {number}")
    assert all(tokens_of(messages) <= 225 for messages in prompts(server))
    assert len(conversation.dropped) + len(conversation.messages) == 40


def test_a_summary_is_a_turn_whose_request_begins_like_the_conversation(talk: Callable[..., Any]) -> None:
    conversation, model, server = talk(600, system="Be brief.", rule=summarise)
    for number in range(40):
        model.reply = f"It was about {number}."
        conversation.chat(f"Number {number}")
    asked = [messages for messages in prompts(server) if messages[-1]["content"].startswith("Summarise")]
    assert asked
    before = prompts(server)[prompts(server).index(asked[0]) - 1]
    assert before[: len(asked[0]) - 1] == asked[0][:-1]
    after = prompts(server)[prompts(server).index(asked[0]) + 1]
    assert [message["role"] for message in after[:4]] == ["system", "user", "assistant", "user"]
    assert after[1]["content"].startswith("Summarise our conversation so far in at most 37 words")
    assert all(tokens_of(messages) <= 450 for messages in prompts(server))


def test_a_summary_that_fails_is_an_error_that_changes_nothing(talk: Callable[..., Any]) -> None:
    conversation, model, server = talk(300, rule=summarise)
    while counts(server) == 0 or tokens_of(prompts(server)[-1]) < 180:
        conversation.chat("a b c")
    before = list(conversation.messages)
    model.failing = [BROKEN]
    with pytest.raises(ServerError, match="out of memory"):
        conversation.chat("word " * 100)
    assert (conversation.messages, conversation.dropped) == (before, [])


def test_turns_that_are_too_long_to_be_summed_up_at_once_are_so_as_far_as_they_fit(talk: Callable[..., Any]) -> None:
    conversation, _, server = talk(300, rule=summarise)
    conversation.messages = said("ua" * 100)  # from a file, of a server with a larger context
    assert conversation.chat("One").content == "Yes."
    assert all(tokens_of(messages) < 300 for messages in prompts(server))
    assert len(conversation.dropped) == 200 - len(conversation.messages) + 4


# --- the file ---------------------------------------------------------------------------------------------------------


def test_all_that_was_said_is_saved_and_goes_on_when_it_is_loaded(talk: Callable[..., Any], tmp_path: Path) -> None:
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


def test_no_other_file_is_written_over(talk: Callable[..., Any], tmp_path: Path) -> None:
    conversation, _, _ = talk()
    (tmp_path / "notes").write_text("important")
    with pytest.raises(FileError, match="it exists and is not a conversation"):
        conversation.save(str(tmp_path / "notes"))
    with pytest.raises(FileError, match="not JSON"):
        conversation.load(str(tmp_path / "notes"))
    assert (tmp_path / "notes").read_text() == "important"


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_the_same_is_awaited(httpserver: HTTPServer, endpoint: str) -> None:
    async def hold(endpoint: str) -> AsyncConversation:
        async with AsyncLlamaCppClient(endpoint) as client:
            conversation = AsyncConversation(client, "Be brief.", rule=summarise)
            for number in range(10):
                assert (await conversation.chat(f"Number {number}")).content == "Yes."
                async with conversation.chat_stream("And?") as streamed:
                    assert [event.type async for event in streamed] == ["content", "done"]
                assert streamed.response.content == "Yes."
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


def test_a_cancelled_task_ends_also_what_makes_room() -> None:
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


# --- with a real model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [drop, summarise])
def test_a_real_talk_goes_on_when_the_context_is_full(start_server: Any, rule: Any) -> None:
    server = start_server(ctx_size=256, parallel=1)
    with LlamaCppClient(server.endpoint) as client:
        conversation = Conversation(client, "Be brief.", rule=rule, max_tokens=8, temperature=0)
        assert conversation.n_ctx == 256
        for number in range(10):
            with conversation.chat_stream(f"Number {number}: tell me more about all this, please.") as streamed:
                for _ in streamed:
                    pass
            usage = streamed.response.usage
            assert usage is not None
            assert usage.prompt_tokens <= 256 - 8
            assert client.count_tokens(conversation.fit("Next")) <= 256 - 8
        assert conversation.dropped
        with pytest.raises(ContextSizeError):
            conversation.chat("word " * 300)
        assert conversation.chat("And then?").finish_reason in ("stop", "length")


def test_a_slow_server_is_a_timeout(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    waited_in_vain = threading.Event()

    def slow(request: Request) -> Response:
        waited_in_vain.wait(10)
        return reply(CHAT)(request)

    in_turn(httpserver, reply({}), slow)
    with pytest.raises(RequestTimeoutError):
        Conversation(client, timeout=0.2).chat("Hi")
    waited_in_vain.set()


def test_a_cut_stream_is_an_interruption_and_what_came_stays(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    in_turn(httpserver, reply({}), events(delta("Half"), done=False))
    conversation = Conversation(client)
    with pytest.raises(StreamInterruptedError):
        list(conversation.chat_stream("Hi"))
    assert conversation.messages[-1] == Message("assistant", "Half")


def test_routes_that_are_not_there_are_done_without(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    by_route(httpserver, {"POST /v1/chat/completions": reply(CHAT)})
    conversation = Conversation(client)
    assert conversation.chat("Hi").content == "Hello!"
    assert conversation.n_ctx is None
