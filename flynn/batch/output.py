"""The files that a batch writes: the output, which is also the record of what is done, and beside it the failures.

Both are read and checked first; `Record.begin` is the first to change anything.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from typing import Any, Dict, Optional, Sequence

from ..errors import FileError
from .input import Done
from .line_file import LineFile
from .results import PREFIX, Result, encode_result, is_failure, is_torn, read_result

_END = 1024 * 1024  # bytes of a torn line that are looked at


class Record:
    """The output of a run, with a line for each request that has succeeded, and its errors file.

    Attributes:
        before: the number of results that were there.
        errors_began: where the failures of this run begin in the errors file, in bytes.

    Raises FileError if another run writes the output, or if one of the files holds something else.
    """

    def __init__(self, path: str, done: Done) -> None:
        with contextlib.ExitStack() as files:
            self._output = files.enter_context(contextlib.closing(LineFile(path)))
            self._errors = files.enter_context(contextlib.closing(LineFile(errors_path(path))))
            self.errors_began = self._errors.end_of_lines()
            self._check_errors()
            self._lost = 0  # bytes of lines that a power failure has damaged
            self.before = self._read(done)
            self._files = files.pop_all()

    def _check_errors(self) -> None:
        first = next(self._errors.lines(), (0, os.pread(self._errors.file, len(PREFIX), 0)))[1]
        if not (_read_failure(first) if self.errors_began else is_torn(first)):
            raise FileError("not a failure of flynn batch; give another output", self._errors.path, 1)

    def _read(self, done: Done) -> int:
        """Note what is done. Returns the number of results.

        A power failure may leave zeros where lines were: what is whole between them counts, the rest does not.
        """
        output = self._output
        number = results = 0
        _check(output, 1, is_torn(os.pread(output.file, len(PREFIX), 0)))
        for number, (_, line) in enumerate(output.lines(), 1):
            part = _after_zeros(line)
            result = read_result(part)
            self._lost += len(line) - (len(part) if result else 0)
            _check(output, number, result is not None or b"\0" in line)
            if result:
                digest, custom_id = result
                if not done.add(custom_id, digest):
                    raise FileError(f"a second result of {custom_id.decode()}", output.path, number)
                results += 1
        torn = os.pread(output.file, _END, output.end_of_lines())
        _check(output, number + 1, is_torn(torn) or (results > 0 and b"\0" in torn))
        if not results:  # a file of zeros may be somebody's: only what a line could have been is taken for one
            _check(output, 1, not self._lost and (len(torn) < _END or not torn.startswith(b"\0")))
        return results

    def begin(self) -> int:
        """Mend what a crash has left damaged. Returns the number of bytes that were cut out of the output."""
        self._errors.mend()
        cut = self._output.mend() + self._lost
        if self._lost:
            parts = (_after_zeros(line) for _, line in self._output.lines())
            self._output.replace(part for part in parts if read_result(part))
        self._errors.removes_empty, self._output.removes_empty = True, False
        return cut

    def write(self, results: Sequence[Result]) -> None:
        """Append results, each to the file where it belongs."""
        for file, failed in ((self._output, False), (self._errors, True)):
            file.append(b"".join(encode_result(result) for result in results if (result.error is not None) == failed))

    def sync(self, after: float = 0.0) -> None:
        """Write everything to the disk (fsync), if the last time is `after` seconds ago."""
        self._output.sync(after)
        self._errors.sync(after)

    def finish(self, done: Done, *, ordered: bool) -> None:
        """After a complete run: drop the old failures that it asked again, and put the results in order."""
        self._output.check_place()
        if self.errors_began:
            lines = self._errors.lines()
            self._errors.replace(line for at, line in lines if at >= self.errors_began or _is_unsettled(line, done))
        if ordered and done.order:
            self._sort(done.order)

    def _sort(self, order: Sequence[bytes]) -> None:
        """Put the results into an order of IDs. Those that are not in it come last."""
        offsets = {(read_result(line) or (b"", b""))[1]: offset for offset, line in self._output.lines()}
        if list(offsets) != order:
            ids = dict.fromkeys(itertools.chain(order, offsets))
            self._output.replace(self._output.lines_at(offsets[name] for name in ids if name in offsets))

    def close(self) -> None:
        """Close the files. An errors file without errors is removed, and a file that was created for nothing."""
        self._files.close()


def errors_path(output: str) -> str:
    """Return where the failures go, given the path of the output."""
    return f"{output}.errors.jsonl"


def _check(file: LineFile, line: int, is_ours: bool) -> None:
    if not is_ours:
        raise FileError("not a result of flynn batch; give another output", file.path, line)


def _after_zeros(line: bytes) -> bytes:
    """Return the part of a line after the zeros that a power failure has left in it."""
    return line[line.rfind(b"\0") + 1 :]


def _read_failure(line: bytes) -> Optional[Dict[str, Any]]:
    """Return the failure in a line, None if it is not one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if is_failure(value) else None


def _is_unsettled(line: bytes, done: Done) -> bool:
    """Return whether a line is the failure of a request that this run did not meet."""
    failure = _read_failure(line)
    return bool(failure and failure.get("request") and not done.knows(str(failure.get("custom_id"))))
