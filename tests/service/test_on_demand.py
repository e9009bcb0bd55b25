"""`--on-demand` with a real `systemd --user`: the server frees the model's memory when it is idle."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from lease import leased
from scripted import eventually

from .running import command_line, free_port, health
from .session import Session

IDLE_MINUTES = 0.02  # 1.2 seconds

OLD_PROXY = {
    "llama-server-proxy.socket": """\
# Written by Flynn's scripts/install_service.py, which `make install-service` runs.
[Socket]
ListenStream=127.0.0.1:{port}

[Install]
WantedBy=sockets.target
""",
    "llama-server-proxy.service": """\
# Written by Flynn's scripts/install_service.py, which `make install-service` runs.
[Service]
ExecStart=/bin/true
""",
}


pytestmark = pytest.mark.usefixtures("_print_systemd_log")


class TestOnDemand:
    """The service is installed once with `--on-demand`. Each test leaves it running."""

    @pytest.fixture(scope="class")
    def port(self, login: Session, server_arguments: list[str]) -> Iterator[int]:
        port = free_port()
        done = login.run(*server_arguments, "--port", str(port), "--yes", "--on-demand", "--idle", str(IDLE_MINUTES))
        assert done.returncode == 0, done.stderr
        assert "tokens/s)" in done.stderr
        yield port
        assert login.run("uninstall").returncode == 0

    def test_an_idle_server_frees_its_memory_and_answers_the_next_request(self, login: Session, port: int) -> None:
        for _ in range(2):
            eventually(lambda: _is_sleeping(port), 30)
            sleeping_memory = _memory(login)
            hello = {"messages": [{"role": "user", "content": "Hi"}]}
            assert health(port, "/v1/chat/completions", body=hello) == 200
            assert _memory(login) > sleeping_memory + 50 * 2**20

    def test_flynn_status_shows_a_sleeping_server_without_waking_it(self, login: Session, port: int) -> None:
        eventually(lambda: _is_sleeping(port), 30)
        for arguments in ([], ["--json"], ["--watch", "--interval", "0.1"]):
            done = login.flynn("status", *arguments, seconds=1.5 if "--watch" in arguments else 30)
            assert "sleeping" in done.stdout, done.stderr
        assert _is_sleeping(port)

    def test_a_request_waits_until_the_model_is_loaded(self, login: Session, port: int, private_model: Path) -> None:
        eventually(lambda: _is_sleeping(port), 30)
        with leased(private_model) as release:
            timed_out = login.flynn("ask", "Hi", "--max-tokens", "4", "--timeout", "1")
            assert timed_out.returncode == 75, "--timeout must end the wait"
            threading.Timer(2.0, release).start()
            done = login.flynn("ask", "Hi", "--max-tokens", "4")
        assert done.returncode == 0, done.stderr
        assert "timeout: 900" in (login.home / ".config" / "flynn" / "config.yaml").read_text()


def test_on_demand_can_be_switched_on_and_off(user: Session, arguments: list[str]) -> None:
    assert user.run(*arguments, "--on-demand").returncode == 0
    assert "--sleep-idle-seconds 900" in command_line(user)
    done = user.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "--sleep-idle-seconds" not in command_line(user)


def test_the_proxy_of_an_earlier_version_is_removed(user: Session, arguments: list[str]) -> None:
    user.unit_dir.mkdir(parents=True, exist_ok=True)
    port = arguments[arguments.index("--port") + 1]
    for name, text in OLD_PROXY.items():
        (user.unit_dir / name).write_text(text.format(port=port))
    user.systemctl("daemon-reload")
    assert "failed" not in user.systemctl("enable", "--now", "llama-server-proxy.socket")
    assert user.show("llama-server-proxy.socket", "ActiveState") == "active"
    done = user.run(*arguments, "--on-demand")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in user.unit_dir.glob("llama-server*") if "backup" not in path.name] == [
        "llama-server.service"
    ]
    assert user.show("llama-server-proxy.socket", "ActiveState") == "inactive"


def _is_sleeping(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/props") as answer:
        return bool(json.load(answer)["is_sleeping"])


def _memory(session: Session) -> int:
    """Return the bytes of main memory that the server uses."""
    pid = session.show("llama-server", "MainPID")
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024
