"""Files that the user names: errors say the file and line, and a file is replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple, Union

from .errors import FileError

MAX_SIZE = 64 * 1024 * 1024  # bytes


@contextmanager
def named(name: str) -> Iterator[None]:
    """Make errors of the system name a file, or a stream, as the user knows it."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


def read_text(path: str, most: int = MAX_SIZE) -> str:
    """Return the text in a file, without its byte order mark.

    Raises FileError if it cannot be read, is larger than `most` bytes, or is not UTF-8.
    """
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise FileError(getattr(error, "strerror", None) or str(error), file=path) from None
    if len(data) > most:
        raise FileError(f"more than {most} bytes", file=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError("not UTF-8: save the file in that encoding", file=path, line=line) from None


def read_json(path: str) -> Any:
    """Return the value in a JSON file. Raises FileError if it cannot be read, or is not JSON."""
    return parse_json(read_text(path), path)


def parse_json(text: str, file: str) -> Any:
    """Return the value of a JSON text; `file` is its path, for errors. Raises FileError if it is not JSON."""
    import json

    def members(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        mapping: Dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                raise FileError(f"the key {key!r} is given twice", file)
            mapping[key] = value
        return mapping

    try:
        return json.loads(text, object_pairs_hook=members, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise FileError(f"not JSON: {error.msg}", file=file, line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise FileError("not JSON: nested too deeply", file=file) from None
    except ValueError as error:  # NaN, Infinity, or more digits than Python converts
        raise FileError(f"not JSON: {error}", file=file) from None


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError; for `parse_constant`, because Python's JSON reads NaN and Infinity."""
    raise ValueError(f"{name} is not a number in JSON")


def replace_file(path: str, text: str) -> None:
    """Write a file with mode 600. Whatever happens, it holds all of the old text or all of the new.

    A device or a FIFO is written to as it is. Raises OSError if the file cannot be written.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        return
    path = os.path.realpath(path)
    draft = f"{path}.{os.urandom(8).hex()}"
    try:
        with open(draft, "x", encoding="utf-8", errors="replace", opener=_open_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        if os.path.lexists(draft):
            os.unlink(draft)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def identity(file: Union[str, int]) -> Optional[Tuple[object, ...]]:
    """Return a key that is equal for all names of one file: links, and paths of a file that does not exist yet.

    Args:
        file: a path, or an open descriptor.

    Returns:
        None if it is not a regular file.
    """
    try:
        try:
            status = os.stat(file)
        except FileNotFoundError:
            folder, name = os.path.split(os.path.realpath(str(file)))
            status = os.stat(folder)
            return (status.st_dev, status.st_ino, name)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
