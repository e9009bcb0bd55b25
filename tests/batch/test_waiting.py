"""What waits to be sent, and what is done while there is no server: the pure parts, at made-up times."""

from __future__ import annotations

from typing import List, Optional

import pytest

from flynn.batch.queue import (
    FIRST_PAUSE,
    GATHER,
    LONGEST_PAUSE,
    WINDOW,
    WINDOW_BYTES,
    Outage,
    Queue,
    Task,
    is_away,
)
from flynn.batch.requests import Request
from flynn.batch.scheduler import is_final
from flynn.errors import ConnectionLostError, FlynnError, RequestTimeoutError, ServerError, ServerNotRunningError


def request(name: str, size: int = 1) -> Request:
    return Request(name, "/x", name.encode() * size)


def waiting(*names: str) -> Queue:
    found = Queue()
    for name in names:
        found.add(request(name), 0.0)
    return found


def names(source: Queue, now: float, count: int = 1) -> List[Optional[str]]:
    taken = [source.take(0, now)[0] for _ in range(count)]
    return [task and task.request.custom_id for task in taken]


def test_more_to_choose_from_is_waited_for_a_moment() -> None:
    source = waiting("b", "a")
    assert source.take(0, 0.0) == (None, GATHER)
    assert names(source, GATHER, 3) == ["a", "b", None]
    assert not source


def test_nothing_is_waited_for_once_all_have_come() -> None:
    source = waiting("b", "a")
    source.ended = True
    assert names(source, 0.0) == ["a"]


@pytest.mark.parametrize(("count", "size"), [(WINDOW, 1), (2, WINDOW_BYTES // 2)])
def test_enough_is_a_number_of_requests_or_of_bytes(count: int, size: int) -> None:
    source = Queue()
    assert [source.add(request("x", size), 0.0) for _ in range(count)] == [True] + [False] * (count - 1)
    assert source.is_full
    assert names(source, 0.0) == ["x"]
    assert not source.is_full


def test_what_is_tried_again_comes_first_and_not_before_its_time() -> None:
    source = waiting("new")
    source.put_back(Task(request("later")), 9.0)
    source.put_back(Task(request("sooner")), 2.0)
    assert names(source, 1.0, 2) == ["new", None]
    assert source.take(0, 1.5) == (None, 0.5)
    assert names(source, 9.0, 2) == ["sooner", "later"]


def test_no_window_is_begun_while_many_results_wait_for_an_earlier_one() -> None:
    source = waiting("a")
    source.held = WINDOW
    assert source.take(0, 1.0) == (None, None)
    source.held -= 1
    assert names(source, 1.0) == ["a"]


def test_a_failure_counts_unless_the_server_fails_everybody() -> None:
    task = Task(request("a"))
    busy = ServerError("busy", status=503)
    for error, succeeded in [
        (ServerNotRunningError("down"), 0),  # it was not even sent
        (busy, 0),
        (busy, 0),  # nobody else had an answer since
        (busy, 1),
        (ConnectionLostError("cut"), 1),
        (RequestTimeoutError(), 1),
    ]:
        task.failed(error, succeeded)
    assert (task.failures, task.limit(1.0), task.limit(None)) == (3, 2.0, None)
    assert task.pause == 4 * FIRST_PAUSE


def test_one_request_at_a_time_tries_whether_the_server_is_back_after_longer_and_longer_pauses() -> None:
    outage = Outage()
    assert outage.delay(0.0) == 0
    now, pauses = 0.0, []
    for _ in range(10):
        outage.failed(now)
        outage.failed(now)  # of those that were under way with it
        pauses.append(outage.delay(now))
        now += pauses[-1] or 0.0
        assert outage.delay(now) == 0
        outage.attempt()
        assert outage.delay(now) is None
        outage.attempted()
    assert pauses == [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(10)]
    assert outage.since == 0.0
    assert outage.end()
    assert (outage.since, outage.delay(now), outage.end()) == (None, 0.0, False)


@pytest.mark.parametrize(
    ("error", "away", "final"),
    [
        (ServerNotRunningError("down"), True, False),
        (ServerError("busy", status=503, type="unavailable_error"), True, False),
        (ServerError("<html>", status=502), True, False),
        (ServerError("slow down", status=429, type="x"), True, False),
        (ServerError("oops", status=500, type="server_error"), False, False),
        (ServerError("no", status=400, type="invalid_request_error"), False, True),
        (ServerError("<html>", status=404), False, False),
        (RequestTimeoutError(), False, False),
    ],
)
def test_what_an_error_says_of_the_server_and_of_the_request(error: FlynnError, away: bool, final: bool) -> None:
    assert (is_away(error), is_final(error)) == (away, final)
