"""The input of the command: a file of requests, prompts or values, read one entry at a time."""

from __future__ import annotations

import csv
import json
import re
from hashlib import blake2b  # at the top: what it maps may not fit into little memory any more while threads begin
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import FileError, RequestError
from ..files import refuse_constant
from .done import Done, InputChanged
from .requests import Defaults, Request, id_of, make_request, retry_of
from .results import Result, is_failure

MAX_LINE = 64 * 1024 * 1024  # bytes
_BOM = b"\xef\xbb\xbf"
_PLACE = re.compile(r"\{\{\s*(\w(?:[\w .-]*\w)?)\s*\}\}")


class Entry(NamedTuple):
    """An entry of the input.

    Attributes:
        number: the line, counted from 1; the last one of several.
        source: what the entry says, as bytes.
        value: the request in any of its forms, or values for a template; a RequestError if it is neither.
    """

    number: int
    source: bytes
    value: Any


class Lines:
    """The lines of a file, each with its number, without a byte order mark.

    Args:
        file: at its beginning.
        name: of the file, for errors.
        size: bytes to read, None for all there are.
        longest: bytes that a line may have. Of a longer one the beginning is returned, which is too long as well.

    Attributes:
        read: bytes that were read.
    """

    def __init__(
        self, file: BinaryIO, name: str = "input", *, size: Optional[int] = None, longest: int = MAX_LINE
    ) -> None:
        self._file, self.size = file, size
        self.name, self.longest = name, longest
        self.read = self._count = 0
        self._ahead: List[Tuple[int, bytes]] = []

    def __iter__(self) -> Iterator[Tuple[int, bytes]]:
        return self

    def __next__(self) -> Tuple[int, bytes]:
        if self._ahead:
            return self._ahead.pop()
        line = self._readline(self.longest + len(_BOM) + 1)
        if not line:
            raise StopIteration
        self._count += 1
        rest = line
        while len(rest) > self.longest and not rest.endswith(b"\n"):
            rest = self._readline(self.longest + 1)
        return self._count, line.removeprefix(_BOM) if self._count == 1 else line

    def peek(self) -> bytes:
        """Return the first line without taking it; b"" if there is none."""
        self._ahead = [line for line in [next(self, None)] if line]
        return self._ahead[0][1] if self._ahead else b""

    def _readline(self, most: int) -> bytes:
        line = self._file.readline(most if self.size is None else min(most, self.size - self.read))
        self.read += len(line)
        return line

    def decode(self, line: bytes) -> str:
        """Return the text of a line. Raises RequestError if it is too long, or not UTF-8."""
        if len(line) > self.longest:
            raise RequestError(f"more than {self.longest} bytes")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError("not UTF-8") from None


def read_jsonl(lines: Lines) -> Iterator[Entry]:
    """Yield each line as an object.

    Raises:
        FileError: the first line is not an object, so this is a file of another kind.
    """
    advice = "give --text if each line is a prompt, or --template FILE if INPUT is a table of values"
    is_first = True
    for number, line in lines:
        if source := line.strip():
            if is_first and (not source.startswith(b"{") or source == b"{"):
                raise FileError(f"not a JSON object on one line; {advice}", lines.name, number)
            is_first = False
            yield Entry(number, source, _parse(lines, source))


def _parse(lines: Lines, source: bytes) -> Any:
    """Return the object in a line, or the RequestError that says why there is none."""
    try:
        value = _DECODE(lines.decode(source))
    except RequestError as error:
        return error
    except (ValueError, RecursionError) as error:
        return RequestError(f"not JSON: {error}")
    return value if isinstance(value, dict) else RequestError(f"expected an object, got {type(value).__name__}")


def _without_duplicates(members: List[Tuple[str, Any]]) -> Dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise RequestError(f"the field {_duplicate([name for name, _ in members])!r} is there twice")
    return value


def _duplicate(names: Sequence[str]) -> str:
    """Return the first name that is there twice; an empty one does not count."""
    return next((name for place, name in enumerate(names) if name and name in names[:place]), "")


_DECODE = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=refuse_constant).decode


def read_text(lines: Lines) -> Iterator[Entry]:
    """Yield each line as a prompt."""
    for number, line in lines:
        source = line.rstrip(b"\r\n")
        if source.strip():
            try:
                yield Entry(number, source, lines.decode(source))
            except RequestError as error:
                yield Entry(number, source, error)


