"""The catalogue of the installer, and the user's own catalogue."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from installer import catalogue
from installer.errors import InstallError

ENTRY: dict[str, Any] = {
    "name": "mine",
    "repository": "acme/mine-GGUF",
    "revision": "0123456789" * 4,
    "files": [{"name": "mine.gguf", "size": 20_000_000_000, "sha256": "ab" * 32}],
}


def test_every_model_is_pinned_to_a_commit_by_size_and_digest() -> None:
    for model in catalogue.CATALOGUE:
        assert re.fullmatch("[0-9a-f]{40}", model.revision)
        assert all(size > 0 and re.fullmatch("[0-9a-f]{64}", sha256) for _, size, sha256 in model.files)
        assert model.shape is not None
    names = [model.name for model in catalogue.CATALOGUE]
    assert len(set(names)) == len(names)
    assert catalogue.DEFAULT.name == "qwen2.5-14b"


def test_the_users_catalogue_adds_and_replaces_models(tmp_path: Path) -> None:
    smaller = {**ENTRY["files"][0], "size": 19_000_000_000}
    own = {**ENTRY, "name": "qwen2.5-7b", "files": [smaller]}
    (tmp_path / "models.json").write_text(json.dumps({"models": [ENTRY, own]}))
    models = catalogue.read(tmp_path)
    assert [model.name for model in models][:2] == ["mine", "qwen2.5-7b"], "the largest must be first"
    assert len(models) == len(catalogue.CATALOGUE) + 1
    model = catalogue.by_name(models, "MINE")
    assert model is not None
    assert model.shape is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has tomllib since 3.11")
def test_the_users_catalogue_may_be_toml(tmp_path: Path) -> None:
    lines = ['name = "mine"', 'repository = "a/b"', f'revision = "{"a" * 40}"']
    lines.append(f'files = [{{name = "m.gguf", size = 5, sha256 = "{"0" * 64}"}}]')
    (tmp_path / "models.toml").write_text("[[models]]\n" + "\n".join(lines))
    assert catalogue.by_name(catalogue.read(tmp_path), "mine") is not None


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="this Python has tomllib")
def test_below_python_3_11_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("")
    with pytest.raises(InstallError, match=r"write models\.json"):
        catalogue.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": "main"}, "must be a commit of 40 hexadecimal digits"),
        ({"repository": "none"}, "must be OWNER/NAME"),
        ({"files": []}, "files is empty"),
        ({"files": [{"name": "../m.gguf", "size": 1, "sha256": "0" * 64}]}, "cannot be used as a file name"),
        ({"files": [{"name": "m.gguf", "size": True, "sha256": "0" * 64}]}, "size must be the number of bytes"),
        ({"files": [{"name": "m.gguf", "size": 1, "sha256": "x"}]}, "sha256 must have 64 hexadecimal digits"),
        ({"files": [{"name": "m.gguf"}]}, "not a model catalogue"),
        ({"files": None}, "not a model catalogue"),
        ({"name": 5}, "not a model catalogue"),
        ({"shape": {"layers": "many"}}, "shape: layers must be a number"),
        ({"shape": {"depth": 3}}, "shape: unknown key 'depth'"),
        ({"shape": {"layers": 3}}, "not a model catalogue"),
    ],
)
def test_an_invalid_entry_is_reported_with_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "models.json").write_text(json.dumps({"models": [{**ENTRY, **change}]}))
    with pytest.raises(InstallError, match=message) as error:
        catalogue.read(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"models": 3}', "[" * 5000, '{"models": [null]}', "\x00"])
def test_an_invalid_catalogue_is_reported_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.json").write_text(text)
    with pytest.raises(InstallError) as error:
        catalogue.read(tmp_path)
    assert "\n" not in str(error.value)
