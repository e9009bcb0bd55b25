"""Files that the user names: errors say the place, and a file is replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
from typing import Any, Callable, NoReturn, Optional, Tuple, Union

from .errors import FileError

MAX_SIZE = 64 * 1024 * 1024  # bytes


def read_text(path: str, most: int = MAX_SIZE) -> str:
    """Return the text in a file, without its byte order mark.

    Raises:
        FileError: it cannot be read, is larger than `most` bytes, or is not UTF-8.
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
    """Return the value in a JSON file.

    Raises:
        FileError: as `read_text`, or it is not JSON.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, file: str, members: Optional[Callable[[Any], Any]] = None) -> Any:
    """Return the value of a JSON text from a file; `members`, if given, turns a list of members into an object.

    Raises:
        FileError: it is not JSON.
    """
    import json

    try:
        return json.loads(text, object_pairs_hook=members, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise FileError(f"not JSON: {error.msg}", file=file, line=error.lineno, column=error.colno) from None
    except FileError:
        raise
    except (ValueError, RecursionError) as error:  # Python's limit of digits, and of depth
        problem = "nested too deeply" if isinstance(error, RecursionError) else error
        raise FileError(f"not JSON: {problem}", file=file) from None


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError; for `parse_constant`, because Python's JSON reads NaN and Infinity."""
    raise ValueError(f"{name} is not a number in JSON")


def replace_file(path: str, text: str) -> None:
    """Write a file with mode 600. Whatever happens, it holds all of the old text or all of the new.

    A device or a FIFO is written to as it is.

    Raises:
        OSError: it cannot be written.
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
    except BaseException:
        if os.path.lexists(draft):
            os.unlink(draft)
        raise


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def identity(file: Union[str, int]) -> Optional[Tuple[object, ...]]:
    """Return what two names of one file have in common, be they links, or names of a file that is not there yet.

    Args:
        file: a path, or an open descriptor.

    Returns:
        None for what is not a regular file.
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