def read_table(lines: Lines, wanted: Sequence[str]) -> Iterator[Entry]:
    """Yield each row of a CSV file as an object, by the names in its header.

    Raises:
        FileError: the header lacks a name that is wanted, or has one twice, or cannot be read.
    """
    header: Optional[List[str]] = None
    for number, row in _rows(lines):
        if header is None:
            if isinstance(row, RequestError):
                raise FileError(str(row), lines.name, number)
            header = row
            _check_header(header, wanted, lines.name, number)
        elif isinstance(row, RequestError):
            yield Entry(number, b"", row)
        elif len(row) != len(header):
            problem = RequestError(f"the row has {len(row)} values, and the header {len(header)}")
            yield Entry(number, json.dumps(row).encode(), problem)
        else:
            values = dict(zip(header, row))
            yield Entry(number, json.dumps(values).encode(), values)


def _rows(lines: Lines) -> Iterator[Tuple[int, Union[List[str], RequestError]]]:
    """Yield each row that is not empty, with the number of its last line; a RequestError for what cannot be read."""
    problems: List[RequestError] = []

    def texts() -> Iterator[str]:
        for _, line in lines:
            try:
                yield lines.decode(line)
            except RequestError as error:
                problems.append(error)
                yield line.decode("utf-8", "replace")  # the row that it belongs to is not used

    csv.field_size_limit(lines.longest)
    reader = csv.reader(texts())
    while True:
        try:
            row: Optional[List[str]] = next(reader, None)
        except csv.Error as error:
            problems.append(RequestError(f"not CSV: {error}"))
            row = []
        if problems:
            yield reader.line_num, problems[0]
            problems.clear()
        elif row is None:
            return
        elif row:
            yield reader.line_num, row


def _check_header(header: Sequence[str], wanted: Sequence[str], file: str, line: int) -> None:
    if name := _duplicate(header):
        raise FileError(f"the header has {name!r} twice", file, line)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise FileError(f"no column {missing[0]!r} for the template (the header has: {', '.join(header)})", file, line)


class Template:
    """A prompt with places for values: `Translate to {{language}}: {{text}}`. Single braces stand for themselves.

    Raises:
        RequestError: it has no place for a value.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._names = list(dict.fromkeys(_PLACE.findall(text)))
        if not self._names:
            raise RequestError("the template has no {{name}} for a value")

    def read(self, lines: Lines) -> Iterator[Entry]:
        """Yield the prompt that each entry makes: of CSV, or of JSON lines if the first begins as an object does."""
        is_json = lines.peek().lstrip().startswith(b"{")
        for number, source, values in read_jsonl(lines) if is_json else read_table(lines, self._names):
            yield Entry(number, source, values if isinstance(values, RequestError) else self._fill(values))

    def _fill(self, values: Dict[str, Any]) -> Any:
        for name in self._names:
            if values.get(name) is None:
                return RequestError(f"no value for {{{{{name}}}}} (there are: {', '.join(values)})")
        prompt = _PLACE.sub(lambda match: _text_of(values[match[1]]), self._text)
        name = values.get("custom_id")
        return {"prompt": prompt, **({"custom_id": name} if name not in (None, "") else {})}


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def requests(
    entries: Iterable[Entry], defaults: Defaults, done: Done, file: str, fingerprint: bytes = b""
) -> Iterator[Union[Request, Result]]:
    """Yield the requests that have no result yet, and a failure for what is not a request.

    A line of an errors file is the request that failed: asked again, unless it has a result by now.

    Args:
        file: the name of the input, for errors.
        fingerprint: of everything else that decides the requests, such as a template; 32 bytes at most.

    Raises:
        FileError: a request has a result, but of something else; see `Done.ask`.
    """
    keyed = blake2b(digest_size=8, key=defaults.key + fingerprint)
    for number, source, value in entries:
        hashed = keyed.copy()
        hashed.update(source)
        digest, custom_id = hashed.hexdigest(), None
        try:
            if isinstance(value, RequestError):
                raise value
            custom_id = f"request-{number}"
            custom_id = id_of(value, number)
            if is_failure(value):
                line = value["error"].get("line")
                number = line if isinstance(line, int) else number
                request = retry_of(value, number, defaults, digest)
                if done.knows(request.custom_id):
                    continue
                done.ask(request.custom_id)
                yield request
            elif not done.has(custom_id, digest):
                done.ask(custom_id)
                yield make_request(value, number, defaults, digest)
        except InputChanged as error:
            raise FileError(str(error), file, number) from None
        except RequestError as error:
            yield Result(custom_id, number, error=error, digest=digest)
