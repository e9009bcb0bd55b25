"""The models that the installer knows by name: `models.json` beside this file, and the user's own catalogue.

Every model is pinned: its repository to a commit, each file to its size and SHA-256. So every mirror yields the same
file. The sizes and digests in `models.json` match at least two independent public listings. The user's catalogue is
`models.json` or (Python 3.11 and later) `models.toml` in flynn's configuration folder, in the same format. A model may
omit `shape`; it is then read from the header of the GGUF file.
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
    """A file to download: its local name, its URL, and its size in bytes and SHA-256 if they are known."""

    name: str
    url: str
    size: Optional[int] = None
    sha256: Optional[str] = None


@dataclass(frozen=True)
class CatalogueModel:
    """A model in the catalogue. `files` holds (name, bytes, SHA-256); the first file is passed to llama-server."""

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
    """Return all models, the largest first. A model of the user replaces the installer's model of the same name.

    Args:
        folder: flynn's configuration folder, which may contain the user's catalogue.

    Raises:
        InstallError: the user's catalogue is invalid.
    """
    models = {model.name: model for model in CATALOGUE}
    for name in ("models.json", "models.toml"):
        if (folder / name).exists():
            models.update((model.name, model) for model in _read(folder / name))
    return sorted(models.values(), key=lambda model: -model.size)


def by_name(catalogue: Catalogue, name: str) -> Optional[CatalogueModel]:
    """Return the model with that name, ignoring case; None if the catalogue does not have it."""
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
            raise InstallError(f"{path}: TOML needs Python 3.11 or later: write models.json instead", status=EXIT_USAGE)
        return [_model(entry, f"{path}: model {number}") for number, entry in enumerate(loaded["models"], 1)]
    except (OSError, ValueError, RecursionError) as error:
        raise InstallError(f"{path}: {error}", status=EXIT_USAGE) from error
    except (KeyError, TypeError, AttributeError) as error:
        hint = 'Each entry of "models" needs name, repository, revision, and files with name, size, sha256.'
        raise InstallError(f"{path}: not a model catalogue ({error})", hint=hint, status=EXIT_USAGE) from error


def _model(entry: Mapping[str, Any], place: str) -> CatalogueModel:
    files = tuple((_string(f, "name"), f["size"], _string(f, "sha256").lower()) for f in entry["files"])
    name, repository, revision = (_string(entry, key) for key in ("name", "repository", "revision"))
    _check(re.fullmatch(r"[\w.-]+/[\w.-]+", repository), place, f"repository {repository!r} must be OWNER/NAME")
    _check(
        re.fullmatch(r"[0-9a-f]{40}", revision),
        place,
        f"revision {revision!r} must be a commit of 40 hexadecimal digits",
    )
    _check(files, place, "files is empty")
    for file, size, sha256 in files:
        plain = file and not file.startswith(".") and "/" not in file and file.isprintable()
        _check(plain, place, f"{file!r} cannot be used as a file name")
        _check(type(size) is int and size > 0, place, f"{file}: size must be the number of bytes")
        _check(re.fullmatch(r"[0-9a-f]{64}", sha256), place, f"{file}: sha256 must have 64 hexadecimal digits")
    shape = entry.get("shape")
    return CatalogueModel(name, repository, revision, files, _shape(shape, place) if shape is not None else None)


def _shape(shape: Mapping[str, Any], place: str) -> Shape:
    known = {field.name for field in fields(Shape)}
    for key, value in shape.items():
        _check(key in known, place, f"shape: unknown key {key!r}")
        _check(type(value) in (int, float) and 0 <= value < 2**63, place, f"shape: {key} must be a number")
    return Shape(**shape)


def _string(entry: Mapping[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a string")
    return value


def _check(condition: object, place: str, problem: str) -> None:
    if not condition:
        raise InstallError(f"{place}: {problem}", status=EXIT_USAGE)


CATALOGUE: Catalogue = _read(_OWN_FILE)
DEFAULT = next(model for model in CATALOGUE if model.name == _DEFAULT)
