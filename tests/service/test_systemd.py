"""The service under a real `systemd --user`, with a real llama.cpp server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from installer import units
from installer.errors import InstallError
from installer.unit import NEW_PORT
from scripted import eventually

from flynn import LlamaCppClient

from . import hub as fake
from .running import command_line, drop_in, free_port, health, health_at_socket
from .session import Session

pytestmark = pytest.mark.usefixtures("_print_systemd_log")


@pytest.fixture(scope="class")
def installed(login: Session, server_arguments: list[str]) -> Iterator[tuple[list[str], str, str]]:
    """Install the service. Yields the arguments, standard output and standard error of the installer."""
    arguments = [*server_arguments, "--port", str(free_port()), "--yes"]
    assert login.run("status").returncode == 69
    done = login.run(*arguments)
    assert done.returncode == 0, done.stderr
    yield arguments, done.stdout, done.stderr
    assert login.run("uninstall").returncode == 0


class TestInstalledService:
    """The service is installed once. Each test leaves it running."""

    @pytest.fixture
    def arguments(self, installed: tuple[list[str], str, str]) -> list[str]:
        return installed[0]

    def test_the_installer_prints_an_answer(self, installed: tuple[list[str], str, str]) -> None:
        _, answer, errors = installed
        assert answer.strip()
        assert "tokens/s)" in errors

    def test_it_is_active_and_enabled(self, login: Session, installed: object) -> None:
        assert login.show("llama-server", "ActiveState") == "active"
        assert login.systemctl("is-enabled", "llama-server") == "enabled"

    def test_status_shows_it(self, login: Session, installed: object) -> None:
        done = login.run("status")
        assert done.returncode == 0
        assert "Active: active (running)" in done.stdout

    def test_a_second_run_changes_nothing(self, login: Session, arguments: list[str]) -> None:
        pid = login.show("llama-server", "MainPID")
        done = login.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "nothing was changed" in done.stderr
        assert login.show("llama-server", "MainPID") == pid

    def test_a_unit_that_systemd_has_not_loaded_yet_is_loaded(self, login: Session, arguments: list[str]) -> None:
        pid = login.show("llama-server", "MainPID")
        unit = login.unit_dir / "llama-server.service"
        assert login.run(*arguments, "--no-start", "--alias", "written and not started").returncode == 0
        assert login.show("llama-server", "MainPID") == pid
        assert login.run(*arguments, "--alias", "written and not started").returncode == 0
        assert "written and not started" in command_line(login)
        for backup in unit.parent.glob("*.backup-*"):
            backup.unlink()
        assert login.run(*arguments).returncode == 0

    def test_only_pages_from_localhost_may_read_responses(self, arguments: list[str]) -> None:
        port = int(arguments[arguments.index("--port") + 1])
        for origin, allowed in (("http://localhost:3000", "http://localhost:3000"), ("https://page.example", None)):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={"Origin": origin})
            with urllib.request.urlopen(request) as answer:
                assert answer.headers.get("Access-Control-Allow-Origin") == allowed

    def test_it_survives_ten_manual_restarts(self, login: Session, arguments: list[str]) -> None:
        for _ in range(10):
            assert login.systemctl("restart", "llama-server") == ""
        assert login.show("llama-server", "ActiveState") == "active"
        eventually(lambda: health(int(arguments[arguments.index("--port") + 1])) == 200, 60)

    def test_a_port_set_by_the_environment_is_found_in_the_log(self, login: Session, arguments: list[str]) -> None:
        other_port = free_port()
        with drop_in(login, f"[Service]\nExecStart=\n{_exec_start(login, other_port)}"):
            login.systemctl("stop", "llama-server")
            done = login.run(*arguments)
        assert done.returncode == 1
        problem = f"llama-server listens on port {other_port}, not on {arguments[arguments.index('--port') + 1]}"
        assert problem in done.stderr
        login.systemctl("daemon-reload")
        login.systemctl("restart", "llama-server")

    def test_without_a_log_the_new_default_port_is_probed(self, login: Session, arguments: list[str]) -> None:
        tools = login.root / "tools"
        tools.mkdir()
        (tools / "systemctl").symlink_to(shutil.which("systemctl") or "")
        environ = {**login.environ, "PATH": str(tools)}
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # another process already listens there
                stack.enter_context(socket.create_server(("127.0.0.1", NEW_PORT)))
            units.check_alive(environ, 9, seconds=0.0)  # too early to conclude anything
            with pytest.raises(InstallError, match=f"llama-server listens on port {NEW_PORT}, not on 9"):
                units.check_alive(environ, 9, seconds=units.SILENT_SECONDS + 1)
            port = int(arguments[arguments.index("--port") + 1])
            eventually(lambda: health(port) == 200, 60)
            units.check_alive(environ, port, units.SILENT_SECONDS + 1)

    def test_a_killed_server_is_restarted(self, login: Session, arguments: list[str]) -> None:
        pid = login.show("llama-server", "MainPID")
        os.kill(int(pid), signal.SIGKILL)
        eventually(lambda: login.show("llama-server", "MainPID") not in (pid, "0"), 15)
        eventually(lambda: health(int(arguments[arguments.index("--port") + 1])) == 200, 60)


def test_a_killed_server_on_a_unix_socket_is_restarted(user: Session, arguments: list[str]) -> None:
    path = user.runtime / "llama.sock"
    at = arguments.index("--port")
    done = user.run(*arguments[:at], "--socket", str(path), "--yes")
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o077 == 0
    pid = user.show("llama-server", "MainPID")
    os.kill(int(pid), signal.SIGKILL)
    assert path.exists(), "the leftover socket must not prevent the restart"
    eventually(lambda: user.show("llama-server", "MainPID") not in (pid, "0"), 15)
    eventually(lambda: health_at_socket(path) == 200, 60)


def test_with_api_key_the_server_requires_the_key(user: Session, arguments: list[str], port: int) -> None:
    done = user.run(*arguments, "--api-key", "--alias", "my model %i $HOME")
    assert done.returncode == 0, done.stderr
    assert health(port, "/v1/chat/completions", body={"messages": []}) == 401
    key = (user.home / ".config" / "flynn" / "api-key").read_text().strip()
    assert key not in command_line(user)
    assert "my model %i $HOME" in command_line(user)


def test_another_model_restarts_the_server(user: Session, arguments: list[str], real_model: Path) -> None:
    user.run(*arguments)
    other = user.root / "another model.gguf"
    shutil.copy(real_model, other)
    arguments[arguments.index("--model") + 1] = str(other)
    done = user.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert f'+ExecStart={arguments[1]} -m "{other}"' in done.stderr
    assert str(other) in command_line(user)
    assert len(list(user.unit_dir.glob("llama-server.service.backup-*"))) == 1
    other.unlink()


def test_a_model_is_downloaded_installed_and_removed(
    user: Session, arguments: list[str], real_model: Path, port: int
) -> None:
    with fake.running() as hub:
        hub.files["real.gguf"] = real_model.read_bytes()
        arguments[arguments.index("--model") + 1] = hub.spec("real.gguf")
        arguments += ["--models-dir", str(user.models)]
        done = user.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert done.returncode == 0, done.stderr
    again = user.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert (again.returncode, "nothing was changed" in again.stderr) == (0, True), (
        "the second run must not need the hub"
    )
    assert str(user.models / "real.gguf") in command_line(user)
    removal = user.run("uninstall")
    assert removal.returncode == 0, removal.stderr
    assert (user.models / "real.gguf").exists()
    assert str(user.models / "real.gguf") in removal.stderr
    assert health(port) is None
    assert user.systemctl("is-enabled", "llama-server") not in ("enabled", "linked")
    assert [path.name for path in user.unit_dir.rglob("llama-server*") if "backup" not in path.name] == []
    assert user.run("uninstall", "--delete-model").returncode == 0
    assert not (user.models / "real.gguf").exists()


def test_several_models_behind_one_service(user: Session, arguments: list[str], real_model: Path, port: int) -> None:
    other = user.root / "other.gguf"
    other.symlink_to(real_model)
    done = user.run(*arguments, "--model", str(other))
    assert done.returncode == 0, done.stderr
    assert "tokens/s)" in done.stderr
    with LlamaCppClient(f"http://127.0.0.1:{port}") as client:
        assert {model.id for model in client.models()} == {real_model.stem, "other"}
    for model in ([], ["--model", "other"]):
        assert user.flynn("ask", "Hi", "--max-tokens", "4", *model).returncode == 0
    other.unlink()


def test_a_server_for_embeddings_accepts_long_texts(user: Session, arguments: list[str], port: int) -> None:
    done = user.run(*arguments, "--embeddings", "mean")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "an embedding of 576 numbers\n"
    assert health(port, "/v1/embeddings", body={"input": "word " * 900}) == 200


def test_a_changed_key_restarts_the_server(user: Session, arguments: list[str], port: int) -> None:
    assert user.run(*arguments, "--api-key").returncode == 0
    pid = user.show("llama-server", "MainPID")
    assert user.run(*arguments, "--api-key").returncode == 0
    assert user.show("llama-server", "MainPID") == pid, "the key has not changed"
    (user.home / ".config" / "flynn" / "api-key").write_text("a-key-of-my-own\n")
    done = user.run(*arguments, "--api-key")
    assert done.returncode == 0, done.stderr
    assert user.show("llama-server", "MainPID") != pid
    assert user.flynn("ask", "Hi", "--max-tokens", "4").returncode == 0


def test_the_service_fails_for_good_if_the_model_cannot_be_loaded(
    user: Session, arguments: list[str], real_model: Path
) -> None:
    broken = user.root / "broken.gguf"
    broken.write_bytes(real_model.read_bytes()[:1_000_000])
    arguments[arguments.index("--model") + 1] = str(broken)
    with drop_in(user, "[Service]\nRestartSec=10ms\n"):
        done = user.run(*arguments)
        assert done.returncode == 69
        assert "keeps failing (last with exit code 1, " in done.stderr
        assert "failed to load model" in done.stderr
        assert "Traceback" not in done.stderr
        eventually(lambda: user.show("llama-server", "ActiveState") == "failed", 120)
    assert int(user.show("llama-server", "NRestarts")) >= 19


def test_a_port_in_use_is_reported_before_anything_is_written(user: Session, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", int(arguments[arguments.index("--port") + 1]))):
        done = user.run(*arguments)
    assert done.returncode == 1
    assert "cannot listen on this address" in done.stderr
    assert not (user.unit_dir / "llama-server.service").exists()


def test_refused_lingering_is_reported_with_the_command_to_run(user: Session, arguments: list[str]) -> None:
    if shutil.which("loginctl") and Path("/run/systemd/seats").exists() and _has_logind():
        pytest.skip("logind is running: the test would change a real account")
    done = user.run(*arguments, "--linger")
    assert done.returncode == 1
    assert "sudo loginctl enable-linger tester" in done.stderr
    assert user.show("llama-server", "ActiveState") == "active"


def _exec_start(session: Session, port: int) -> str:
    line = next(x for x in (session.unit_dir / "llama-server.service").read_text().splitlines() if "ExecStart=" in x)
    return re.sub(r" --port \d+", f" --port {port}", line)


def _has_logind() -> bool:
    return subprocess.run(["loginctl", "list-sessions"], capture_output=True).returncode == 0
