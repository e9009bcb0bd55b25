"""What the tests of the installer share: a home of one's own, a systemd of one's own, a real llama-server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .session import Session, short_folder


@pytest.fixture
def session() -> Iterator[Session]:
    with short_folder() as folder:
        yield Session(folder)
