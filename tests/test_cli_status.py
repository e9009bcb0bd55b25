"""`flynn status`."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any, Iterator

import pytest
from command import ROOT, Home, routes
from pytest_httpserver import HTTPServer, HTTPServerError
from scripted import LOADING, answering, error, eventually, response, serve
from service.session import Session, private_manager, runtime_dir, short_folder, why_no_manager

READY = response(b'{"status": "ok"}')
PROPS = response(
    json.dumps(
        {
            "default_generation_settings": {"n_ctx": 2048},
            "total_slots": 2,
            "model_alias": "small",
            "model_path": "/models/small.gguf",
            "build_info": "b11549-abc",
        }
    ).encode()
)
SLOTS = response(b'[{"id": 0, "is_processing": true}, {"id": 1, "is_processing": false}]')
UP = {"GET /health": READY, "GET /props": PROPS, "GET /slots": SLOTS}


@pytest.fixture(scope="module")
def login() -> Iterator[Session]:
    """A user whose systemd runs."""
    if reason := why_no_manager():
        pytest.skip(reason)
    with short_folder() as folder, runtime_dir() as runtime:
        session = Session(folder, runtime)
        with private_manager(session):
            yield session


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_up_with_what_it_runs(home: Home) -> None:
    with serve(routes(UP)) as server:
        ended = home.run("status", "--endpoint", server.endpoint)
    assert ended == (
        0,
        f"{server.endpoint} is up\n"
        "model    small\n"
        "context  2048 tokens a slot\n"
        "slots    2: 1 free, 1 busy\n"
        "build    b11549-abc\n",
        "",
    )


def test_up_for_a_program(home: Home) -> None:
    with serve(routes(UP)) as server:
        ended = home.run("status", "--json", "--endpoint", server.endpoint)
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1)
    assert json.loads(ended.out) == {
        "endpoint": server.endpoint,
        "state": "up",
        "model": "small",
        "model_path": "/models/small.gguf",
        "n_ctx": 2048,
        "slots": {"total": 2, "free": 1, "busy": 1},
        "build": "b11549-abc",
    }


def test_what_the_server_does_not_report_is_unknown(home: Home) -> None:
    silent = response(error(501, "no slots", "not_supported_error"), "501 Not Implemented")
    with serve(routes({**UP, "GET /slots": silent, "GET /props": response(b'{"total_slots": 2}')})) as server:
        ended = home.run("status", "--endpoint", server.endpoint)
        as_json = json.loads(home.run("status", "--json", "--endpoint", server.endpoint).out)
    expected = "model    unknown\ncontext  unknown tokens a slot\nslots    2\nbuild    unknown\n"
    assert ended == (0, f"{server.endpoint} is up\n{expected}", "")
    assert as_json["slots"] == {"total": 2, "free": None, "busy": None}
    assert as_json["model"] is as_json["model_path"] is as_json["n_ctx"] is as_json["build"] is None


def test_a_real_server_is_up(home: Home, real_server: Any) -> None:
    ended = home.run("status", "--json", "--endpoint", real_server.endpoint)
    status = json.loads(ended.out)
    assert (ended.code, ended.err, status["state"]) == (0, "", "up")
    assert "SmolLM2" in status["model"]
    assert status["n_ctx"] > 0
    assert status["slots"]["free"] + status["slots"]["busy"] == status["slots"]["total"] > 0


def test_loading_is_75(home: Home) -> None:
    with serve(answering(LOADING)) as server:
        assert home.run("status", "--endpoint", server.endpoint) == (75, f"{server.endpoint} is loading\n", "")
        as_json = home.run("status", "--json", "--endpoint", server.endpoint)
    assert as_json == (75, json.dumps({"endpoint": server.endpoint, "state": "loading"}) + "\n", "")


def test_down_is_69_and_says_how_to_get_a_server(home: Home) -> None:
    endpoint = "http://127.0.0.1:1"
    advice = f"There is no service llama-server yet. Install it: make -C {ROOT} install-service\n"
    assert home.run("status", "--endpoint", endpoint) == (69, f"{endpoint} is down\n", advice)
    as_json = home.run("status", "--json", "--endpoint", endpoint)
    assert as_json == (69, json.dumps({"endpoint": endpoint, "state": "down"}) + "\n", advice)
    socket = f"unix://{home.path}/none.sock"
    assert home.run("status", "--endpoint", socket) == (69, f"{socket} is down\n", advice)


def test_without_the_source_the_advice_does_not_name_make(home: Home) -> None:
    shutil.copytree(ROOT / "flynn", home.path / "flynn", ignore=shutil.ignore_patterns("__pycache__"))
    home.variables["PYTHONPATH"] = ""
    ended = home.run("status", "--endpoint", "http://127.0.0.1:1")
    assert ended.code == 69
    assert "Start a server: llama-server --model FILE.gguf --port 8080\n" in ended.err


@pytest.mark.parametrize(
    ("command", "start", "advice"),
    [
        ("/bin/sleep 600", False, "Start it: systemctl --user start llama-server\n"),
        (
            "/bin/sh -c 'echo no such model; exit 3'",
            True,
            "The service has failed: no such model\n",
        ),
        ("/bin/sleep 600", True, "The service runs, but listens elsewhere or not yet.\n"),
    ],
)
def test_the_advice_fits_the_state_of_the_service(
    home: Home, login: Session, command: str, start: bool, advice: str
) -> None:
    login.unit_dir.mkdir(parents=True, exist_ok=True)
    unit = login.unit_dir / "llama-server.service"
    unit.write_text(f"[Service]\nExecStart={command}\n")
    login.systemctl("daemon-reload")
    try:
        if start:
            login.systemctl("start", "llama-server")
            wanted = "failed" if "exit" in command else "active"
            eventually(lambda: login.show("llama-server", "ActiveState") == wanted)
        home.variables["XDG_RUNTIME_DIR"] = str(login.runtime)
        ended = home.run("status", "--endpoint", "http://127.0.0.1:1")
    finally:
        login.systemctl("stop", "llama-server")
        unit.unlink()
        login.systemctl("daemon-reload")
        login.systemctl("reset-failed")
    assert ended.code == 69
    assert ended.err.startswith(advice)
    assert "make" not in ended.err
    if "failed" in advice:
        assert "Start it again: systemctl --user restart llama-server\n" in ended.err


def test_a_sleeping_server_is_not_woken_up(home: Home) -> None:
    asleep = response(json.dumps({"total_slots": 2, "model_alias": "small", "is_sleeping": True}).encode())
    woken = response(error(500, "this would wake it up", "server_error"), "500 Internal Server Error")
    server_routes = routes({"GET /health": READY, "GET /props": asleep, "GET /slots": woken, "GET /metrics": woken})
    with serve(server_routes) as server:
        ended = home.run("status", "--endpoint", server.endpoint)
        as_json = home.run("status", "--json", "--endpoint", server.endpoint)
    assert (ended.code, ended.out.splitlines()[0]) == (0, f"{server.endpoint} is sleeping")
    assert json.loads(as_json.out)["state"] == "sleeping"
    assert json.loads(as_json.out)["slots"] == {"total": 2, "free": None, "busy": None}


def test_a_server_at_llama_cpp_s_new_port_is_found(home: Home) -> None:
    server = HTTPServer("127.0.0.1", 9931)
    server.expect_request("/health").respond_with_json({"status": "ok"})
    try:
        socket.create_server(("127.0.0.1", 8080)).close()
        server.start()
    except (OSError, HTTPServerError) as error:
        pytest.skip(f"a port of llama-server's is taken here: {error}")
    try:
        ended = home.run("status")
    finally:
        server.stop()
    assert (ended.code, ended.out) == (69, "http://localhost:8080 is down\n")
    assert "A llama-server answers at http://localhost:9931" in ended.err


def test_down_elsewhere_is_not_to_be_started_here(home: Home) -> None:
    endpoint = "http://nowhere.invalid:8080"
    home.variables["no_proxy"] = "*"
    ended = home.run("status", "--endpoint", endpoint)
    assert ended == (69, f"{endpoint} is down\n", "Start llama-server there, or give another --endpoint.\n")
