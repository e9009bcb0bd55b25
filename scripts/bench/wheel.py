"""Measure the size of Flynn's wheel and of its installation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import environment

from .launch import ChildFailed
from .rounds import child
from .subjects import Place


def flynn_wheel(place: Place, folder: Path) -> Dict[str, Any]:
    """Build and install the wheel. Returns its bytes and the result of bench.sizes. Raises ChildFailed."""
    source, installed = folder / "source", folder / "installed"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(environment.ROOT / name, source)
    shutil.copytree(environment.ROOT / "flynn", source / "flynn", ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-index", "--no-deps", "--disable-pip-version-check"]
    pip(place, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    pip(place, "install", *offline, "--target", str(installed), str(wheel))
    return {"wheel": wheel.stat().st_size, **child(place, place.builder, "bench.sizes", "flynn-llama", path=installed)}


def pip(place: Place, *arguments: str) -> None:
    done = subprocess.run([place.builder, "-m", "pip", *arguments], capture_output=True)
    if done.returncode:
        sys.stderr.write(done.stderr.decode(errors="replace"))
        raise ChildFailed(f"command ended with status {done.returncode}: pip {' '.join(arguments)}")
