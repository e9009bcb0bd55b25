"""The paths of all installed files, by the XDG base directory specification, and the record of an installation."""

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
    """Absolute paths of folders and files.

    Attributes:
        unit_dir: the folder of the user's systemd units.
        config: flynn's configuration. The user's catalogue may be in the same folder.
        api_key: the server's key.
        models_dir: the default folder for models.
        presets: llama-server's file of models, for several models.
        record: the record of the installation, for uninstalling.
        wait_script: a script that earlier versions installed; it is deleted.
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
        """Return the paths for the environment variables HOME, XDG_CONFIG_HOME and XDG_DATA_HOME."""
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
    """Return an XDG folder. The specification requires relative paths to be ignored."""
    value = environ.get(name, "")
    return Path(value) if os.path.isabs(value) else default


@dataclass
class Record:
    """What the installer created and may remove.

    Attributes:
        model_files: paths of the downloaded files.
        api_key: True if the installer generated the key.
        config_text: the text that the installer wrote into the configuration.
        key_stamp: modification time, size and inode of the key file that the running server has read.
        sources: for each value of `--model`, its files as [path, bytes, SHA-256], so that later runs need no hub.
        linger: True if the installer enabled lingering.
    """

    model_files: list[str] = field(default_factory=list)
    api_key: bool = False
    config_text: str = ""
    key_stamp: list[int] = field(default_factory=list)
    sources: dict[str, list[list[object]]] = field(default_factory=dict)
    linger: bool = False

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read the record at `path`. Missing fields, and fields of the wrong type, are empty."""
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
        """Write the record to `path` if it differs from the file.

        Raises:
            InstallError: the file cannot be written.
        """
        text = json.dumps(asdict(self), indent=2) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_atomically(path, text, mode=0o600)

    def files_of(self, spec: str) -> Optional[list[tuple[Path, int, str]]]:
        """Return path, bytes and SHA-256 of each file of a model; None if it is not recorded, or a file is missing."""
        files = []
        for entry in self.sources.get(spec) or []:
            path, size, sha256 = entry if isinstance(entry, list) and len(entry) == 3 else (None, None, None)
            if not (isinstance(path, str) and isinstance(size, int) and isinstance(sha256, str)):
                return None
            if not Path(path).is_file():
                return None
            files.append((Path(path), size, sha256))
        return files or None


def config_text(endpoint: str, *, token_file: Optional[Path], model: str, timeout: int) -> str:
    """Return the text of flynn's configuration for this server.

    Args:
        endpoint: the URL of the server.
        token_file: the key file, in the folder of the configuration; None for a server without a key.
        model: the default model; empty for a server with a single model.
        timeout: seconds; loading a model may take longer than flynn's default timeout.
    """
    lines = ["models:", "  local:", "    provider: llamacpp", f"    endpoint: {_yaml(endpoint)}"]
    if token_file is not None:
        lines.append(f"    auth_token_file: {_yaml(_utf8_path(token_file))}")
    lines += [f"    model: {_yaml(model)}"] if model else []
    return "\n".join([*lines, f"    timeout: {timeout}", ""])


def _utf8_path(path: Path) -> str:
    """Return the path, or only its name if the path is not UTF-8: the configuration is, and has the same folder."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return path.name
    return str(path)


def _yaml(text: str) -> str:
    """Return a YAML scalar: plain if that is safe, else in double quotes."""
    if re.fullmatch(r"(?:[a-z]+:/)?/[\w./:-]*\w", text, re.ASCII):
        return text
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else _escaped(char) for char in plain) + '"'


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
