"""The wheel that setup.cfg describes: what is in it, and that it works where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Set

import environment
import pytest

import flynn


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because setuptools leaves files beside its sources."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(environment.ROOT, source, ignore=ignored, dirs_exist_ok=True)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with the installed setuptools: no network."""
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-build-isolation", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(target), str(source)], check=True, stdout=subprocess.DEVNULL)
    (made,) = target.iterdir()
    return made


def test_the_wheel_contains_only_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == _package()


def _package() -> Set[str]:
    sources = (environment.ROOT / "flynn").rglob("*.py")
    return {"flynn/py.typed", *(path.relative_to(environment.ROOT).as_posix() for path in sources)}


def test_the_source_distribution_contains_only_the_package(source: Path, tmp_path: Path) -> None:
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=source, stdout=subprocess.DEVNULL)
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    # setuptools itself adds tests/test*.py.
    held = {name for name in held if not name.startswith(("flynn_llama.egg-info/", "tests/test"))}
    assert held == _package() | {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}


def test_the_wheel_requires_python_3_9_and_no_package(wheel: Path) -> None:
    info = f"flynn_llama-{flynn.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
        licences = [name for name in archive.namelist() if name.startswith(info) and name.endswith("LICENSE")]
    assert metadata["Version"] == flynn.__version__
    assert metadata["Requires-Python"] == ">=3.9"
    assert [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line] == []
    assert metadata.get_all("Provides-Extra") == ["dask"]
    assert len(licences) == 1


def test_the_installed_command_works(wheel: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--prefix", str(tmp_path), str(wheel)]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    command = [sys.executable, "-S", str(tmp_path / "bin" / "flynn"), "--version"]
    said = subprocess.check_output(command, env={"PYTHONPATH": str(packages)}, cwd=tmp_path, text=True)
    assert said.split()[:2] == ["flynn", flynn.__version__]
