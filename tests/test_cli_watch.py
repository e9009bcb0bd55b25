"""`flynn status --watch`."""

from __future__ import annotations

import json
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from command import FLYNN, Home, Terminal, environment, routes
from scripted import LOADING, answering, error, response, serve

from flynn import LlamaCppClient
from flynn.cli.status import Look, SlotWork, measure, slot_line, summary, watched, work_of
from flynn.models.local.server import decode_props, decode_slots

UP = {
    "GET /health": response(b'{"status": "ok"}'),
    "GET /props": response(b'{"model_alias": "/models/small", "total_slots": 2}'),
    "GET /slots": response(b'[{"id": 0, "is_processing": false, "n_ctx": 512}]'),
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def slot(**fields: Any) -> SlotWork:
    (decoded,) = decode_slots([{"id": 1, "n_ctx": 512, **fields}])
    return work_of(decoded)


# --- what is seen -----------------------------------------------------------------------------------------------------


def test_a_slot_reads_then_writes() -> None:
    reading = {"is_processing": True, "id_task": 7, "n_prompt_tokens": 40, "n_prompt_tokens_processed": 30}
    assert slot(**reading) == SlotWork(1, True, 7, 30, 0, 40, 512)
    for next_token in [{"n_decoded": 9}], {"n_decoded": 9}:  # of newer and of older servers
        assert slot(**reading, next_token=next_token) == SlotWork(1, True, 7, 30, 9, 40, 512)
    assert slot(is_processing=False, id_task=7, next_token=[]) == SlotWork(1, False, None, 0, 0, 0, 512)
    assert slot(is_processing=True, next_token="x") == SlotWork(1, True, -1, 0, 0, 0, 512)


def test_the_pace_is_that_since_the_last_look_at_the_same_request() -> None:
    def pace(before: Look, now: Look) -> List[Any]:
        measure(before, now)
        assert now.slots is not None
        return [work.tokens_per_second for work in now.slots]

    def seen(time: float, *work: SlotWork) -> Look:
        return Look("up", slots=[replace(slot) for slot in work], time=time)

    read, wrote = SlotWork(0, True, 7, 100, 0, 100, 512), SlotWork(0, True, 7, 200, 10, 210, 512)
    more = SlotWork(0, True, 7, 200, 60, 260, 512)
    assert pace(Look("down"), seen(1, read)) == [None]
    assert pace(seen(0), seen(2, read)) == [50]
    assert pace(seen(1, read), seen(2, wrote)) == [10]
    assert pace(seen(1, wrote), seen(3, more)) == [25]
    assert pace(seen(1, more), seen(2, SlotWork(0, True, 8, 5, 20, 25, 512))) == [20]
    assert pace(seen(1, more), seen(2, SlotWork(0, False, None, 0, 0, 0, 512))) == [None]


def test_lines_show_what_is_known() -> None:
    def lines(now: Look) -> List[str]:
        return summary(watched("E", now))

    assert lines(Look("down")) == ["E is down"]
    assert lines(Look("llama-server request timed out")) == ["E: llama-server request timed out"]
    assert lines(Look("up", decode_props({"model_alias": "/models/small"}))) == ["E is up with small"]
    work = [
        SlotWork(0, True, 7, 3, 9, 12, 512, 12.34),
        SlotWork(1, True, 8, 30, 0, 30, 512, 300.0),
        SlotWork(12, False, None, 0, 0, 9, 512),
    ]
    assert lines(Look("up", slots=work, waiting=3)) == ["E is up", "2 of 3 slots busy, 3 waiting, 12.3 tokens/s"]
    assert [slot_line(slot) for slot in work] == [
        "slot 0   writes      9 tokens     12.3 tokens/s  context 12 of 512",
        "slot 1   reads      30 tokens    300.0 tokens/s  context 30 of 512",
        "slot 12  free",
    ]


# --- how it is shown --------------------------------------------------------------------------------------------------


def watching(endpoint: str, *options: str) -> List[str]:
    return ["status", "--watch", "--interval", "0.1", "--endpoint", endpoint, *options]


@pytest.fixture
def lines(home: Home) -> Iterator[Callable[..., Any]]:
    """Starts the command; its lines as they come, and the process."""
    started = []

    def start(*arguments: str) -> Any:
        process = home.start(*arguments)
        started.append(process)
        assert process.stdout is not None
        return (line.decode() for line in process.stdout), process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_without_a_terminal_each_look_is_a_line_and_ctrl_c_is_130(lines: Callable[..., Any]) -> None:
    with serve(routes(UP)) as server:
        shown, process = lines(*watching(server.endpoint))
        for _ in range(3):
            line = next(shown)
            assert re.fullmatch(r"\d\d:\d\d:\d\d (.*)\n", line)
            assert line[9:-1] == f"{server.endpoint} is up with small, 0 of 1 slots busy, 0.0 tokens/s"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""


def test_on_a_terminal_the_lines_are_replaced(home: Home) -> None:
    with serve(routes(UP)) as server, home.terminal(*watching(server.endpoint)) as terminal:
        shown = [f"{server.endpoint} is up with small", "0 of 1 slots busy, 0.0 tokens/s", "slot 0   free", "\x1b[J"]
        drawn = "\x1b[K\r\n".join(shown)
        assert terminal.expect("\x1b[J") == drawn
        assert terminal.expect("\x1b[J") == "\x1b[3F" + drawn
        terminal.interrupt()
        assert terminal.end() == 130
        assert terminal.text.endswith("^C\r\n")


def test_on_a_small_terminal_as_much_is_shown_as_fits(home: Home) -> None:
    many = response(json.dumps([{"id": number, "is_processing": False} for number in range(50)]).encode())
    small = ["/bin/sh", "-c", 'stty cols 20 rows 5; exec "$0" "$@"', *FLYNN]
    with serve(routes({**UP, "GET /slots": many})) as server:
        command = [*small, *watching(server.endpoint)]
        stale = environment(home.path, COLUMNS="80", LINES="24")
        with Terminal(command, home.path, stale) as terminal:
            first = terminal.expect("\x1b[J").split("\r\n")
            terminal.expect("\x1b[4F")
    assert [line.replace("\x1b[K", "") for line in first[:4]] == [
        server.endpoint[:19],
        "0 of 50 slots busy,",
        "slot 0   free",
        "slot 1   free",
    ]


def test_on_a_terminal_that_cannot_replace_lines_they_follow_each_other(home: Home) -> None:
    home.variables["TERM"] = "dumb"
    with serve(routes(UP)) as server, home.terminal(*watching(server.endpoint)) as terminal:
        for _ in range(2):
            terminal.expect(f"{server.endpoint} is up with small, 0 of 1 slots busy, 0.0 tokens/s\r\n")
    assert "\x1b" not in terminal.text


def test_a_metric_that_is_not_a_finite_number_is_left_out(lines: Callable[..., Any]) -> None:
    metrics = response(b"llamacpp:requests_deferred NaN\n", kind="text/plain")
    with serve(routes({**UP, "GET /metrics": metrics})) as server:
        shown, _ = lines(*watching(server.endpoint, "--json"))
        assert json.loads(next(shown))["waiting"] is None


def test_what_the_server_does_not_report_is_left_out(lines: Callable[..., Any]) -> None:
    with serve(routes({**UP, "GET /slots": response(error(501, "no", "not_supported_error"), "501 No")})) as server:
        shown, _ = lines(*watching(server.endpoint))
        assert next(shown)[9:] == f"{server.endpoint} is up with small\n"
        shown, _ = lines(*watching(server.endpoint, "--json"))
        assert json.loads(next(shown)) == {
            "endpoint": server.endpoint,
            "state": "up",
            "model": "small",
            "slots": None,
            "waiting": None,
            "tokens_per_second": None,
        }


def test_a_server_that_loads_or_says_nothing_is_waited_for(lines: Callable[..., Any]) -> None:
    with serve(answering(LOADING)) as server:
        shown, _ = lines(*watching(server.endpoint))
        assert next(shown)[9:] == f"{server.endpoint} is loading\n"
    with serve(lambda peer: peer.stall()) as server:
        shown, _ = lines(*watching(server.endpoint, "--timeout", "0.2"))
        for _ in range(2):
            assert next(shown)[9:] == f"{server.endpoint}: llama-server request timed out\n"


def test_a_wrong_key_ends_it(home: Home) -> None:
    refused = response(error(401, "Invalid API Key", "authentication_error"), "401 Unauthorized")
    with serve(routes({**UP, "GET /slots": refused})) as server:
        ended = home.run(*watching(server.endpoint))
    assert (ended.code, ended.out) == (77, "")
    assert ended.err.startswith("flynn: Invalid API Key; the token comes from ")


def test_a_closed_pipe_ends_it_quietly(lines: Callable[..., Any]) -> None:
    with serve(routes(UP)) as server:
        shown, process = lines(*watching(server.endpoint))
        next(shown)
        shown.close()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "x", "1e9"])
