from __future__ import annotations

from pathlib import Path

import build_pyz
import pytest
from command import Home


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "flynn.pyz"
    build_pyz.build(path)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)
