"""Files that the user names: read with errors that tell the place, written so that nothing is half done."""

from __future__ import annotations

import json
import os

from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_SIZE = 64 * 1024 * 1024  # bytes


def read_json(path: str) -> Any:
    """The value in a JSON file.

    Raises:
        ConfigError: it cannot be read, is no regular file or too large, or is not JSON in UTF-8.
    """
    path = os.path.expanduser(path)
    data = _read(path)
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg}", file=path, line=error.lineno, column=error.colno) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}", file=path) from None


def read_text(path: str) -> str:
    """The text in a file. A byte order mark is no part of it.

    Raises:
        ConfigError: it cannot be read, is no regular file or too large, or is not UTF-8.
    """
    path = os.path.expanduser(path)
    try:
        return _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8: byte {error.start} is no part of a character", file=path) from None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(getattr(error, "strerror", None) or str(error), file=path) from None
    if len(data) > MAX_SIZE:
        raise ConfigError(f"more than {MAX_SIZE} bytes", file=path)
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def replace_file(path: str, text: str) -> None:
    """Write a file that only its owner can read; whatever happens, it holds all of the old text or all of the new.

    Raises:
        OSError: it cannot be written.
    """
    import tempfile

    path = os.path.realpath(path)
    descriptor, draft = tempfile.mkstemp(prefix=os.path.basename(path), dir=os.path.dirname(path))
    try:
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
