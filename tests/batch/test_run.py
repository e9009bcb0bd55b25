"""`flynn.batch.run`: which requests are sent, in which order, how many at once, and which are retried."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import socket
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
from answers import reply
from pytest_httpserver import HTTPServer
from scripted import Peer, chat, error, eventually, response, serve
from werkzeug import Response

from flynn import AsyncLlamaCppClient, ChatRequest, LlamaCppClient, Message
from flynn.batch import Request, Run, run
from flynn.batch.requests import Defaults
from flynn.batch.runner import prepare
from flynn.batch.scheduler import Scheduler
from flynn.batch.workers import ExecutorWorkers
from flynn.errors import AuthenticationError, FlynnError, RequestError, ServerError, ServerNotRunningError

from .server import Gate, Llama, answer, broken, echo, refusal, unavailable


def test_each_request_has_one_result(llama: Any, client: LlamaCppClient) -> None:
    server = llama()
    results = list(run([f"p{n}" for n in range(100)], client))
    assert {(r.custom_id, r.content) for r in results} == {(f"request-{n + 1}", f"re: p{n}") for n in range(100)}
    assert sorted(server.prompts) == sorted(f"p{n}" for n in range(100))


def test_requests_may_have_any_form(llama: Any, endpoint: str) -> None:
    sources: List[Any] = [
        "text",
        {"custom_id": "a", "prompt": "short", "seed": 1},
        {"custom_id": "b", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "full"}]}},
        ChatRequest([Message("user", "request")], extra={"x": 2}),
        Request("c", "/v1/chat/completions", b'{"messages":[{"role":"user","content":"encoded"}]}'),
    ]
    server = llama()
    with LlamaCppClient(endpoint, model="m") as client:
        results = list(run(sources, client, ordered=True, system="S", defaults={"max_tokens": 3, "seed": 9}))
    assert [r.custom_id for r in results] == ["request-1", "a", "b", "request-4", "c"]
    assert [r.content for r in results] == ["re: text", "re: short", "re: full", "re: request", "re: encoded"]
    sent = dict(zip(server.prompts, server.bodies))
    system = {"role": "system", "content": "S"}
    user = {"role": "user", "content": "short"}
    assert sent["short"] == {"messages": [system, user], "model": "m", "max_tokens": 3, "seed": 1}
    assert sent["request"]["x"] == 2


def test_results_can_be_read_asynchronously(llama: Any, endpoint: str) -> None:
    async def main() -> List[str]:
        async with AsyncLlamaCppClient(endpoint) as client, run(["a", "b", "c"], client, ordered=True) as results:
            return [result.content async for result in results]

    llama()
    assert asyncio.run(main()) == ["re: a", "re: b", "re: c"]


def test_leaving_an_asynchronous_batch_stops_it(llama: Any, endpoint: str) -> None:
    async def main() -> None:
        async with run(map(str, range(1000)), AsyncLlamaCppClient(endpoint), jobs=3) as results:
            async for _ in results:
                break

    server = llama()
    asyncio.run(main())
    assert len(server.prompts) < 1000


def test_ordered_results_are_in_the_order_of_the_requests(llama: Any, client: LlamaCppClient) -> None:
    def slow_at_first(prompt: str) -> Response:
        time.sleep(0.3 if prompt == "0" else 0)
        return echo(prompt)

    llama(slow_at_first)
    results = list(run(map(str, range(50)), client, ordered=True))
    assert [result.content for result in results] == [f"re: {n}" for n in range(50)]


def test_as_many_requests_are_in_flight_as_the_server_has_slots(llama: Any, client: LlamaCppClient) -> None:
    gate = Gate()
    llama(gate, slots=6)
    with run(map(str, range(30)), client) as results:
        assert results.poll(0.1) == []
        eventually(lambda: gate.waiting == 6)
        gate.opened.set()
        assert len(list(results)) == 30
    assert gate.most == 6


def test_slots_that_other_clients_use_are_left_to_them(llama: Any, client: LlamaCppClient) -> None:
    gate = Gate()
    llama(gate, slots=6, busy=lambda: 4 + gate.waiting)
    with run(map(str, range(10)), client) as results:
        results.poll(0.1)
        eventually(lambda: gate.waiting == 2)
        time.sleep(0.2)
        assert gate.most == 2
        gate.opened.set()


@pytest.mark.parametrize("total_slots", [-1, 0, 10**9, None, "4"])
def test_an_impossible_number_of_slots_is_ignored(
    httpserver: HTTPServer, llama: Any, client: LlamaCppClient, total_slots: Any
) -> None:
    httpserver.expect_request("/slots").respond_with_handler(reply(error(501, "no slots", "not_supported_error"), 501))
    httpserver.expect_request("/props").respond_with_json({"total_slots": total_slots})
    llama()
    assert len(list(run(map(str, range(20)), client))) == 20


def test_jobs_override_the_slots(llama: Any, client: LlamaCppClient) -> None:
    gate = Gate()
    llama(gate, slots=6)
    with run(map(str, range(10)), client, jobs=3) as results:
        results.poll(0.1)
        eventually(lambda: gate.waiting == 3)
        gate.opened.set()
        assert len(list(results)) == 10
    assert gate.most == 3


def keep_alive(peer: Peer) -> None:
    """Answer many requests on one connection, which pytest-httpserver cannot."""
    while True:
        request = peer.request()
        is_chat = request.method == "POST"
        peer.send(response(chat()) if is_chat else response(error(501, "", "not_supported_error"), "501 No"))


def test_connections_are_reused() -> None:
    with serve(keep_alive) as server, LlamaCppClient(server.endpoint) as client:
        list(run(map(str, range(80)), client, jobs=4))
        assert server.connections <= 4


def test_requests_with_the_same_beginning_stay_together() -> None:
    """Each of two workers reads every long text at most once, however the prompts are shuffled."""
    texts = [chr(ord("a") + n) * 300 for n in range(8)]
    shuffled = [f"{texts[n * 5 % 8]} question {n}" for n in range(80)]
    by_connection: Dict[int, List[str]] = {}
    with serve(keep_alive) as server, LlamaCppClient(server.endpoint) as client:
        list(run(shuffled, client, jobs=2))
        for request in server.requests:
            by_connection.setdefault(request.connection, []).append(request.json["messages"][0]["content"][0])
    assert len(by_connection) <= 2
    changes = sum(one != other for texts in by_connection.values() for one, other in zip(texts, texts[1:]))
    assert changes <= 8 + 2


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_request_that_llama_server_refuses_is_not_retried(llama: Any, client: LlamaCppClient) -> None:
    server = llama(lambda prompt: refusal() if prompt == "bad" else echo(prompt))
    results = list(run(["good", "bad"], client, ordered=True))
    assert results[0].error is None
    assert isinstance(results[1].error, ServerError)
    assert str(results[1].error) == "not that"
    assert server.prompts.count("bad") == 1


@pytest.mark.parametrize("failure", [broken, unavailable])
def test_a_temporary_failure_is_retried(llama: Any, client: LlamaCppClient, failure: Any) -> None:
    failures = [failure, failure]
    llama(lambda prompt: failures.pop()() if prompt == "3" and failures else echo(prompt))
    results = list(run(map(str, range(6)), client))
    assert [result.error for result in results] == [None] * 6
    assert not failures


def no_pause(attempt: int, retry_after: Any = None) -> float:
    return 0.001


def test_the_batch_waits_for_a_server_that_starts_later() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results: List[Any] = []
    batch = run(map(str, range(5)), LlamaCppClient(f"http://127.0.0.1:{port}"))
    thread = threading.Thread(target=lambda: results.extend(batch))
    thread.start()
    eventually(lambda: batch.away > 0.3)
    with HTTPServer(host="127.0.0.1", port=port, threaded=True) as server:
        Llama(server)
        thread.join(20)
    assert sorted(result.content for result in results) == [f"re: {n}" for n in range(5)]


def test_the_batch_gives_up_when_no_server_appears_within_the_wait(tmp_path: Path) -> None:
    with pytest.raises(ServerNotRunningError):
        list(run(["a", "b"], LlamaCppClient(f"unix://{tmp_path}/none"), wait=0.6))


def test_a_wrong_token_ends_the_batch_at_once(llama: Any, client: LlamaCppClient) -> None:
    server = llama(lambda prompt: answer(error(401, "Invalid API Key", "authentication_error"), 401))
    with pytest.raises(AuthenticationError):
        list(run(map(str, range(100)), client, jobs=1))
    assert len(server.prompts) == 1


def test_the_batch_gives_up_after_max_failures(llama: Any, client: LlamaCppClient) -> None:
    server = llama(refusal)
    with pytest.raises(FlynnError, match="gave up after 3 failed requests"):
        list(run(map(str, range(100)), client, jobs=1, max_failures=3))
    assert len(server.prompts) == 3


def test_a_retry_after_a_timeout_has_more_time(llama: Any, client: LlamaCppClient) -> None:
    def slow(prompt: str) -> Response:
        time.sleep(0.7)
        return echo(prompt)

    llama(slow)
    results = list(run(["a"], client, jobs=1, timeout=0.3))
    assert results[0].content == "re: a"


def test_an_exception_of_the_source_reaches_the_reader(llama: Any, client: LlamaCppClient) -> None:
    def requests() -> Any:
        yield "a"
        raise KeyError("source")

    llama()
    with pytest.raises(KeyError, match="source"):
        list(run(requests(), client))


def test_an_invalid_request_is_a_result_with_an_error(llama: Any, client: LlamaCppClient) -> None:
    llama()
    results = list(run([{"custom_id": "x", "prompt": 5}, "a"], client, ordered=True))
    assert isinstance(results[0].error, RequestError)
    assert (results[0].custom_id, results[1].content) == ("x", "re: a")


# --- closing, draining and reading slowly -----------------------------------------------------------------------------


def test_close_ends_requests_in_flight_without_waiting(llama: Any, client: LlamaCppClient) -> None:
    gate = Gate()
    server = llama(gate)
    with run(map(str, range(100)), client, jobs=4) as results:
        results.poll(0.05)
        eventually(lambda: gate.waiting == 4)
        results.close()
        assert list(results) == []
        assert gate.waiting == 4  # close has not waited for the answers
        gate.opened.set()
        assert len(server.prompts) == 4


def test_drain_finishes_requests_in_flight(llama: Any, client: LlamaCppClient) -> None:
    gate = Gate()
    llama(gate)
    with run(map(str, range(100)), client, jobs=4) as results:
        results.poll(0.05)
        eventually(lambda: gate.waiting == 4)
        results.drain()
        gate.opened.set()
        assert len(list(results)) == 4


def test_a_slow_reader_limits_the_requests_that_are_sent(llama: Any, client: LlamaCppClient) -> None:
    server = llama()
    with run(map(str, range(3000)), client, jobs=4) as results:
        next(results)
        time.sleep(0.8)
        assert len(server.prompts) < 1000


def test_an_endless_source_is_read_only_a_limited_number_ahead(llama: Any, client: LlamaCppClient) -> None:
    read = []

    def endless() -> Any:
        while True:
            read.append(1)
            yield "x"

    llama()
    with run(endless(), client) as results:
        for _ in range(20):
            next(results)
    assert len(read) < 10_000


# --- executors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor])
def test_an_executor_runs_the_requests(llama: Any, endpoint: str, kind: Any) -> None:
    llama()
    with kind(2) as executor:
        results = list(run(map(str, range(30)), LlamaCppClient(endpoint), executor=executor, jobs=5))
    assert sorted(result.content for result in results) == sorted(f"re: {n}" for n in range(30))


def test_a_worker_without_a_client_creates_its_own(llama: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llama()
    monkeypatch.setenv("FLYNN_ENDPOINT", endpoint)
    # Not "forkserver", the default from Python 3.14 on: its processes have the environment of when it was started.
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as executor:
        assert [result.content for result in run(["a"], executor=executor)] == ["re: a"]


class Breaking(concurrent.futures.ThreadPoolExecutor):
    """An executor in which a request with "poison" breaks its worker."""

    def submit(self, do: Any, /, *arguments: Any) -> Any:  # type: ignore[override]
        if any(isinstance(argument, bytes) and b"poison" in argument for argument in arguments):
            return super().submit(int, "a worker died")
        return super().submit(do, *arguments)


def test_a_request_that_breaks_workers_fails_alone(llama: Any, client: LlamaCppClient) -> None:
    server = llama()
    prompts = ["poison" if n == 70 else f"{n:03}" for n in range(100)]
    scheduler = Scheduler(one_server=False, pause=no_pause)
    with Breaking(2) as executor:
        workers = ExecutorWorkers(executor, client, scheduler, None, 2)
        results = list(Run(prepare(prompts, Defaults()), scheduler, workers))
    failed = [result for result in results if result.error is not None]
    assert [result.custom_id for result in failed] == ["request-71"]
    assert "a worker failed" in str(failed[0].error)
    assert len(results) == 100
    assert sorted(server.prompts) == sorted(set(prompts) - {"poison"})


def test_a_batch_by_an_executor_gives_up_as_soon_as_any_other() -> None:
    began = time.monotonic()
    client = LlamaCppClient("http://127.0.0.1:1")
    with concurrent.futures.ThreadPoolExecutor(2) as executor, pytest.raises(ServerNotRunningError):
        list(run(["a", "b"], client, executor=executor, wait=0.5))
    assert time.monotonic() - began < 15  # with `wait` of 0.5 seconds, not of 30 for each attempt


def test_a_client_that_cannot_be_pickled_is_an_error(endpoint: str) -> None:
    client = LlamaCppClient(endpoint, trace=lambda event: None)
    with concurrent.futures.ProcessPoolExecutor(1) as executor, pytest.raises(RequestError, match="client=None"):
        list(run(["a"], client, executor=executor))


def test_a_batch_needs_a_client_or_an_executor() -> None:
    with pytest.raises(RequestError, match="needs a client"):
        run(["a"])


def test_jobs_must_be_a_number_above_0() -> None:
    with pytest.raises(RequestError, match="jobs must be a number above 0"):
        run(["a"], LlamaCppClient("http://localhost:1"), jobs=0)
