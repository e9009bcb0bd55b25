from __future__ import annotations

from pathlib import Path

import build_pyz
import pytest


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "flynn.pyz"
    build_pyz.build(path)
    return path
