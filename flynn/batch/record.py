"""The output of a batch, which is also the record of what is done: there is no other journal.

A line is appended with one write, whole, as soon as its result is there. What a crash leaves of a last line is cut off
by the next run. A lock (flock(2)) keeps a second run out; it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
import time
from array import array

from ..errors import ConfigError
from .ids import IdTable
from .results import encode_result, is_torn, read_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from .results import Result
    from .sources import Done

_BLOCK = 64 * 1024
_offset = struct.Struct("q")
_WRITTEN = _offset.pack(-1)  # in place of an offset


class Record:
    """An output file and, beside it, the file of this run's failures.

    Args:
        path: is made if it is not there. Failures go to `PATH.errors.jsonl`, which is written anew by each run, since
            each run tries again what failed.

    Attributes:
        mended: bytes of a torn last line that were cut off.

    Raises:
        ConfigError: another run has it, or it is the output of something else.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.errors_path = f"{path}.errors.jsonl"
        self._output = self._locked()
        try:
            self.mended = self._mend()
            self._errors = os.open(self.errors_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o666)
        except BaseException:
            os.close(self._output)
            raise
        self._synced = time.monotonic()

    def _locked(self) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(file)
                raise ConfigError("another flynn batch is writing it", file=self.path) from None
            except OSError:
                os.close(file)
                raise
            os.close(file)  # a run that just ended has put another file in its place

    def _mend(self) -> int:
        """Cut off a last line without an end."""
        size = start = os.fstat(self._output).st_size
        end = b""
        while start and b"\n" not in end:
            length = min(start, _BLOCK)
            start -= length
            end = os.pread(self._output, length, start) + end
        torn = end[end.rfind(b"\n") + 1 :]
        if torn:
            if not is_torn(torn):
                raise ConfigError("its last line is no result of flynn batch; give another output", file=self.path)
            os.ftruncate(self._output, size - len(torn))
        return len(torn)

    def read(self, done: Done) -> int:
        """Note what is done. How many results there are.

        Raises:
            ConfigError: a line is no result, or an ID is there twice.
        """
        number = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                found = read_line(line)
                if found is None:
                    message = "no result of flynn batch; give another output"
                    raise ConfigError(message, file=self.path, line=number)
                if not done.add(found[1], found[0]):
                    raise ConfigError(f"a second result of {found[1].decode()}", file=self.path, line=number)
        return number

    def write(self, results: Sequence[Result]) -> None:
        """Append results."""
        for path, file, failed in ((self.path, self._output, False), (self.errors_path, self._errors, True)):
            data = b"".join(encode_result(result) for result in results if (result.error is not None) == failed)
            try:
                while data:
                    data = data[os.write(file, data) :]
            except OSError as error:  # e.g. the disk is full
                raise OSError(error.errno, error.strerror, path) from None

    def sync(self, after: float = 0.0) -> None:
        """Wait until all of it is on the disk, if that has been so long ago, in seconds."""
        if time.monotonic() >= self._synced + after:
            os.fsync(self._output)
            os.fsync(self._errors)
            self._synced = time.monotonic()

    def sort(self, order: Sequence[int]) -> None:
        """Bring the results into an order, given as the hashes of their IDs. Those not in it come last."""
        offsets, found, offset = IdTable(), array("q"), 0
        with open(self.path, "rb") as file:
            for line in file:
                key = hash((read_line(line) or (b"", b""))[1])
                offsets.swap(key, _offset.pack(offset))
                found.append(key)
                offset += len(line)
            if found == order:
                return
            draft = f"{self.path}.sorting"
            try:
                with open(draft, "wb") as target:
                    os.fchmod(target.fileno(), os.fstat(self._output).st_mode & 0o777)
                    for key in itertools.chain(order, found):
                        place = offsets.swap(key, _WRITTEN)
                        if place not in (b"", _WRITTEN):
                            file.seek(*_offset.unpack(place))
                            target.write(file.readline())
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(draft, self.path)
            except BaseException:
                os.unlink(draft)
                raise

    def close(self) -> None:
        """Let go of the files. An errors file without errors is removed."""
        if not os.fstat(self._errors).st_size:
            os.unlink(self.errors_path)
        os.close(self._errors)
        os.close(self._output)
