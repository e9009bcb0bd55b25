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
from typing import List, Sequence

from ..errors import FileError, RequestError
from .results import Result, encode_result, id_json, is_torn, read_line

_BLOCK = 64 * 1024
_BUCKETS = 1 << 16
_pack = struct.Struct("q").pack
_WRITTEN = _pack(-1)  # in place of an offset
_ASKED = b"is asked"  # in place of the digits of a digest


class IdTable:
    """Values of 8 bytes by the hash of an ID, a million of them in 25 MB, where a dict takes 200.

    The hash, 64 bits, is all that is kept of an ID: of a million two have the same once in 40 million tables. A bucket
    is the hashes that end alike, each followed by its value, as one `bytes`: what looks through it is C. That a hash is
    found where another one's value lies, across the two, is rarer still than that two are the same.

    Example:
        >>> table = IdTable()
        >>> table.swap(hash(b"a"), b"number 1"), table.swap(hash(b"a"), b"number 2")
        (b'', b'number 1')
    """

    def __init__(self) -> None:
        self._buckets: List[bytes] = [b""] * _BUCKETS

    def swap(self, key: int, value: bytes) -> bytes:
        """Set the value of a hash; what it was before, empty if there was none."""
        place, name = key % _BUCKETS, _pack(key)
        bucket = self._buckets[place]
        start = bucket.find(name) + len(name)
        if start < len(name):
            self._buckets[place] = bucket + name + value
            return b""
        end = start + len(value)
        self._buckets[place] = bucket[:start] + value + bucket[end:]
        return bucket[start:end]

    def replace(self, key: int, before: bytes, after: bytes) -> bool:
        """Set the value of a hash if it is `before`; whether it was."""
        place, name = key % _BUCKETS, _pack(key)
        bucket = self._buckets[place]
        self._buckets[place] = replaced = bucket.replace(name + before, name + after)
        return replaced != bucket


class Done:
    """What has a result already, by ID, with what was asked then.

    Attributes:
        order: the hashes of what was asked for, in this order, if that is to be kept.
        left: how many of the results belong to no request that was asked for.
    """

    def __init__(self, *, keep_order: bool = False) -> None:
        self._table = IdTable()
        self._keeps_order = keep_order
        self.order = array("q")
        self.left = 0

    def add(self, name: bytes, digest: bytes) -> bool:
        """A result that is there, by its ID as JSON and 16 digits. False if there was one of this ID before."""
        self.left += 1
        return not self._table.swap(hash(name), digest[-8:])

    def has(self, name: bytes, digest: bytes) -> bool:
        """Whether just this was asked under this ID, and has its result. Then it has been asked for.

        Where it has, the name needs no more proof: then these very bytes were a request of this name.
        """
        key = hash(name)
        if not self._table.replace(key, digest[-8:], _ASKED):
            return False
        self.left -= 1
        if self._keeps_order:
            self.order.append(key)
        return True

    def ask(self, custom_id: str) -> None:
        """Something is asked for that has no result.

        Raises:
            RequestError: its ID is another one's.
            InputChanged: there is a result of something else that was asked under this ID.
        """
        key = hash(id_json(custom_id))
        before = self._table.swap(key, _ASKED)
        if before == _ASKED:
            raise RequestError(f"the custom_id {custom_id!r} is that of an earlier line")
        if before:
            raise InputChanged(
                f"{custom_id!r} has a result already, but of something else: this line has changed since, or the "
                "options have; give another output, or remove the old one"
            )
        if self._keeps_order:
            self.order.append(key)


class InputChanged(RequestError):
    """Something else was asked under this ID when the output was written."""


class Output:
    """An output file, made if it is not there, and beside it `PATH.errors.jsonl` with the failures of this run.

    Attributes:
        mended: bytes of a torn last line that were cut off.

    Raises:
        FileError: another run has it, or it is the output of something else.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.errors_path = f"{path}.errors.jsonl"
        self._output = self._locked()
        try:
            self.mended = self._mend()
            # Written anew by each run, since each run tries again what failed.
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
                raise FileError("another flynn batch is writing it", file=self.path) from None
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
                raise FileError("its last line is no result of flynn batch; give another output", file=self.path)
            os.ftruncate(self._output, size - len(torn))
        return len(torn)

    def read(self, done: Done) -> int:
        """Note what is done. How many results there are.

        Raises:
            FileError: a line is no result, or an ID is there twice.
        """
        number = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                found = read_line(line)
                if found is None:
                    message = "no result of flynn batch; give another output"
                    raise FileError(message, file=self.path, line=number)
                if not done.add(found[1], found[0]):
                    raise FileError(f"a second result of {found[1].decode()}", file=self.path, line=number)
        return number

    def write(self, results: Sequence[Result]) -> None:
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
                offsets.swap(key, _pack(offset))
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
                            file.seek(*struct.unpack("q", place))
                            target.write(file.readline())
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(draft, self.path)
            except BaseException:
                os.unlink(draft)
                raise

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the files. An errors file without errors is removed."""
        self.sync()
        if not os.fstat(self._errors).st_size:
            os.unlink(self.errors_path)
        os.close(self._errors)
        os.close(self._output)
