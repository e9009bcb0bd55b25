"""A file of requests, prompts or values, read one entry at a time."""

from __future__ import annotations

import json
import re
from functools import partial
from hashlib import blake2b  # now: what it maps may not fit any more while threads begin
from itertools import chain, islice
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, NoReturn, Tuple, Union

from ..errors import FileError, RequestError
from ..files import refuse_constant
from .output import Done, InputChanged
from .requests import Defaults, Request, id_of, make_request
from .results import Result, id_json

NumberedLines = Iterable[Tuple[int, bytes]]
# The place of a line, what it says as bytes, and what makes of them the request, still in any of its forms, or
# raises RequestError.
Entry = Tuple[int, bytes, Callable[[], Any]]

MAX_LINE = 64 * 1024 * 1024  # bytes
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(rb'"custom_id": ?("[^"\\]+")')  # as it stands in most lines
_PLACE = re.compile(r"\{\{\s*(\w(?:[\w .-]*\w)?)\s*\}\}")
_DECODE = json.JSONDecoder(parse_constant=refuse_constant).decode  # json.loads would make one for each line


def requests(
    entries: Iterable[Entry], defaults: Defaults, done: Done, *, file: str, fingerprint: bytes = b""
) -> Iterator[Union[Request, Result]]:
    """The requests that have no result yet; for what is no request, a result that says why.

    Args:
        file: what they come from, for errors.
        fingerprint: of whatever else decides what is asked, e.g. a template; 32 bytes at most.

    Raises:
        FileError: a result is of something else; see `Done.ask`.
    """
    keyed = blake2b(digest_size=8, key=defaults.key + fingerprint)
    for number, said, read in entries:
        hashed = keyed.copy()
        hashed.update(said)
        digest = hashed.hexdigest()
        # Most of a long input that is run again is done: that can be seen without reading the JSON.
        found = _NAME.search(said)
        likely = found[1] if found else b'"request-%d"' % number
        if done.has(likely, digest.encode()):
            continue
        try:
            value = read()
            custom_id = id_of(value, number)
            name = id_json(custom_id)
            if name == likely or not done.has(name, digest.encode()):
                done.ask(custom_id)
                yield make_request(value, number, defaults, digest)
        except InputChanged as error:
            raise FileError(str(error), file, number) from None
        except RequestError as error:
            yield Result(None, number, error=error)


class Lines:
    """The lines of a file, each with its number, without a byte order mark.

    Attributes:
        read: bytes so far.
        count: lines so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = self.count = 0

    def __iter__(self) -> Iterator[Tuple[int, bytes]]:
        for line in iter(partial(self._file.readline, MAX_LINE + len(_BOM) + 1), b""):
            self.read += len(line)
            self.count += 1
            yield self.count, line.removeprefix(_BOM) if self.count == 1 else line
            while len(line) > MAX_LINE and not line.endswith(b"\n"):  # its end is skipped
                line = self._file.readline(MAX_LINE + 1)
                self.read += len(line)


def read_jsonl(lines: NumberedLines) -> Iterator[Entry]:
    """Each line an object."""
    for number, line in lines:
        if said := line.strip():
            yield number, said, partial(_parsed, said)


def read_text(lines: NumberedLines) -> Iterator[Entry]:
    """Each line a prompt."""
    for number, line in lines:
        said = line.rstrip(b"\r\n")
        if said.strip():
            yield number, said, partial(_decoded, said)


def read_table(lines: NumberedLines) -> Iterator[Entry]:
    """CSV: a header, then each row an object. The number of an entry is that of the row's last line."""
    import csv

    csv.field_size_limit(MAX_LINE)
    rows = csv.DictReader(line.decode("utf-8", "surrogateescape") for _, line in lines)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield rows.reader.line_num, b"", partial(_refused, f"not CSV: {error}")
        else:
            yield rows.reader.line_num, json.dumps(row).encode(), partial(_values, row, len(rows.fieldnames or ()))


def _values(row: Dict[Any, Any], count: int) -> Any:
    if None in row or None in row.values():
        raise RequestError(f"the row has not as many values as the header, which has {count}")
    try:
        "".join(row.values()).encode()
    except UnicodeEncodeError:  # what was no UTF-8 came as lone surrogates
        raise RequestError("not UTF-8") from None
    return row


def _refused(message: str) -> NoReturn:
    raise RequestError(message)


def read_values(lines: NumberedLines) -> Iterator[Entry]:
    """CSV, or JSON lines if the first line begins as an object does."""
    rest = iter(lines)
    first = list(islice(rest, 1))
    is_json = first and first[0][1].lstrip().startswith(b"{")
    return (read_jsonl if is_json else read_table)(chain(first, rest))


class Template:
    """A prompt with places for values: `Translate to {{language}}: {{text}}`. Single braces stand for themselves.

    Raises:
        RequestError: it has no place for a value.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.names = list(dict.fromkeys(_PLACE.findall(text)))
        if not self.names:
            raise RequestError("the template has no {{name}} for a value to go to")

    def entry(self, entry: Entry) -> Entry:
        """The prompt that an entry of values makes."""
        number, said, read = entry
        return number, said, partial(self._prompt, read)

    def _prompt(self, read: Callable[[], Any]) -> Any:
        values = read()
        for name in self.names:
            if values.get(name) is None:
                raise RequestError(f"no value for {{{{{name}}}}}; there is: {', '.join(map(str, values))}")
        prompt = _PLACE.sub(lambda found: _written(values[found[1]]), self._text)
        name = values.get("custom_id")
        return {"prompt": prompt, **({"custom_id": name} if name not in (None, "") else {})}


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parsed(said: bytes) -> Any:
    text = _decoded(said)
    try:
        value = _DECODE(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"a line is an object, not {type(value).__name__}")
    return value


def _decoded(said: bytes) -> str:
    if len(said) > MAX_LINE:
        raise RequestError(f"more than {MAX_LINE} bytes")
    try:
        return said.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("not UTF-8") from None
