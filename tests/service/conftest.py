"""What the tests of the installer share: a home of one's own, a systemd of one's own, a real llama-server."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import environment
import pytest

from .session import Session, private_manager, short_folder, why_no_manager


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
    with short_folder() as folder:
        session = Session(folder)
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
def llama_server(server_at_hand: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executable with llama-server's options: the real one, or llama.cpp's server in xllamacpp."""
    shim = tmp_path_factory.mktemp("bin") / "llama-server"
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(environment.server_command())} "$@"\n')
    shim.chmod(0o755)
    return shim


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (in CI this is a failure)")
    pytest.skip(reason)
