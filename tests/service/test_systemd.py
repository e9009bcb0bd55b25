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

from flynn import LlamaCppClient

from . import hub as fake
from .running import ask, command_line, drop_in, free_port, health, until
from .session import Session

pytestmark = pytest.mark.usefixtures("_show_the_log_of_a_failure")


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
        assert "written and not started" in command_line(login)
        for backup in unit.parent.glob("*.backup-*"):
            backup.unlink()
        assert login.run(*arguments).returncode == 0

    def test_no_web_page_is_let_in(self, arguments: list[str]) -> None:
        port = int(arguments[arguments.index("--port") + 1])
        for origin, allowed in (("http://localhost:3000", "http://localhost:3000"), ("https://page.example", None)):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={"Origin": origin})
            with urllib.request.urlopen(request) as answer:
                assert answer.headers.get("Access-Control-Allow-Origin") == allowed

    def test_ten_restarts_by_hand_do_not_stop_it(self, login: Session, arguments: list[str]) -> None:
        for _ in range(10):
            assert login.systemctl("restart", "llama-server") == ""
        assert login.show("llama-server", "ActiveState") == "active"
        until(lambda: health(int(arguments[arguments.index("--port") + 1])) == 200, 60)

    def test_a_port_that_the_environment_changes_is_told_from_the_log(
        self, login: Session, arguments: list[str]
    ) -> None:
        elsewhere = free_port()
        with drop_in(login, f"[Service]\nExecStart=\n{_exec_start(login, elsewhere)}"):
            login.systemctl("stop", "llama-server")
            done = login.run(*arguments)
        assert done.returncode == 1
        told = f"llama-server listens on port {elsewhere}, not on {arguments[arguments.index('--port') + 1]}"
        assert told in done.stderr
        login.systemctl("daemon-reload")
        login.systemctl("restart", "llama-server")

    def test_without_a_log_llama_cpp_s_other_port_is_looked_at(self, login: Session, arguments: list[str]) -> None:
        tools = login.root / "tools"
        tools.mkdir()
        (tools / "systemctl").symlink_to(shutil.which("systemctl") or "")
        environ = {**login.environ, "PATH": str(tools)}
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # whoever has it listens there
                stack.enter_context(socket.create_server(("127.0.0.1", NEW_PORT)))
            units.check_alive(environ, 9, seconds=0.0)  # a server takes a moment
            with pytest.raises(InstallError, match=f"llama-server listens on port {NEW_PORT}, not on 9"):
                units.check_alive(environ, 9, seconds=units.SILENT_SECONDS + 1)
            port = int(arguments[arguments.index("--port") + 1])
            until(lambda: health(port) == 200, 60)
            units.check_alive(environ, port, units.SILENT_SECONDS + 1)

    def test_killed_it_is_back_within_seconds(self, login: Session, arguments: list[str]) -> None:
        pid = login.show("llama-server", "MainPID")
        os.kill(int(pid), signal.SIGKILL)
        until(lambda: login.show("llama-server", "MainPID") not in (pid, "0"), 15)
        until(lambda: health(int(arguments[arguments.index("--port") + 1])) == 200, 60)


def test_at_a_unix_socket_it_is_back_too(user: Session, arguments: list[str]) -> None:
    path = user.runtime / "llama.sock"
    at = arguments.index("--port")
    done = user.run(*arguments[:at], "--socket", str(path), "--yes")
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o077 == 0
    pid = user.show("llama-server", "MainPID")
    os.kill(int(pid), signal.SIGKILL)
    assert path.exists(), "the socket that is in the way"
    until(lambda: user.show("llama-server", "MainPID") not in (pid, "0"), 15)
    until(lambda: ask(path, "/health") == 200, 60)


def test_a_key_is_asked_for_and_flynn_has_it(user: Session, arguments: list[str], port: int) -> None:
    done = user.run(*arguments, "--api-key", "--alias", "my model %i $HOME")
    assert done.returncode == 0, done.stderr
    assert health(port, "/v1/chat/completions", body={"messages": []}) == 401
    key = (user.home / ".config" / "flynn" / "api-key").read_text().strip()
    assert key not in command_line(user)
    assert "my model %i $HOME" in command_line(user)


def test_an_upgrade_to_another_model_restarts_the_server(user: Session, arguments: list[str], real_model: Path) -> None:
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
    assert (again.returncode, "nothing was changed" in again.stderr) == (0, True), "the hub is gone, and not needed"
    assert str(user.models / "real.gguf") in command_line(user)
    kept = user.run("uninstall")
    assert kept.returncode == 0, kept.stderr
    assert (user.models / "real.gguf").exists()
    assert str(user.models / "real.gguf") in kept.stderr
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


def test_a_server_for_embeddings_takes_long_texts(user: Session, arguments: list[str], port: int) -> None:
    done = user.run(*arguments, "--embeddings", "mean")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "an embedding of 576 numbers\n"
    assert health(port, "/v1/embeddings", body={"input": "word " * 900}) == 200


def test_a_key_that_changes_restarts_the_server(user: Session, arguments: list[str], port: int) -> None:
    assert user.run(*arguments, "--api-key").returncode == 0
    pid = user.show("llama-server", "MainPID")
    assert user.run(*arguments, "--api-key").returncode == 0
    assert user.show("llama-server", "MainPID") == pid, "nothing has changed"
    (user.home / ".config" / "flynn" / "api-key").write_text("a-key-of-my-own\n")
    done = user.run(*arguments, "--api-key")
    assert done.returncode == 0, done.stderr
    assert user.show("llama-server", "MainPID") != pid
    assert user.flynn("ask", "Hi", "--max-tokens", "4").returncode == 0


def test_a_model_that_cannot_be_loaded_is_given_up(user: Session, arguments: list[str], real_model: Path) -> None:
    broken = user.root / "broken.gguf"
    broken.write_bytes(real_model.read_bytes()[:1_000_000])
    arguments[arguments.index("--model") + 1] = str(broken)
    with drop_in(user, "[Service]\nRestartSec=10ms\n"):
        done = user.run(*arguments)
        assert done.returncode == 69
        assert "keeps failing (last with exit code 1, " in done.stderr
        assert "failed to load model" in done.stderr
        assert "Traceback" not in done.stderr
        until(lambda: user.show("llama-server", "ActiveState") == "failed", 120)
    assert int(user.show("llama-server", "NRestarts")) >= 19


def test_a_port_that_is_taken_is_noticed_before_anything_is_written(user: Session, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", int(arguments[arguments.index("--port") + 1]))):
        done = user.run(*arguments)
    assert done.returncode == 1
    assert "cannot listen on this address" in done.stderr
    assert not (user.unit_dir / "llama-server.service").exists()


def test_lingering_that_is_refused_is_said_with_the_command_that_helps(user: Session, arguments: list[str]) -> None:
    if shutil.which("loginctl") and Path("/run/systemd/seats").exists() and not _no_logind():
        pytest.skip("logind runs here, and this would change a real account")
    done = user.run(*arguments, "--linger")
    assert done.returncode == 1
    assert "sudo loginctl enable-linger tester" in done.stderr
    assert user.show("llama-server", "ActiveState") == "active"


def _exec_start(session: Session, port: int) -> str:
    line = next(x for x in (session.unit_dir / "llama-server.service").read_text().splitlines() if "ExecStart=" in x)
    return re.sub(r" --port \d+", f" --port {port}", line)


def _no_logind() -> bool:
    return subprocess.run(["loginctl", "list-sessions"], capture_output=True).returncode != 0
