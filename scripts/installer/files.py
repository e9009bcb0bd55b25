"""Atomic writes, renaming files out of the way instead of deleting them, and a lock against a second installer."""

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
    """Create a folder and its missing parents with mode 0700, as the XDG base directory specification requires.

    Raises:
        OSError: a folder cannot be created.
    """
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir(mode=0o700, exist_ok=True)


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write the whole file or nothing: write a temporary file in the same folder, then rename it to `path`.

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
    """Delete the temporary files of `write_atomically` calls for `path` whose process no longer exists."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        pid = temporary.name.split(".")[-2]
        if pid.isdecimal() and len(pid) < 10 and not _is_running(int(pid)):
            temporary.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    """Return True if another process has this process ID."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def free_name(path: Path, suffix: str) -> Path:
    """Return `path` with the suffix appended, and a number if that file exists."""
    candidate, number = path.with_name(path.name + suffix), 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}{suffix}-{number}")
    return candidate


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file to an unused name with the suffix. Returns the new path."""
    aside = free_name(path, suffix)
    os.rename(path, aside)
    return aside


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None], *, poll_seconds: float = 0.2) -> Iterator[None]:
    """Hold an exclusive lock on the folder; wait if another installer holds it.

    The kernel releases the lock when the process ends, also when it is killed.

    Raises:
        InstallError: the folder cannot be created or written.
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
                    say(f"another installer is downloading into {folder}: waiting until it ends")
                waiting = True
                time.sleep(poll_seconds)
        yield
    finally:
        os.close(descriptor)
