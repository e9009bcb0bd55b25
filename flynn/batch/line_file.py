"""A file of lines that is only ever appended to, or replaced as a whole, so that no crash leaves it half done.

A line is appended with one write, whole: a crash leaves at most a piece of the last line. The file is replaced through
a draft beside it: a crash leaves all of the old one or all of the new one, and perhaps the draft.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import Iterable, Iterator, Tuple

from ..errors import FileError, FlynnError
from .results import PREFIX, is_torn

_BLOCK = 1024 * 1024  # bytes


def lock(file: int) -> None:
    """Lock an open file until it is closed.

    Raises:
        BlockingIOError: another process has locked it.
        FlynnError: this system has no such locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        raise FlynnError("an output file needs POSIX locks, which this system lacks: leave out -o") from None
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class LineFile:
    """A file of whole lines, opened for appending.

    Links are followed: the file at their end is read, written and replaced, and the links stay.

    Args:
        path: as the user gave it, for messages too.

    Attributes:
        real: the path of the file itself.
        file: its descriptor, -1 while it is closed.

    Raises, from every method:
        OSError: the file cannot be read or written, or is not at its place any more.
        FileError: it is not a regular file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with named(path):
            self.real = os.path.realpath(path)
        self._draft = f"{self.real}.draft"
        self.file = -1
        self._synced = time.monotonic()

    def open(self, *, create: bool) -> bool:
        """Open the file. Returns False if there is none, unless it is to be created."""
        with named(self.path):
            try:
                if not stat.S_ISREG(os.stat(self.path).st_mode):  # to open a FIFO may take for ever
                    raise FileError("not a regular file; without -o results go to standard output", self.path)
            except FileNotFoundError:
                if not create:
                    return False
            flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
            self.file = os.open(self.real, flags, 0o666)
        return True

    @property
    def size(self) -> int:
        return os.fstat(self.file).st_size

    @property
    def is_in_place(self) -> bool:
        """Whether the path leads to the open file: otherwise what is written would be lost."""
        try:
            return os.path.samestat(os.stat(self.real), os.fstat(self.file))
        except FileNotFoundError:
            return False

    def check_place(self) -> None:
        """Raise OSError if the file is not at its place any more."""
        if not self.is_in_place:
            raise OSError(None, "the file was removed, renamed or replaced while the batch wrote to it", self.path)

    def end_of_lines(self) -> int:
        """Return the offset after the last whole line."""
        end = self.size
        while end:
            start = max(0, end - _BLOCK)
            newline = os.pread(self.file, end - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0

    def lines(self) -> Iterator[Tuple[int, bytes]]:
        """Yield each whole line, with its offset."""
        offset, end = 0, self.end_of_lines()
        with open(self.file, "rb", closefd=False) as file:
            file.seek(0)
            while offset < end:
                line = file.readline()
                yield offset, line
                offset += len(line)

    def append(self, lines: bytes) -> None:
        """Append whole lines."""
        if not lines:
            return
        self.check_place()
        with named(self.path):
            left = memoryview(lines)
            while left:
                left = left[os.write(self.file, left) :]

    def cut_torn_line(self) -> int:
        """Cut off a last line that is not whole. Returns its length in bytes."""
        end, size = self.end_of_lines(), self.size
        if end < size:
            with named(self.path):
                os.ftruncate(self.file, end)
        return size - end

    def copy(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from one offset to another."""
        while start < end:
            piece = os.pread(self.file, min(_BLOCK, end - start), start)
            yield piece
            start += len(piece)

    def replace(self, pieces: Iterable[bytes]) -> None:
        """Replace all of the file by pieces, which may be read from it meanwhile. The lock goes with it."""
        self.check_place()
        self.remove_draft()
        with named(self._draft):
            draft = os.open(self._draft, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                lock(draft)
                with open(draft, "wb", closefd=False) as target:
                    target.writelines(pieces)
                old = os.fstat(self.file)
                with contextlib.suppress(PermissionError):
                    os.fchown(draft, old.st_uid, old.st_gid)
                os.fchmod(draft, stat.S_IMODE(old.st_mode))
                os.fsync(draft)
                os.replace(self._draft, self.real)
            except BaseException:
                os.close(draft)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._draft)
                raise
        os.close(self.file)
        self.file = draft

    def remove_draft(self) -> None:
        """Remove the draft of a run that was killed.

        Raises:
            FileError: there is a file of that name, and no batch has written it.
        """
        try:
            file = os.open(self._draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        except OSError:  # a link
            is_ours = False
        else:
            is_ours = stat.S_ISREG(os.fstat(file).st_mode) and is_torn(os.read(file, len(PREFIX)))
            os.close(file)
        if not is_ours:
            raise FileError("a file of this name is in the way", self._draft)
        os.unlink(self._draft)

    def sync(self, after: float = 0.0) -> None:
        """Write everything to the disk (fsync), if the last time is `after` seconds ago."""
        if time.monotonic() >= self._synced + after:
            with named(self.path):
                os.fsync(self.file)
            self._synced = time.monotonic()

    def close(self, *, remove_empty: bool = False) -> None:
        if self.file >= 0:
            if remove_empty and not self.size and self.is_in_place:
                os.unlink(self.real)
            os.close(self.file)
            self.file = -1


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Make the errors of the system name a path as the user knows it."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
