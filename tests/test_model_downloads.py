"""llama.cpp's own llama-server downloads a model, from a hub on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Iterator

import pytest
from command import Home
from real_server import RealServer
from service import hub as fake
from service.hub import FakeHub

from flynn import LlamaCppClient, ServerError

FILE = "tiny-Q4_K_M.gguf"
MODEL = f"{fake.REPOSITORY}:Q4_K_M"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake.running() as hub:
        hub.files[FILE] = os.urandom(2_000_000)
        yield hub


@pytest.fixture
def endpoint(hub: FakeHub, native: Path, tmp_path: Path) -> Iterator[str]:
    settings = [f"HF_ENDPOINT={hub.endpoint}", f"HF_HUB_CACHE={tmp_path / 'cache'}", f"HOME={tmp_path}"]
    with RealServer(command=["env", *settings, str(native / "llama-server")], model=None, parallel=1) as server:
        yield server.endpoint


def test_a_model_is_downloaded_with_progress_and_deleted(hub: FakeHub, endpoint: str) -> None:
    hub.rate = 2_000_000
    with LlamaCppClient(endpoint) as client:
        with client.model_events() as events:
            client.download_model(MODEL, wait=False)
            reports = []
            for event in events:
                if event.event == "download_finished":
                    break
                reports.append(event.progress)
        progress = [share for share in reports if share is not None]
        assert progress == sorted(progress)
        assert progress[-1] == 1.0
        assert any(0 < share < 1 for share in progress)
        client.delete_model(MODEL)
        assert client.models() == []


def test_a_downloaded_model_is_listed(hub: FakeHub, endpoint: str) -> None:
    with LlamaCppClient(endpoint) as client:
        client.download_model(MODEL)
        assert [(model.id, model.status) for model in client.models()] == [(MODEL, "unloaded")]


def test_a_download_can_be_stopped(hub: FakeHub, endpoint: str) -> None:
    hub.rate = 500_000
    with LlamaCppClient(endpoint) as client:
        client.download_model(MODEL, wait=False)
        client.unload_model(MODEL)
        assert client.models() == []


def test_a_download_that_fails_is_an_error(hub: FakeHub, endpoint: str) -> None:
    with LlamaCppClient(endpoint) as client, pytest.raises(ServerError, match="could not be downloaded"):
        client.download_model("nobody/nothing-GGUF:Q8_0")


def test_the_command_downloads_with_progress(hub: FakeHub, endpoint: str, tmp_path: Path) -> None:
    hub.rate = 1_000_000
    with Home(tmp_path).terminal("models", "download", MODEL, "--endpoint", endpoint) as terminal:
        assert terminal.end() == 0
    assert re.search(rf"\r{MODEL}: downloading [1-9]\d?%", terminal.text)
