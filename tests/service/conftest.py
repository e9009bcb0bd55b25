"""Fixtures of the installer's tests: a private home, a private systemd, a real llama-server, a fake hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import environment
import pytest
from gguf import random_model

from . import hub as fake
from .downloader import NAME, SHARDS, Downloader
from .hub import FakeHub
from .running import free_port
from .session import Session, private_manager, runtime_dir, short_folder, why_no_manager
from .skipping import skip_or_fail


@pytest.fixture
def session() -> Iterator[Session]:
    """A user with an empty home and without a running systemd."""
    with short_folder() as folder:
        yield Session(folder)


@pytest.fixture(scope="module")
def login() -> Iterator[Session]:
    """A user with a running systemd. Every test uninstalls what it installed."""
    reason = why_no_manager()
    if reason:
        skip_or_fail(reason)
    with short_folder() as folder, runtime_dir() as runtime:
        session = Session(folder, runtime)
        with private_manager(session):
            yield session


@pytest.fixture
def user(login: Session) -> Iterator[Session]:
    """The user of `login`; everything is uninstalled after the test."""
    yield login
    done = login.run("uninstall", "--yes")
    assert done.returncode == 0, done.stderr
    for backup in login.unit_dir.glob("*.backup-*"):
        backup.unlink()


@pytest.fixture(scope="session")
def real_model(server_at_hand: None) -> Path:
    return environment.model()


@pytest.fixture(scope="session")
def llama_server(native: Path) -> Path:
    """llama.cpp's own llama-server."""
    return native / "llama-server"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake.running() as server:
        server.files[NAME] = random_model(3_000_000)
        server.files.update({name: random_model(1_500_000, seed=n) for n, name in enumerate(SHARDS)})
        yield server


@pytest.fixture
def get(hub: FakeHub, tmp_path: Path) -> Downloader:
    return Downloader(hub, tmp_path / "models")


@pytest.fixture
def gguf(session: Session) -> str:
    path = session.root / "tiny model.gguf"
    path.write_bytes(random_model(100_000))
    return str(path)


@pytest.fixture
def llama(llama_server: Path) -> str:
    return str(llama_server)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def private_model(login: Session, real_model: Path) -> Path:
    """A copy of the model; no other process has the file open."""
    return Path(shutil.copy(real_model, login.root))


@pytest.fixture(scope="module")
def server_arguments(llama_server: Path, private_model: Path) -> list[str]:
    options = ["--server", str(llama_server), "--model", str(private_model)]
    return [*options, "--ctx-size", "1024", "--gpu-layers", "0", "--extra=--threads 1"]


@pytest.fixture
def arguments(server_arguments: list[str], port: int) -> list[str]:
    return [*server_arguments, "--port", str(port), "--yes"]


@pytest.fixture
def _print_systemd_log(login: Session) -> Iterator[None]:
    yield
    print((login.root / "systemd.log").read_text()[-2000:])
