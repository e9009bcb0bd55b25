"""Fixtures for batches: a directory to run the command in, and a server whose answers the test chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest
from command import Home
from pytest_httpserver import HTTPServer

from flynn import LlamaCppClient

from .server import Llama


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def llama(httpserver: HTTPServer) -> Callable[..., Llama]:
    """Return a function that sets up the server: `llama(answer, slots=4)`."""
    return lambda *arguments, **options: Llama(httpserver, *arguments, **options)


@pytest.fixture
def client(endpoint: str) -> Iterator[LlamaCppClient]:
    """A client of that server."""
    with LlamaCppClient(endpoint) as client:
        yield client
