"""The service under a real `systemd --user`, with a real llama.cpp server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest

from . import hub as fake
from .session import Session

IDLE_MINUTES = 0.05  # three seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server_arguments(llama_server: Path, real_model: Path) -> list[str]:
    given = ["--server", str(llama_server), "--model", str(real_model)]
    return [*given, "--ctx-size", "1024", "--gpu-layers", "0", "--extra=--threads 2"]


@pytest.fixture
def arguments(server_arguments: list[str], port: int) -> list[str]:
    return [*server_arguments, "--port", str(port), "--yes"]


@pytest.fixture(scope="class")
def standing(login: Session, server_arguments: list[str]) -> Iterator[tuple[list[str], str, str]]:
    arguments = [*server_arguments, "--port", str(free_port()), "--yes"]
    assert login.run("status").returncode == 69
    done = login.run(*arguments)
    assert done.returncode == 0, done.stderr
    yield arguments, done.stdout, done.stderr
    assert login.run("uninstall").returncode == 0


class TestAStandingService:
    """Installed once; each test leaves it running."""

    @pytest.fixture
    def arguments(self, standing: tuple[list[str], str, str]) -> list[str]:
        return standing[0]

    def test_it_has_answered_a_question(self, standing: tuple[list[str], str, str]) -> None:
        _, answer, said = standing
        assert answer.strip()
        assert "tokens/s)" in said

    def test_it_starts_with_the_login(self, login: Session, standing: object) -> None:
        assert login.show("llama-server", "ActiveState") == "active"
        assert login.systemctl("is-enabled", "llama-server") == "enabled"

    def test_status_shows_it(self, login: Session, standing: object) -> None:
        done = login.run("status")
        assert done.returncode == 0
        assert "Active: active (running)" in done.stdout

    def test_a_second_run_leaves_it_as_it_is(self, login: Session, arguments: list[str]) -> None:
        pid = login.show("llama-server", "MainPID")
        done = login.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "nothing was changed" in done.stderr
        assert login.show("llama-server", "MainPID") == pid

    def test_a_unit_that_an_interrupted_run_left_unread_is_read(self, login: Session, arguments: list[str]) -> None:
        pid = login.show("llama-server", "MainPID")
        unit = login.unit_dir / "llama-server.service"
        assert login.run(*arguments, "--no-start", "--alias", "written and not started").returncode == 0
        assert login.show("llama-server", "MainPID") == pid
        assert login.run(*arguments, "--alias", "written and not started").returncode == 0
        assert "written and not started" in _command_line(login)
        for backup in unit.parent.glob("*.backup-*"):
            backup.unlink()
        assert login.run(*arguments).returncode == 0

    def test_killed_it_is_back_within_seconds(self, login: Session, arguments: list[str]) -> None:
        pid = login.show("llama-server", "MainPID")
        os.kill(int(pid), signal.SIGKILL)
        _until(lambda: login.show("llama-server", "MainPID") not in (pid, "0"), 15)
        _until(lambda: _health(int(arguments[arguments.index("--port") + 1])) == 200, 60)


def test_at_a_unix_socket_it_is_back_too(user: Session, arguments: list[str]) -> None:
    path = user.runtime / "llama.sock"
    at = arguments.index("--port")
    done = user.run(*arguments[:at], "--socket", str(path), "--yes")
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o077 == 0
    pid = user.show("llama-server", "MainPID")
    os.kill(int(pid), signal.SIGKILL)
    assert path.exists(), "the socket that is in the way"
    _until(lambda: user.show("llama-server", "MainPID") not in (pid, "0"), 15)
    _until(lambda: _ask(path, "/health") == 200, 60)


def test_a_key_is_asked_for_and_flynn_has_it(user: Session, arguments: list[str], port: int) -> None:
    done = user.run(*arguments, "--api-key", "--alias", "my model %i $HOME")
    assert done.returncode == 0, done.stderr
    assert _health(port, "/v1/chat/completions", body={"messages": []}) == 401
    key = (user.home / ".config" / "flynn" / "api-key").read_text().strip()
    assert key not in _command_line(user)
    assert "my model %i $HOME" in _command_line(user)


def test_an_upgrade_to_another_model_restarts_the_server(user: Session, arguments: list[str], real_model: Path) -> None:
    user.run(*arguments)
    other = user.root / "another model.gguf"
    shutil.copy(real_model, other)
    arguments[arguments.index("--model") + 1] = str(other)
    done = user.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert f'+ExecStart={arguments[1]} -m "{other}"' in done.stderr
    assert str(other) in _command_line(user)
    assert len(list(user.unit_dir.glob("llama-server.service.backup-*"))) == 1
    other.unlink()


def test_a_model_is_downloaded_installed_and_removed(
    user: Session, arguments: list[str], real_model: Path, port: int
) -> None:
    with fake.running() as hub:
        hub.files["real.gguf"] = real_model.read_bytes()
        arguments[arguments.index("--model") + 1] = hub.spec("real.gguf")
        done = user.run(*arguments, "--models-dir", str(user.models), environ={"HF_ENDPOINT": hub.endpoint})
    assert done.returncode == 0, done.stderr
    assert str(user.models / "real.gguf") in _command_line(user)
    kept = user.run("uninstall")
    assert kept.returncode == 0, kept.stderr
    assert (user.models / "real.gguf").exists()
    assert str(user.models / "real.gguf") in kept.stderr
    assert _health(port) is None
    assert user.systemctl("is-enabled", "llama-server") not in ("enabled", "linked")
    assert [path.name for path in user.unit_dir.rglob("llama-server*") if "backup" not in path.name] == []
    assert user.run("uninstall", "--delete-model").returncode == 0
    assert not (user.models / "real.gguf").exists()


def test_on_demand_the_first_request_starts_it_and_idling_stops_it(
    user: Session, arguments: list[str], port: int
) -> None:
    done = user.run(*arguments, "--on-demand", "--idle", str(IDLE_MINUTES))
    assert done.returncode == 0, done.stderr
    assert "tokens/s)" in done.stderr
    for _ in range(2):
        _until(lambda: user.show("llama-server", "ActiveState") == "inactive", 30)
        assert user.show("llama-server-proxy.socket", "ActiveState") == "active"
        answered = _health(port, "/v1/chat/completions", body={"messages": [{"role": "user", "content": "Hi"}]})
        assert answered == 200, "the first request waits until the model is loaded, and is answered"
        assert user.show("llama-server", "ActiveState") == "active"


def test_on_demand_a_killed_server_is_started_again(user: Session, arguments: list[str], port: int) -> None:
    assert user.run(*arguments, "--on-demand").returncode == 0
    os.kill(int(user.show("llama-server", "MainPID")), signal.SIGKILL)
    _until(lambda: _health(port) == 200, 60)


def test_one_can_change_from_always_to_on_demand_and_back(user: Session, arguments: list[str]) -> None:
    assert user.run(*arguments).returncode == 0
    demand = user.run(*arguments, "--on-demand")
    assert demand.returncode == 0, demand.stderr
    assert user.systemctl("is-enabled", "llama-server-proxy.socket") == "enabled"
    back = user.run(*arguments)
    assert back.returncode == 0, back.stderr
    assert user.systemctl("is-enabled", "llama-server") == "enabled"
    assert not (user.unit_dir / "llama-server-proxy.socket").exists()
    assert user.show("llama-server-proxy.socket", "ActiveState") == "inactive"


def test_a_model_that_cannot_be_loaded_is_given_up(user: Session, arguments: list[str], real_model: Path) -> None:
    broken = user.root / "broken.gguf"
    broken.write_bytes(real_model.read_bytes()[:1_000_000])
    arguments[arguments.index("--model") + 1] = str(broken)
    done = user.run(*arguments)
    assert done.returncode == 69
    assert "does not stay up (last ended with exit code 1, " in done.stderr
    assert "Traceback" not in done.stderr
    _until(lambda: user.show("llama-server", "ActiveState") == "failed", 120)


def test_a_port_that_is_taken_is_noticed_before_anything_is_written(user: Session, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", int(arguments[arguments.index("--port") + 1]))):
        done = user.run(*arguments)
    assert done.returncode == 1
    assert "cannot listen there" in done.stderr
    assert not (user.unit_dir / "llama-server.service").exists()


def test_lingering_that_is_refused_is_said_with_the_command_that_helps(user: Session, arguments: list[str]) -> None:
    if shutil.which("loginctl") and Path("/run/systemd/seats").exists() and not _no_logind():
        pytest.skip("logind runs here, and this would change a real account")
    done = user.run(*arguments, "--linger")
    assert done.returncode == 1
    assert "sudo loginctl enable-linger tester" in done.stderr
    assert user.show("llama-server", "ActiveState") == "active"


def _no_logind() -> bool:
    return subprocess.run(["loginctl", "list-sessions"], capture_output=True).returncode != 0


def _command_line(user: Session) -> str:
    return Path(f"/proc/{user.show('llama-server', 'MainPID')}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.1)


def _health(port: int, path: str = "/health", *, body: Optional[object] = None) -> Optional[int]:
    """The status that the server answers with; None if it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    return _status(connection, path, body)


def _ask(unix: Path, path: str) -> Optional[int]:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        connection.sock.connect(str(unix))
        return _status(connection, path, None)
    connection.close()
    return None


def _status(connection: http.client.HTTPConnection, path: str, body: Optional[object]) -> Optional[int]:
    try:
        if body is None:
            connection.request("GET", path)
        else:
            message = {"max_tokens": 4, **body} if isinstance(body, dict) else body
            connection.request("POST", path, json.dumps(message), {"Content-Type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def _show_the_log_of_a_failure(login: Session) -> Iterator[None]:
    yield
    print((login.root / "systemd.log").read_text()[-2000:])
