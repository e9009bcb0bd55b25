"""The files that a batch writes: the output, which is also the record of what is done, and beside it the failures.

Both are read and checked first; `Record.begin` is the first to change anything.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
from array import array
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ..errors import FileError
from .done import Done, IdTable
from .line_file import LineFile, lock, named
from .results import PREFIX, Result, encode_result, is_failure, is_torn, read_result

_END = 1024 * 1024  # bytes of a torn line that are looked at
_OFFSET = struct.Struct("q")
_GONE = _OFFSET.pack(-1)  # in place of an offset


class Record:
    """The output of a run and its errors file.

    Args:
        path: of the output; it is made if it is not there.

    Attributes:
        before: the number of results that were there.
        errors: where the failures go.

    Raises:
        FileError: another run writes the output, or one of the files holds something else.
        OSError: one of them cannot be read or written.
    """

    def __init__(self, path: str, done: Done) -> None:
        self._has_begun = False
        self._output = Output(path)
        try:
            self.errors = Errors(path)
            self.before = self._output.read(done)
        except BaseException:
            self.close()
            raise

    def begin(self) -> int:
        """Mend what a crash has left. Returns the number of bytes that were cut out of the output."""
        self.errors.begin()
        self._has_begun = True
        return self._output.begin()

    def write(self, results: Sequence[Result]) -> None:
        """Append results, each to the file where it belongs."""
        for file, failed in ((self._output, False), (self.errors, True)):
            file.append(b"".join(encode_result(result) for result in results if (result.error is not None) == failed))

    def sync(self, after: float = 0.0) -> None:
        """Write everything to the disk (fsync), if the last time is `after` seconds ago."""
        self._output.sync(after)
        self.errors.sync(after)

    def finish(self, done: Done) -> None:
        """Sort the results of a complete run, where that was asked for, and drop failures that have a result."""
        self._output.check_place()
        self.errors.finish(done)
        if done.order:
            self._output.sort(done.order)

    def close(self) -> None:
        """Close the files. An errors file without errors is removed, and an output that was made for nothing."""
        if self._has_begun:
            self.errors.close(remove_empty=True)
        self._output.close(remove_empty=self._output.is_new and not self._has_begun)


class Output(LineFile):
    """The output: a line for each request that has succeeded.

    Raises:
        FileError: another run writes it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._damaged: List[Tuple[int, int]] = []  # where what is not whole begins and ends
        self.is_new = not os.path.lexists(self.real)
        while not self._lock():
            pass  # a run that just ended has put another file in its place

    def _lock(self) -> bool:
        self.open(create=True)
        try:
            with named(self.path):
                lock(self.file)
            if self.is_in_place:
                return True
        except BlockingIOError:
            self.close()
            raise FileError("another flynn batch is writing it", file=self.path) from None
        except BaseException:
            self.close()
            raise
        self.close()
        return False

    def read(self, done: Done) -> int:
        """Note what is done. Returns the number of results.

        A power failure may leave zeros where lines were: what is whole between them counts, the rest does not.

        Raises:
            FileError: the file is not the output of a batch, or an ID is there twice.
        """
        number = results = 0
        self._check(is_torn(os.pread(self.file, len(PREFIX), 0)), 1)
        for number, (offset, line) in enumerate(self.lines(), 1):
            start = line.rfind(b"\0") + 1
            result = read_result(line[start:])
            if start:
                self._damaged.append((offset, offset + (start if result else len(line))))
            self._check(result is not None or start > 0, number)
            if result:
                digest, name = result
                if not done.add(name, digest):
                    raise FileError(f"a second result of {name.decode()}", file=self.path, line=number)
                results += 1
        torn = os.pread(self.file, _END, self.end_of_lines())
        self._check(is_torn(torn) or (results > 0 and b"\0" in torn), number + 1)
        if not results:  # a file of zeros may be somebody's: only what a line could have been is taken for one
            self._check(not self._damaged and (len(torn) < _END or not torn.startswith(b"\0")), 1)
        return results

    def _check(self, is_ours: bool, line: int) -> None:
        if not is_ours:
            raise FileError("not a result of flynn batch; give another output", file=self.path, line=line)

    def begin(self) -> int:
        """Mend what a crash has left damaged. Returns the number of bytes that were cut out."""
        self.remove_draft()
        cut = self.cut_torn_line()
        if self._damaged:
            cut += sum(end - start for start, end in self._damaged)
            starts = [0, *(end for _, end in self._damaged)]
            ends = [*(start for start, _ in self._damaged), self.size]
            self.replace(itertools.chain.from_iterable(map(self.copy, starts, ends)))
            self._damaged.clear()
        return cut

    def sort(self, order: Sequence[int]) -> None:
        """Bring the results into an order, given as the hashes of their IDs. Those that are not in it come last."""
        offsets, keys = IdTable(), array("q")
        for offset, line in self.lines():
            keys.append(key := _key_of_result(line))
            offsets.set(key, _OFFSET.pack(offset))
        if keys != order:
            self.replace(self._picked(offsets, itertools.chain(order, keys)))

    def _picked(self, offsets: IdTable, keys: Iterable[int]) -> Iterator[bytes]:
        with open(self.file, "rb", closefd=False) as file:
            for key in keys:
                offset = offsets.get(key)
                if offset not in (b"", _GONE):
                    offsets.set(key, _GONE)
                    file.seek(*_OFFSET.unpack(offset))
                    yield file.readline()


def errors_path(output: str) -> str:
    """Return where the failures go, given the path of the output."""
    return f"{output}.errors.jsonl"


class Errors(LineFile):
    """The failures, in `OUTPUT.errors.jsonl`: a line for each request that failed and has no result since.

    Raises:
        FileError: a file of this name holds something else.
    """

    def __init__(self, output: str) -> None:
        super().__init__(errors_path(output))
        self.began = 0  # the offset of the first failure of this run
        if self.open(create=False):
            self.began = self.end_of_lines()
            first = next(self.lines(), (0, os.pread(self.file, len(PREFIX), 0)))[1]
            if not (parse_failure(first) if self.began else is_torn(first)):
                self.close()
                raise FileError("not a failure of flynn batch; give another output", self.path, 1)

    def begin(self) -> None:
        self.remove_draft()
        if self.file < 0:
            self.open(create=True)
        self.cut_torn_line()

    def finish(self, done: Done) -> None:
        """Drop the failures of earlier runs whose requests were done, or asked again.

        Args:
            done: of a run that has come to its end.
        """
        if self.began:
            self.replace(line for offset, line in self.lines() if offset >= self.began or _is_unsettled(line, done))


def _is_unsettled(line: bytes, done: Done) -> bool:
    """Return whether a line is the failure of a request that this run did not meet."""
    failure = parse_failure(line)
    return bool(failure and failure.get("request") and not done.knows(str(failure.get("custom_id"))))


def parse_failure(line: bytes) -> Optional[Dict[str, Any]]:
    """Return the failure in a line, None if it is not one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if is_failure(value) else None


def _key_of_result(line: bytes) -> int:
    return hash((read_result(line) or (b"", b""))[1])
