"""Where everything goes: the folders of the XDG base directory specification, and the record of what was installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Optional

from .files import write_atomically


@dataclass(frozen=True)
class Places:
    """Folders and files, all absolute.

    Attributes:
        unit_dir: the user's systemd units.
        config: flynn's configuration; api_key: the server's key; both in the folder that a catalogue may be in, too.
        models_dir: where models go by default; presets: the models of a server that has several.
        record: what was installed, for uninstalling.
        wait_script: what earlier versions put there; it is removed.
    """

    unit_dir: Path
    config: Path
    api_key: Path
    models_dir: Path
    presets: Path
    record: Path
    wait_script: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Places:
        home = Path(environ.get("HOME") or os.path.expanduser("~"))
        config = _folder(environ, "XDG_CONFIG_HOME", home / ".config")
        data = _folder(environ, "XDG_DATA_HOME", home / ".local/share") / "flynn"
        return cls(
            unit_dir=config / "systemd" / "user",
            config=config / "flynn" / "config.yaml",
            api_key=config / "flynn" / "api-key",
            models_dir=data / "models",
            presets=data / "models.ini",
            record=data / "service.json",
            wait_script=data / "wait_until_ready.py",
        )


def _folder(environ: Mapping[str, str], name: str, default: Path) -> Path:
    """An XDG folder; the specification has relative paths ignored."""
    value = environ.get(name, "")
    return Path(value) if os.path.isabs(value) else default


@dataclass
class Record:
    """What the installer made, and may remove.

    Attributes:
        model_files: paths of what it downloaded.
        api_key: whether the key is its own.
        config_text: the configuration as it wrote it.
        key_stamp: which state of the key file the running server has read.
        sources: by what stood after `--model`, each file as [path, bytes, SHA-256]: no hub need be asked again.
        linger: whether it has enabled lingering.
    """

    model_files: list[str] = field(default_factory=list)
    api_key: bool = False
    config_text: str = ""
    key_stamp: list[int] = field(default_factory=list)
    sources: dict[str, list[list[object]]] = field(default_factory=dict)
    linger: bool = False

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record at `path`. What is not there, or not of the right type, is as in an empty one."""
        record = cls()
        try:
            loaded = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        except (OSError, ValueError, RecursionError):
            return record
        if isinstance(loaded, dict):
            for each in fields(cls):
                value, default = loaded.get(each.name), getattr(record, each.name)
                if type(value) is type(default):
                    setattr(record, each.name, value)
        record.model_files = [name for name in record.model_files if isinstance(name, str)]
        return record

    def write(self, path: Path) -> None:
        text = json.dumps(asdict(self), indent=2) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_atomically(path, text, mode=0o600)

    def files_of(self, spec: str) -> Optional[list[tuple[Path, int, str]]]:
        """Path, bytes and SHA-256 of each file of a model that was downloaded, None if it was not, or one is gone."""
        found = []
        for entry in self.sources.get(spec) or []:
            path, size, sha256 = entry if isinstance(entry, list) and len(entry) == 3 else (None, None, None)
            if not (isinstance(path, str) and isinstance(size, int) and isinstance(sha256, str)):
                return None
            if not Path(path).is_file():
                return None
            found.append((Path(path), size, sha256))
        return found or None


def config_text(endpoint: str, *, token_file: Optional[Path], model: str, timeout: int) -> str:
    """flynn's configuration for this server.

    Args:
        token_file: beside the configuration; None for a server without a key.
        model: which of the server's models is asked by default; empty for the only one.
        timeout: seconds; a model may take longer to load than flynn would wait by itself.
    """
    lines = ["models:", "  local:", "    provider: llamacpp", f"    endpoint: {_yaml(endpoint)}"]
    if token_file is not None:
        lines.append(f"    auth_token_file: {_yaml(_sayable(token_file))}")
    lines += [f"    model: {_yaml(model)}"] if model else []
    return "\n".join([*lines, f"    timeout: {timeout}", ""])


def _sayable(path: Path) -> str:
    """A path; where it is not UTF-8, as a configuration has to be, its name in the configuration's folder."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return path.name
    return str(path)


def _yaml(text: str) -> str:
    """A YAML scalar: plain where that is safe, else in double quotes."""
    if re.fullmatch(r"(?:[a-z]+:/)?/[\w./:-]*\w", text, re.ASCII):
        return text
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else _escaped(char) for char in plain) + '"'


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
