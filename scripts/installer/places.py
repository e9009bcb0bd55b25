"""Where everything goes: the folders of the XDG base directory specification, and the record of what was installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .files import write_atomically


@dataclass(frozen=True)
class Places:
    """Folders and files, all absolute.

    Attributes:
        unit_dir: the user's systemd units.
        config: flynn's configuration; api_key: the server's key; wait_script: what the proxy unit waits with.
        models_dir: where models go by default; record: what was installed, for uninstalling.
    """

    unit_dir: Path
    config: Path
    api_key: Path
    wait_script: Path
    models_dir: Path
    record: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Places:
        config = _folder(environ, "XDG_CONFIG_HOME", ".config")
        data = _folder(environ, "XDG_DATA_HOME", ".local/share") / "flynn"
        return cls(
            unit_dir=config / "systemd" / "user",
            config=config / "flynn" / "config.yaml",
            api_key=config / "flynn" / "api-key",
            wait_script=data / "wait_until_ready.py",
            models_dir=data / "models",
            record=data / "service.json",
        )


def _folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    """An XDG folder; the specification has relative paths ignored."""
    value = environ.get(name, "")
    return Path(value) if os.path.isabs(value) else Path(environ.get("HOME") or os.path.expanduser("~"), default)


@dataclass
class Record:
    """What the installer made, and may remove: model files, whether the key is its own, the configuration's text."""

    model_files: list[str]
    api_key: bool = False
    config_text: str = ""

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record at `path`; an empty one if there is none that can be read."""
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{field.name: loaded[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError):
            return cls([])

    def write(self, path: Path) -> None:
        text = json.dumps(asdict(self), indent=2) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text, mode=0o600)


def config_text(endpoint: str, token_file: str) -> str:
    """flynn's configuration for this server. `token_file` is empty for a server without a key."""
    lines = ["models:", "  local:", "    provider: llamacpp", f"    endpoint: {_yaml(endpoint)}"]
    lines += [f"    auth_token_file: {_yaml(token_file)}"] if token_file else []
    return "\n".join(lines) + "\n"


def _yaml(text: str) -> str:
    """A YAML scalar: plain where that is safe, else in double quotes, whose escapes are those of JSON and more."""
    return text if re.fullmatch(r"(?:[a-z]+:/)?/[\w./:-]*\w", text, re.ASCII) else json.dumps(text)
