"""The models that the installer knows by name: `models.json` beside this file, and a file of the user's.

Every model is pinned: its repository at a commit, each file by size and SHA-256. So it is the same file wherever it
comes from. Those of `models.json` are as at least two independent public listings have them. The user's file,
`models.json` or (from Python 3.11 on) `models.toml` in flynn's configuration folder, has the same form; its `shape` may
be left out, and is then read from the header of the file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Optional

from .errors import EXIT_USAGE, InstallError
from .shape import Shape

_OWN_FILE = Path(__file__).with_name("models.json")
_DEFAULT = "qwen2.5-14b"


@dataclass(frozen=True)
class RemoteFile:
    """A file to download: its name here, its address, and, as far as known, its size in bytes and SHA-256."""

    name: str
    url: str
    size: Optional[int] = None
    sha256: Optional[str] = None


@dataclass(frozen=True)
class CatalogueModel:
    """A model of the catalogue. `files` holds (name, bytes, SHA-256); the first is the one given to llama-server."""

    name: str
    repository: str
    revision: str
    files: tuple[tuple[str, int, str], ...]
    shape: Optional[Shape] = None

    @property
    def size(self) -> int:
        return sum(size for _, size, _ in self.files)


Catalogue = Sequence[CatalogueModel]


def read(folder: Path) -> Catalogue:
    """All models, the largest first: those of the installer and, before one of the same name, those of the user.

    Args:
        folder: where the user's file may be.

    Raises:
        InstallError: something in that file is wrong.
    """
    models = {model.name: model for model in CATALOGUE}
    for name in ("models.json", "models.toml"):
        if (folder / name).exists():
            models.update((model.name, model) for model in _read(folder / name))
    return sorted(models.values(), key=lambda model: -model.size)


def by_name(catalogue: Catalogue, name: str) -> Optional[CatalogueModel]:
    """The model of that name, None if there is none."""
    return next((model for model in catalogue if model.name.lower() == name.lower()), None)


def _read(path: Path) -> list[CatalogueModel]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            loaded = json.loads(text)
        elif sys.version_info >= (3, 11):
            import tomllib

            loaded = tomllib.loads(text)
        else:
            raise InstallError(f"{path}: TOML is read from Python 3.11 on: write models.json", status=EXIT_USAGE)
        return [_model(entry, f"{path}: model {number}") for number, entry in enumerate(loaded["models"], 1)]
    except (OSError, ValueError, RecursionError) as error:
        raise InstallError(f"{path}: {error}", status=EXIT_USAGE) from error
    except (KeyError, TypeError, AttributeError) as error:
        hint = 'Each entry of "models" has name, repository, revision, and files with name, size, sha256.'
        raise InstallError(f"{path}: not a catalogue of models ({error})", hint=hint, status=EXIT_USAGE) from error


def _model(entry: Mapping[str, Any], place: str) -> CatalogueModel:
    files = tuple((_text(f, "name"), f["size"], _text(f, "sha256").lower()) for f in entry["files"])
    name, repository, revision = (_text(entry, key) for key in ("name", "repository", "revision"))
    _check(re.fullmatch(r"[\w.-]+/[\w.-]+", repository), place, f"repository {repository!r}: write OWNER/NAME")
    _check(re.fullmatch(r"[0-9a-f]{40}", revision), place, f"revision {revision!r}: write a commit's 40 digits")
    _check(files, place, "it has no files")
    for file, size, sha256 in files:
        plain = file and not file.startswith(".") and "/" not in file and file.isprintable()
        _check(plain, place, f"{file!r} cannot be used as a file's name")
        _check(type(size) is int and size > 0, place, f"{file}: size is the number of bytes")
        _check(re.fullmatch(r"[0-9a-f]{64}", sha256), place, f"{file}: sha256 has 64 hexadecimal digits")
    shape = entry.get("shape")
    return CatalogueModel(name, repository, revision, files, _shape(shape, place) if shape is not None else None)


def _shape(shape: Mapping[str, Any], place: str) -> Shape:
    known = {field.name for field in fields(Shape)}
    for key, value in shape.items():
        _check(key in known, place, f"shape has no {key!r}")
        _check(type(value) in (int, float) and 0 <= value < 2**63, place, f"shape: {key} is a number")
    return Shape(**shape)


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a text")
    return value


def _check(condition: object, place: str, problem: str) -> None:
    if not condition:
        raise InstallError(f"{place}: {problem}", status=EXIT_USAGE)


CATALOGUE: Catalogue = _read(_OWN_FILE)
DEFAULT = next(model for model in CATALOGUE if model.name == _DEFAULT)
