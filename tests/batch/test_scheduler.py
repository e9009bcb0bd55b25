"""The order of requests, their retries, and whether a failure is that of the request or of the server. No I/O."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Dict, List, Optional

import pytest

from flynn.batch.queue import WINDOW, WINDOW_BYTES, Outage, Queue, Task
from flynn.batch.requests import Request
from flynn.batch.results import Result
from flynn.batch.scheduler import ATTEMPTS, REFUSALS, Scheduler, is_final
from flynn.errors import (
    AuthenticationError,
    ConnectionLostError,
    FlynnError,
    ModelLoadingError,
    ProtocolError,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
    StructuredOutputError,
)
from flynn.models.types import ChatResponse
from flynn.retry import is_temporary


def task(name: str, size: int = 1) -> Task:
    return Task(Request(name, "/x", name.encode() * size))


def queue_of(*names: str) -> Queue:
    queue = Queue()
    for name in names:
        queue.add(task(name))
    return queue


def take_at(queue: Queue, now: float, count: int = 1) -> List[Optional[str]]:
    """Take tasks at a moment. Returns their names; None if no task is ready."""
    tasks = [queue.take(0, now)[0] for _ in range(count)]
    return [task and task.request.custom_id for task in tasks]


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(WINDOW, 1), (2, WINDOW_BYTES // 2)])
def test_a_window_is_full_at_a_number_of_requests_or_of_bytes(count: int, size: int) -> None:
    queue = Queue()
    for _ in range(count):
        assert not queue.is_full
        queue.add(task("x", size))
    assert queue.is_full
    assert take_at(queue, 0.0) == ["x"]
    assert not queue.is_full


def test_a_retry_comes_first_but_not_before_its_time() -> None:
    queue = queue_of("new")
    queue.put_back(task("later"), 9.0)
    queue.put_back(task("sooner"), 2.0)
    assert take_at(queue, 1.0, 2) == ["new", None]
    assert queue.take(0, 1.5) == (None, 0.5)
    assert take_at(queue, 9.0, 2) == ["sooner", "later"]


def test_no_window_starts_while_many_results_wait_for_an_earlier_one() -> None:
    queue = queue_of("a")
    queue.held = WINDOW
    assert queue.take(0, 1.0) == (None, math.inf)
    queue.held -= 1
    assert take_at(queue, 1.0) == ["a"]


def window_of(*names: str) -> Queue:
    queue = queue_of(*names)
    queue.ended = True
    return queue


def take_by(queue: Queue, *workers: int) -> List[Optional[str]]:
    """Let workers take a task each, in turn. Returns the names of the tasks."""
    tasks = [queue.take(worker, 0.0)[0] for worker in workers]
    return [task and task.request.custom_id for task in tasks]


def test_each_worker_takes_a_part_of_its_own_in_order() -> None:
    queue = window_of(*"dbca")
    assert take_by(queue, 1, 2, 1, 2) == ["a", "c", "b", "d"]
    assert take_by(queue, 1, 2) == [None, None]
    assert not queue


def test_a_run_begins_with_the_requests_that_come_in_the_first_moment() -> None:
    scheduler = Scheduler()
    scheduler.set_limit(2)

    def read() -> None:
        for name in "ba":
            scheduler.add(Request(name, "/x", name.encode()))
            time.sleep(0.02)
        scheduler.end()

    threading.Thread(target=read).start()
    scheduler.gather()
    tasks = scheduler.take(0), scheduler.take(0)
    assert [task and task.request.custom_id for task in tasks] == ["a", "b"]


@pytest.mark.parametrize("workers", [1, 3, 7, 50])
def test_each_task_is_taken_once_by_any_number_of_workers(workers: int) -> None:
    names = [str(n) for n in range(101)]
    queue = window_of(*names)
    assert sorted(filter(None, take_by(queue, *(turn % workers for turn in range(200 * workers))))) == sorted(names)


# --- an outage --------------------------------------------------------------------------------------------------------


def test_one_request_at_a_time_tries_a_server_that_was_away() -> None:
    outage = Outage()
    assert outage.delay(0.0) == 0
    trial = task("trial")
    for number in range(10):
        outage.failed(ServerNotRunningError("down"), 10.0 * number, 4.0)
        outage.failed(ServerNotRunningError("down"), 10.0 * number, 4.0)  # of another request in flight
        assert outage.delay(10.0 * number) == 4.0
        assert outage.delay(10.0 * number + 4.0) == 0
        outage.trial = trial
        assert outage.delay(10.0 * number + 4.0) == math.inf
        outage.trial = None
    assert (outage.since, outage.failures) == (0.0, 10)


# --- kinds of failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "temporary", "final"),
    [
        (ServerNotRunningError("down"), True, False),
        (ServerError("busy", status=503, type="unavailable_error"), True, False),
        (ServerError("<html>", status=502), True, False),
        (ServerError("slow down", status=429, type="x"), True, False),
        (ServerError("oops", status=500, type="server_error"), False, False),
        (ServerError("no", status=400, type="invalid_request_error"), False, True),
        (ServerError("<html>", status=404), False, False),
        (AuthenticationError("<html>", status=403), False, False),
        (RequestTimeoutError(), False, False),
    ],
)
def test_an_error_is_temporary_for_the_server_or_final_for_the_request(
    error: FlynnError, temporary: bool, final: bool
) -> None:
    assert (is_temporary(error), is_final(error)) == (temporary, final)


class Run:
    """A scheduler without pauses, and one worker whose answers the test chooses.

    Args:
        answer: returns the answer to the request of a name: None for success, or an error.
        names: names of the requests.
        most: number of attempts after which the worker stops.

    Attributes:
        attempts: number of attempts of each request.
        results: results by the name of the request.
        error: the error that ended the run.
    """

    def __init__(self, answer: Any, *names: str, most: int = 200, **options: Any) -> None:
        scheduler = Scheduler(pause=lambda attempt, asked: 0.0, **options)
        scheduler.set_limit(1)
        for name in names:
            scheduler.add(Request(name, "/x", name.encode()))
        scheduler.end()
        self.attempts: Dict[str, int] = dict.fromkeys(names, 0)
        self.results: Dict[Any, Result] = {}
        self.error: Optional[BaseException] = None
        while most and (task := scheduler.take(0)):
            most -= 1
            request = task.request
            self.attempts[request.custom_id] += 1
            outcome = answer(request.custom_id)
            if outcome is None or isinstance(outcome, StructuredOutputError):
                outcome = Result(request.custom_id, 0, {}, outcome)
            scheduler.finish(task, outcome)
        if not most:
            scheduler.stop()
        try:
            while (results := scheduler.results(0.0)) is not None:
                self.results.update({result.custom_id: result for result in results})
        except FlynnError as error:
            self.error = error


FAILURES = [
    ServerError("oops", status=500, type="server_error"),
    ConnectionLostError("cut"),
    RequestTimeoutError(),
    ProtocolError("nonsense"),
    ServerError("<html>", status=404),
]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_a_request_that_fails_while_others_succeed_has_ten_attempts(error: FlynnError) -> None:
    run = Run(lambda name: error if name == "bad" else None, "bad", *map(str, range(20)))
    assert run.results["bad"].error is error
    assert run.attempts["bad"] == ATTEMPTS == 10
    assert {run.attempts[str(n)] for n in range(20)} == {1}


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_no_request_fails_while_the_server_fails_all(error: FlynnError) -> None:
    run = Run(lambda name: error, *map(str, range(5)))
    assert run.results == {}
    assert run.error is None
    assert sum(run.attempts.values()) == 200


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_the_run_ends_when_the_server_fails_all_for_longer_than_the_wait(error: FlynnError) -> None:
    def slowly(name: str) -> FlynnError:
        time.sleep(0.002)
        return error

    run = Run(slowly, "a", "b", wait=0.02)
    assert run.error is error
    assert run.results == {}


def test_a_time_in_which_the_server_fails_all_counts_against_no_request() -> None:
    failures = iter([ServerError("oops", status=500)] * 100)
    run = Run(lambda name: next(failures, None), *map(str, range(5)))
    assert [result.error for result in run.results.values()] == [None] * 5


@pytest.mark.parametrize("error", [ServerNotRunningError("down"), ModelLoadingError("Loading", status=503)])
def test_a_server_that_is_away_never_counts_against_a_request(error: FlynnError) -> None:
    down = iter([error] * 30)
    run = Run(lambda name: next(down, None) if name == "last" else None, "a", "b", "last")
    assert run.results["last"].error is None


def test_a_403_for_one_request_fails_that_one() -> None:
    filtered = AuthenticationError("<html>forbidden</html>", status=403)
    run = Run(lambda name: filtered if name == "bad" else None, "bad", *map(str, range(20)))
    assert run.results["bad"].error is filtered
    assert run.attempts["bad"] <= 2
    assert len(run.results) == 21
    assert run.error is None


def test_a_403_for_every_request_from_the_start_ends_the_run() -> None:
    wrong = AuthenticationError("<html>forbidden</html>", status=403)
    run = Run(lambda name: wrong, *map(str, range(20)))
    assert run.error is wrong
    assert sum(run.attempts.values()) == REFUSALS
    assert run.results == {}


def test_a_token_that_llama_server_itself_refuses_ends_the_run_at_once() -> None:
    wrong = AuthenticationError("Invalid API Key", status=401, type="authentication_error")
    run = Run(lambda name: wrong, *map(str, range(20)))
    assert run.error is wrong
    assert sum(run.attempts.values()) == 1


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_an_answer_that_does_not_fit_is_retried_as_often_as_allowed(retries: int) -> None:
    mismatch = StructuredOutputError("does not fit", ChatResponse(()))
    run = Run(lambda name: mismatch if name == "bad" else None, "bad", "good", retries=retries)
    assert run.attempts == {"bad": 1 + retries, "good": 1}
    assert run.results["bad"].error is mismatch
    assert run.results["good"].error is None
