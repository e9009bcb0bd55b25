"""Files put in place all at once, set aside instead of deleted, and one installer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from .errors import InstallError


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, for their owner alone, as the XDG base directory specification has it.

    Raises:
        OSError: it cannot be made.
    """
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir(mode=0o700, exist_ok=True)


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Writes a whole file or none: into a new file beside it, which then takes its name.

    Raises:
        InstallError: the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        make_folder(path.parent)
        sweep(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InstallError(f"{path}: cannot be written: {error.strerror or error}") from error


def sweep(path: Path) -> None:
    """Removes what killed writers of `path` left beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and len(process) < 10 and not _lives(int(process)):
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether another process has this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def free_name(path: Path, suffix: str) -> Path:
    """`path` with the suffix appended, numbered if such a file exists."""
    candidate, number = path.with_name(path.name + suffix), 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}{suffix}-{number}")
    return candidate


def set_aside(path: Path, suffix: str) -> Path:
    """Renames a file out of the way, to a name that is free, and returns that name."""
    aside = free_name(path, suffix)
    os.rename(path, aside)
    return aside


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None], *, poll_seconds: float = 0.2) -> Iterator[None]:
    """Holds the folder's lock, which another installer waits for. The kernel frees it however the holder ends.

    Raises:
        InstallError: the folder cannot be made or written.
    """
    try:
        make_folder(folder)
        descriptor = os.open(folder / ".install.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InstallError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        waiting = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say(f"another installer is downloading into {folder}: waiting for it")
                waiting = True
                time.sleep(poll_seconds)
        yield
    finally:
        os.close(descriptor)
