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

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ..errors import FileError, FlynnError
from ..files import named
from .results import PREFIX, is_torn

_BLOCK = 1024 * 1024  # bytes


class LineFile:
    """A file of whole lines, opened for appending, and locked until it is closed. It is created if it is not there.

    Links are followed: the file at their end is read, written and replaced, and the links stay. Errors name the path as
    the user gave it.

    Attributes:
        file: the descriptor.
        removes_empty: whether `close` removes the file if it is empty. At first that is whether it was created here.
    """

    def __init__(self, path: str) -> None:
        if fcntl is None:
            raise FlynnError("an output file needs POSIX locks, which this system lacks: leave out -o")
        self.path = path
        with named(path):
            self._real = os.path.realpath(path)
            self._draft = f"{self._real}.draft"
            self._open()
            while not self._is_in_place():  # a run that just ended has put another file there
                os.close(self.file)
                self._open()
        self._synced = time.monotonic()

    def _open(self) -> None:
        self.removes_empty = not os.path.exists(self.path)
        if not self.removes_empty and not os.path.isfile(self.path):  # opening a FIFO may block for ever
            raise FileError("not a regular file; without -o results go to standard output", self.path)
        self.file = os.open(self._real, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.file)
            raise FileError("another flynn batch is writing it", self.path) from None

    def _is_in_place(self) -> bool:
        """Return whether the path leads to the open file: otherwise what is written would be lost."""
        try:
            return os.path.samestat(os.stat(self._real), os.fstat(self.file))
        except FileNotFoundError:
            return False

    def check_place(self) -> None:
        """Raise OSError if the file is not in its place any more."""
        if not self._is_in_place():
            raise OSError(None, "the file was removed, renamed or replaced while the batch wrote to it", self.path)

    def end_of_lines(self) -> int:
        """Return the offset after the last whole line."""
        end = os.fstat(self.file).st_size
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

    def lines_at(self, offsets: Iterable[int]) -> Iterator[bytes]:
        with open(self.file, "rb", closefd=False) as file:
            for offset in offsets:
                file.seek(offset)
                yield file.readline()

    def append(self, lines: bytes) -> None:
        if lines:
            self.check_place()
        with named(self.path):
            left = memoryview(lines)
            while left:
                left = left[os.write(self.file, left) :]

    def mend(self) -> int:
        """Remove what a crash has left: a draft, and an unfinished last line. Returns the length of the line."""
        self._remove_draft()
        end, size = self.end_of_lines(), os.fstat(self.file).st_size
        if end < size:
            with named(self.path):
                os.ftruncate(self.file, end)
        return size - end

    def replace(self, pieces: Iterable[bytes]) -> None:
        """Replace the content by pieces, which may be read from the file meanwhile."""
        self.check_place()
        self._remove_draft()
        with named(self._draft):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            draft = os.open(self._draft, flags, 0o600)
            try:
                fcntl.flock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with open(draft, "wb", closefd=False) as target:
                    target.writelines(pieces)
                old = os.fstat(self.file)
                with contextlib.suppress(PermissionError):
                    os.fchown(draft, old.st_uid, old.st_gid)
                os.fchmod(draft, stat.S_IMODE(old.st_mode))
                os.fsync(draft)
                os.replace(self._draft, self._real)
            except BaseException:
                os.close(draft)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._draft)
                raise
        os.close(self.file)
        self.file = draft

    def _remove_draft(self) -> None:
        """Remove the draft of a run that was killed. Raises FileError for a file of that name that is not a draft."""
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

    def close(self) -> None:
        if self.removes_empty and not os.fstat(self.file).st_size and self._is_in_place():
            os.unlink(self._real)
        os.close(self.file)