def test_an_interval_is_a_number_of_seconds(home: Home, interval: str) -> None:
    message = f"argument --interval: expected seconds from 0.1 to 86400, not {interval!r} (see flynn status --help)"
    assert home.run("status", "--watch", f"--interval={interval}") == (2, "", f"flynn: {message}\n")
    assert home.run("status", "--interval", "1") == (2, "", "flynn: --interval goes with --watch\n")


# --- a real server ----------------------------------------------------------------------------------------------------


def test_a_real_server_at_work_is_seen(lines: Callable[..., Any], start_server: Any) -> None:
    server = start_server(ctx_size=512, parallel=1, metrics=True, threads=1)

    def generate() -> None:
        with LlamaCppClient(server.endpoint) as client:
            for _ in client.chat_stream("Tell a long story.", max_tokens=150, ignore_eos=True):
                pass

    shown, _ = lines(*watching(server.endpoint, "--json"))
    assert json.loads(next(shown))["slots"][0]["busy"] is False
    threads = [threading.Thread(target=generate) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen: List[Dict[str, Any]] = []
    while not seen or seen[-1]["slots"][0]["busy"] or not any(look["slots"][0]["busy"] for look in seen):
        seen.append(json.loads(next(shown)))
    for thread in threads:
        thread.join()
    assert max(look["slots"][0]["written"] for look in seen) > 20
    assert max(look["tokens_per_second"] for look in seen) > 0
    assert max(look["waiting"] for look in seen) == 1
    assert all(look["slots"][0]["used"] <= look["slots"][0]["n_ctx"] == 512 for look in seen)


def test_a_real_server_that_goes_away_and_comes_back_is_waited_for(home: Home, start_server: Any) -> None:
    server = start_server(ctx_size=512, parallel=1)
    with home.terminal(*watching(server.endpoint)) as terminal:
        terminal.expect("slot 0   free")
        server.kill()
        terminal.expect(f"{server.endpoint} is down\x1b[K\r\n\x1b[J")
        server.restart()
        terminal.expect("slot 0   free")
        terminal.interrupt()
        assert terminal.end() == 130
    assert "Traceback" not in terminal.text
