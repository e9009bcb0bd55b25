"""What the tests of the installer share: a home of one's own, a systemd of one's own, a real llama-server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import environment
import pytest

from . import hub as fake
from .downloader import NAME, SHARDS, Downloader
from .gguf_file import model
from .hub import FakeHub
from .running import free_port
from .session import Session, private_manager, runtime_dir, short_folder, why_no_manager


@pytest.fixture
def session() -> Iterator[Session]:
    """A user with an empty home, whose systemd does not run."""
    with short_folder() as folder:
        yield Session(folder)


@pytest.fixture(scope="module")
def login() -> Iterator[Session]:
    """A user whose systemd runs; each test leaves it without our units."""
    reason = why_no_manager()
    if reason:
        _missing(reason)
    with short_folder() as folder, runtime_dir() as runtime:
        session = Session(folder, runtime)
        with private_manager(session):
            yield session


@pytest.fixture
def user(login: Session) -> Iterator[Session]:
    """The user of `login`, with nothing installed before and after."""
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
        server.files[NAME] = model(3_000_000)
        server.files.update({name: model(1_500_000, seed=n) for n, name in enumerate(SHARDS)})
        yield server


@pytest.fixture
def get(hub: FakeHub, tmp_path: Path) -> Downloader:
    return Downloader(hub, tmp_path / "models")


@pytest.fixture
def gguf(session: Session) -> str:
    path = session.root / "tiny model.gguf"
    path.write_bytes(model(100_000))
    return str(path)


@pytest.fixture
def llama(llama_server: Path) -> str:
    return str(llama_server)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def model_of_its_own(login: Session, real_model: Path) -> Path:
    """A copy of the model, whose file nobody else has open."""
    return Path(shutil.copy(real_model, login.root))


@pytest.fixture(scope="module")
def server_arguments(llama_server: Path, model_of_its_own: Path) -> list[str]:
    given = ["--server", str(llama_server), "--model", str(model_of_its_own)]
    return [*given, "--ctx-size", "1024", "--gpu-layers", "0", "--extra=--threads 1"]


@pytest.fixture
def arguments(server_arguments: list[str], port: int) -> list[str]:
    return [*server_arguments, "--port", str(port), "--yes"]


@pytest.fixture
def _show_the_log_of_a_failure(login: Session) -> Iterator[None]:
    yield
    print((login.root / "systemd.log").read_text()[-2000:])


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (in CI this is a failure)")
    pytest.skip(reason)
