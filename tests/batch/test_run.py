"""`flynn.batch.run`: what is sent, in which order, how many at a time, what is tried again."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from pathlib import Path
from typing import Any, List

import pytest
from scripted import eventually, response, serve

from flynn import AsyncLlamaCppClient, ChatRequest, LlamaCppClient, Message
from flynn.batch import Request, queue, run, scheduler, workers
from flynn.batch.workers import MOST_TOGETHER
from flynn.errors import AuthenticationError, FlynnError, RequestError, ServerError, ServerNotRunningError

from .server import BROKEN, REFUSAL, UNAVAILABLE, Gate, answers, echo, prompts, serving


def test_each_request_has_one_result() -> None:
    with serve(answers()) as server, LlamaCppClient(server.endpoint) as client:
        results = list(run([f"p{n}" for n in range(100)], client))
    assert {(r.custom_id, r.content) for r in results} == {(f"request-{n + 1}", f"re: p{n}") for n in range(100)}
    assert sorted(prompts(server)) == sorted(f"p{n}" for n in range(100))


def test_requests_come_in_any_form() -> None:
    sources: List[Any] = [
        "text",
        {"custom_id": "a", "prompt": "short", "seed": 1},
        {"custom_id": "b", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "full"}]}},
        ChatRequest([Message("user", "request")], extra={"x": 2}),
        Request("c", "/v1/chat/completions", b'{"messages":[{"role":"user","content":"made"}]}'),
    ]
    with serve(answers()) as server, LlamaCppClient(server.endpoint, model="m") as client:
        results = list(run(sources, client, ordered=True, system="S", defaults={"max_tokens": 3, "seed": 9}))
    assert [r.custom_id for r in results] == ["request-1", "a", "b", "request-4", "c"]
    assert [r.content for r in results] == ["re: text", "re: short", "re: full", "re: request", "re: made"]
    sent = {request.json["messages"][-1]["content"]: request.json for request in server.requests if request.body}
    system = {"role": "system", "content": "S"}
    user = {"role": "user", "content": "short"}
    assert sent["short"] == {"messages": [system, user], "model": "m", "max_tokens": 3, "seed": 1}
    assert sent["request"]["x"] == 2


def test_results_come_asynchronously() -> None:
    async def main(endpoint: str) -> List[str]:
        async with AsyncLlamaCppClient(endpoint) as client, run(["a", "b", "c"], client, ordered=True) as results:
            return [result.content async for result in results]

    with serve(answers()) as server:
        assert asyncio.run(main(server.endpoint)) == ["re: a", "re: b", "re: c"]


def test_an_asynchronous_batch_that_is_left_stops() -> None:
    gate = Gate()

    async def main(endpoint: str) -> None:
        async with run(map(str, range(1000)), AsyncLlamaCppClient(endpoint), jobs=3) as results:
            gate.opened.set()
            async for _ in results:
                break

    with serve(answers(gate)) as server:
        asyncio.run(main(server.endpoint))
        assert len(prompts(server)) < 1000


def test_order_is_kept_though_answers_come_in_another() -> None:
    def slow_at_first(prompt: str) -> bytes:
        time.sleep(0.3 if prompt == "0" else 0)
        return echo(prompt)

    with serve(answers(slow_at_first)) as server, LlamaCppClient(server.endpoint) as client:
        results = list(run(map(str, range(50)), client, ordered=True))
        assert [result.content for result in results] == [f"re: {n}" for n in range(50)]


def test_as_many_are_under_way_as_the_server_has_slots() -> None:
    gate = Gate()
    with serving(answers(gate, slots=6)) as (server, client), run(map(str, range(30)), client) as results:
        assert results.poll(0.1) == []
        eventually(lambda: gate.waiting == 6)
        gate.opened.set()
        assert len(list(results)) == 30
    assert gate.most == 6


def test_slots_that_others_use_are_left_to_them() -> None:
    gate = Gate()
    script = answers(gate, slots=6, busy=lambda: 4 + gate.waiting)
    with serving(script) as (_, client), run(map(str, range(10)), client) as results:
        results.poll(0.1)
        eventually(lambda: gate.waiting == 2)
        time.sleep(0.2)
        assert gate.most == 2
        gate.opened.set()


def test_jobs_override_the_slots() -> None:
    gate = Gate()
    with serving(answers(gate, slots=6)) as (server, client), run(map(str, range(10)), client, jobs=3) as results:
        results.poll(0.1)
        eventually(lambda: gate.waiting == 3)
        gate.opened.set()
        assert len(list(results)) == 10
    assert gate.most == 3


def test_connections_are_reused() -> None:
    with serve(answers()) as server, LlamaCppClient(server.endpoint) as client:
        list(run(map(str, range(80)), client, jobs=4))
        assert server.connections <= 4


def test_what_begins_alike_stays_together() -> None:
    """Each of two workers reads every long text at most once, however the prompts are shuffled."""
    texts = [chr(ord("a") + n) * 300 for n in range(8)]
    shuffled = [f"{texts[n * 5 % 8]} question {n}" for n in range(80)]
    by_connection: dict[int, List[str]] = {}
    with serve(answers()) as server, LlamaCppClient(server.endpoint) as client:
        list(run(shuffled, client, jobs=2))
        for request in server.requests:
            by_connection.setdefault(request.connection, []).append(request.json["messages"][0]["content"][0])
    changes = sum(one != other for asked in by_connection.values() for one, other in zip(asked, asked[1:]))
    assert changes <= 8 + 2


def test_the_server_s_own_refusal_is_final() -> None:
    with serve(answers(lambda prompt: REFUSAL if prompt == "bad" else echo(prompt))) as server:
        results = list(run(["good", "bad"], LlamaCppClient(server.endpoint), ordered=True))
    assert results[0].error is None
    assert isinstance(results[1].error, ServerError)
    assert str(results[1].error) == "not that"
    assert prompts(server).count("bad") == 1


@pytest.mark.parametrize("trouble", [BROKEN, UNAVAILABLE, None], ids=["500", "502", "cut"])
def test_what_may_pass_is_tried_again(trouble: Any) -> None:
    left = [2]

    def answer(prompt: str) -> Any:
        if prompt == "3" and left[0]:
            left[0] -= 1
            return trouble
        return echo(prompt)

    with serve(answers(answer)) as server, LlamaCppClient(server.endpoint) as client:
        results = list(run(map(str, range(6)), client))
    assert all(result.error is None for result in results)
    assert len(results) == 6
    assert not left[0]


def test_a_request_that_always_breaks_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "FIRST_PAUSE", 0.001)
    with serve(answers(lambda prompt: BROKEN if prompt == "bad" else echo(prompt))) as server:
        results = list(run(["bad", "good"], LlamaCppClient(server.endpoint), ordered=True))
    assert [result.error is None for result in results] == [False, True]
    assert prompts(server).count("bad") == scheduler.ATTEMPTS


def test_a_server_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    results: List[Any] = []
    batch = run(map(str, range(5)), LlamaCppClient(f"unix://{tmp_path}/sock"))
    thread = threading.Thread(target=lambda: results.extend(batch))
    thread.start()
    eventually(lambda: batch.away > 0.3)
    with serve(answers(), unix=tmp_path / "sock"):
        thread.join(20)
    assert sorted(result.content for result in results) == [f"re: {n}" for n in range(5)]


def test_without_a_server_it_gives_up_after_a_while() -> None:
    with serve(answers()) as gone:
        endpoint = gone.endpoint
    with pytest.raises(ServerNotRunningError):
        list(run(["a", "b"], LlamaCppClient(endpoint), wait=0.6))


def test_a_wrong_token_ends_it_at_once() -> None:
    from scripted import error

    refusal = response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized")
    with serve(answers(lambda prompt: refusal)) as server, pytest.raises(AuthenticationError):
        list(run(map(str, range(100)), LlamaCppClient(server.endpoint), jobs=1))
    assert len(prompts(server)) == 1


def test_it_gives_up_after_too_many_failures() -> None:
    results: List[Any] = []
    with serving(answers(lambda prompt: REFUSAL)) as (server, client):
        batch = run(map(str, range(100)), client, jobs=1, max_failures=3)
        with pytest.raises(FlynnError, match="gave up after 3 failed requests"):
            results.extend(batch)
    assert len(prompts(server)) == 3


def test_a_timeout_gives_a_slow_server_more_time_the_next_time() -> None:
    def slow(prompt: str) -> bytes:
        time.sleep(0.7)
        return echo(prompt)

    with serve(answers(slow)) as server, LlamaCppClient(server.endpoint) as client:
        results = list(run(["a"], client, jobs=1, timeout=0.3))
    assert results[0].content == "re: a"


def test_what_the_requests_raise_is_raised_after_the_results() -> None:
    def requests() -> Any:
        yield "a"
        raise KeyError("source")

    with serve(answers()) as server, LlamaCppClient(server.endpoint) as client:
        batch = run(requests(), client)
        with pytest.raises(KeyError, match="source"):
            list(batch)


def test_what_is_no_request_is_a_result_with_an_error() -> None:
    with serve(answers()) as server, LlamaCppClient(server.endpoint) as client:
        results = list(run([{"prompt": 5}, "a"], client, ordered=True))  # type: ignore[list-item]
    assert isinstance(results[0].error, RequestError)
    assert results[1].content == "re: a"


def test_closing_stops_what_is_under_way() -> None:
    gate = Gate()
    with serving(answers(gate)) as (server, client), run(map(str, range(100)), client, jobs=4) as results:
        results.poll(0.05)
        eventually(lambda: gate.waiting == 4)
        results.close()
        began = time.monotonic()
        assert list(results) == []
        assert time.monotonic() - began < 5
        gate.opened.set()
        assert len(prompts(server)) == 4


def test_draining_lets_what_is_under_way_end() -> None:
    gate = Gate()
    with serving(answers(gate)) as (server, client), run(map(str, range(100)), client, jobs=4) as results:
        results.poll(0.05)
        eventually(lambda: gate.waiting == 4)
        results.drain()
        gate.opened.set()
        assert len(list(results)) == 4


def test_a_slow_reader_holds_the_work_back() -> None:
    with serving(answers()) as (server, client), run(map(str, range(3000)), client, jobs=4) as results:
        next(results)
        time.sleep(0.8)
        assert len(prompts(server)) < 1000


def test_an_endless_source_is_read_only_so_far_ahead() -> None:
    read = []

    def endless() -> Any:
        while True:
            read.append(1)
            yield "x"

    with serve(answers()) as server, LlamaCppClient(server.endpoint) as client, run(endless(), client) as results:
        for _ in range(20):
            next(results)
    assert len(read) < 10_000


@pytest.mark.parametrize("kind", [concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor])
def test_an_executor_does_the_work(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(answers()) as server:
        monkeypatch.setenv("FLYNN_ENDPOINT", server.endpoint)
        workers._own_client.cache_clear()
        with kind(2) as executor:
            results = list(run(map(str, range(30)), executor=executor, jobs=5))
        assert sorted(result.content for result in results) == sorted(f"re: {n}" for n in range(30))


class Counting(concurrent.futures.ThreadPoolExecutor):
    """Counts its tasks; one that holds a poisonous request breaks."""

    def __init__(self, poison: bytes = b"poison") -> None:
        super().__init__(2)
        self.tasks: List[int] = []
        self.poison = poison

    def submit(self, do: Any, /, client: Any, asked: Any) -> Any:  # type: ignore[override]
        self.tasks.append(len(asked))
        if any(self.poison in body for _, body, _ in asked):
            return super().submit(int, "a worker died")
        return super().submit(do, client, asked)


def test_a_task_of_an_executor_is_many_requests_where_answers_come_quickly() -> None:
    with serving(answers()) as (server, client), Counting() as executor:
        results = list(run(map(str, range(300)), client, executor=executor, jobs=2))
    assert sorted(result.content for result in results) == sorted(f"re: {n}" for n in range(300))
    assert sorted(prompts(server)) == sorted(map(str, range(300)))
    assert executor.tasks[0] == 1
    assert 8 < max(executor.tasks) <= MOST_TOGETHER


def test_a_task_of_an_executor_is_one_request_where_answers_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TOGETHER", 0.05)

    def slow(prompt: str) -> bytes:
        time.sleep(0.06)
        return echo(prompt)

    with serving(answers(slow)) as (_, client), Counting() as executor:
        assert len(list(run(map(str, range(6)), client, executor=executor))) == 6
    assert executor.tasks == [1] * 6


def test_what_a_worker_had_no_time_for_is_done_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TOGETHER", 0.3)

    def slower_and_slower(prompt: str) -> bytes:
        time.sleep(0.1 if int(prompt) > 120 else 0)
        return echo(prompt)

    with serving(answers(slower_and_slower)) as (server, client), Counting() as executor:
        results = list(run([f"{n:03}" for n in range(140)], client, executor=executor, jobs=2))
    assert len(results) == 140
    assert sorted(prompts(server)) == [f"{n:03}" for n in range(140)]
    assert sum(executor.tasks) > 140


def test_a_request_that_breaks_workers_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "FIRST_PAUSE", 0.001)
    with serving(answers()) as (_, client), Counting() as executor:
        results = list(run(["poison" if n == 70 else str(n) for n in range(100)], client, executor=executor, jobs=2))
    failed = [result for result in results if result.error is not None]
    assert [result.custom_id for result in failed] == ["request-71"]
    assert "a worker failed" in str(failed[0].error)
    assert len(results) == 100


def test_a_client_that_cannot_go_to_another_process_is_said() -> None:
    with serve(answers()) as server, concurrent.futures.ProcessPoolExecutor(1) as executor:
        client = LlamaCppClient(server.endpoint)
        assert client.slots()  # now it has a connection
        with pytest.raises(RequestError, match="client=None"):
            list(run(["a"], client, executor=executor))


def test_without_client_and_executor_nothing_can_be_done() -> None:
    with pytest.raises(RequestError, match="needs a client"):
        run(["a"])


def test_jobs_are_a_number_above_0() -> None:
    with pytest.raises(RequestError, match="jobs is a number above 0"):
        run(["a"], LlamaCppClient("http://localhost:1"), jobs=0)
