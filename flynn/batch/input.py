"""The input of the command: a file of requests, prompts or values, and which of its requests are still to be sent."""

from __future__ import annotations

import csv
import json
import re
from hashlib import blake2b  # not later: where memory is short, its library may not fit once threads have started
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import FileError, RequestError
from ..files import refuse_constant
from .requests import Defaults, Request, id_of, make_request, retry_of
from .results import Result, as_json, is_failure

MAX_LINE = 64 * 1024 * 1024  # bytes
_BOM = b"\xef\xbb\xbf"
_PLACE = re.compile(r"\{\{\s*(\w(?:[\w .-]*\w)?)\s*\}\}")
_ASKED = b"asked"  # in place of a digest


class Entry(NamedTuple):
    """A line of the input, or an entry that takes several.

    Attributes:
        number: the line, counted from 1; the last one of several.
        source: the bytes that identify the entry.
        value: the text of a line, a request in any of its forms, or values for a template; else a RequestError.
    """

    number: int
    source: bytes
    value: Any


class Lines:
    """The lines of a file that is at its beginning, without a byte order mark.

    Attributes:
        name: the name of the file, for errors.
        read: bytes that were read.
        size: bytes to read, None for all there are.
    """

    def __init__(self, file: BinaryIO, name: str = "input", *, longest: int = MAX_LINE) -> None:
        self._file, self.name, self._longest = file, name, longest
        self.read = self._count = 0
        self.size: Optional[int] = None
        self._ahead: Optional[Entry] = None

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        if self._ahead:
            entry, self._ahead = self._ahead, None
            return entry
        line = rest = self._readline(self._longest + len(_BOM) + 1)
        if not line:
            raise StopIteration
        while len(rest) > self._longest and not rest.endswith(b"\n"):
            rest = self._readline(self._longest + 1)
        self._count += 1
        if self._count == 1:
            line = line.removeprefix(_BOM)
        return Entry(self._count, line, self._decode(line))

    def peek(self) -> bytes:
        """Return the first line without taking it; b"" if there is none."""
        self._ahead = next(self, None)
        return self._ahead.source if self._ahead else b""

    def _readline(self, most: int) -> bytes:
        line = self._file.readline(most if self.size is None else min(most, self.size - self.read))
        self.read += len(line)
        return line

    def _decode(self, line: bytes) -> Union[str, RequestError]:
        if len(line.rstrip(b"\r\n")) > self._longest:
            return RequestError(f"more than {self._longest} bytes")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            return RequestError("not UTF-8")


def read_jsonl(lines: Lines) -> Iterator[Entry]:
    """Yield each line as an object. Raises FileError if the first one is not: then this is a file of another kind."""
    advice = "give --text if each line is a prompt, or --template FILE if INPUT is a table of values"
    is_first = True
    for number, line, text in lines:
        if source := line.strip():
            if is_first and (not source.startswith(b"{") or source == b"{"):
                raise FileError(f"not a JSON object on one line; {advice}", lines.name, number)
            is_first = False
            yield Entry(number, source, text if isinstance(text, RequestError) else _parse(text.strip()))


def _parse(text: str) -> Union[Dict[str, Any], RequestError]:
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=refuse_constant)
    except RequestError as error:
        return error
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else error
        return RequestError(f"not JSON: {problem}")
    return value if isinstance(value, dict) else RequestError(f"expected an object, got {type(value).__name__}")


def _without_duplicates(members: List[Tuple[str, Any]]) -> Dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise RequestError(f"the field {_duplicate([name for name, _ in members])!r} is there twice")
    return value


def _duplicate(names: Sequence[str]) -> str:
    """Return the first name that is there twice; an empty one does not count."""
    return next((name for place, name in enumerate(names) if name and name in names[:place]), "")


def read_text(lines: Lines) -> Iterator[Entry]:
    """Yield each line that is not empty as a prompt."""
    for number, line, text in lines:
        if line.strip():
            prompt = text if isinstance(text, RequestError) else text.rstrip("\r\n")
            yield Entry(number, line.rstrip(b"\r\n"), prompt)


def read_table(lines: Lines, wanted: Sequence[str]) -> Iterator[Entry]:
    """Yield each row of a CSV file as an object, by the names in its header.

    Raises FileError if the header lacks a name that is wanted, or has one twice, or cannot be read.
    """
    rows = _rows(lines)
    number, header = next(rows, (0, list(wanted)))
    if isinstance(header, RequestError):
        raise FileError(str(header), lines.name, number)
    if name := _duplicate(header):
        raise FileError(f"the header has {name!r} twice", lines.name, number)
    for name in wanted:
        if name not in header:
            problem = f"no column {name!r} for the template (the header has: {', '.join(header)})"
            raise FileError(problem, lines.name, number)
    for number, row in rows:
        if isinstance(row, RequestError):
            yield Entry(number, b"", row)
        elif len(row) != len(header):
            error = RequestError(f"the row has {len(row)} values, and the header {len(header)}")
            yield Entry(number, as_json(row), error)
        else:
            values = dict(zip(header, row))
            yield Entry(number, as_json(values), values)


def _rows(lines: Lines) -> Iterator[Tuple[int, Union[List[str], RequestError]]]:
    """Yield each row that is not empty, with the number of its last line; a RequestError for what cannot be read."""
    problems: List[RequestError] = []

    def texts() -> Iterator[str]:
        for _, line, text in lines:
            if isinstance(text, RequestError):
                problems.append(text)
                text = line.decode("utf-8", "replace")  # the row that it belongs to is not used
            yield text

    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(texts())
    while True:
        try:
            row = next(reader, None)
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


def read_template(lines: Lines, template: str) -> Iterator[Entry]:
    """Yield the prompt that each entry makes: of CSV, or of JSON lines if the first begins as an object does.

    A template is a prompt with places for values, `Translate to {{language}}: {{text}}`. Single braces stand for
    themselves. Raises RequestError if there is no place.
    """
    names = list(dict.fromkeys(_PLACE.findall(template)))
    if not names:
        raise RequestError("the template has no {{name}} for a value")
    is_json = lines.peek().lstrip().startswith(b"{")
    for number, source, values in read_jsonl(lines) if is_json else read_table(lines, names):
        yield Entry(number, source, values if isinstance(values, RequestError) else _fill(template, names, values))


def _fill(template: str, names: Sequence[str], values: Dict[str, Any]) -> Union[Dict[str, Any], RequestError]:
    texts: Dict[str, str] = {}
    for name in names:
        value = values.get(name)
        if value is None:
            return RequestError(f"no value for {{{{{name}}}}} (there are: {', '.join(values)})")
        texts[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    prompt: Dict[str, Any] = {"prompt": _PLACE.sub(lambda match: texts[match[1]], template)}
    custom_id = values.get("custom_id")
    return prompt if custom_id in (None, "") else {**prompt, "custom_id": custom_id}


class InputChanged(RequestError):
    """The result under this ID is of another request."""


class Done:
    """Which requests have a result, and which were asked for in this run, by their IDs as JSON. A million take 170 MB.

    Attributes:
        order: the IDs that were asked for.
        left: how many results belong to no request that was asked for.
    """

    def __init__(self) -> None:
        self.order: List[bytes] = []
        self.left = 0
        self._digests: Dict[bytes, bytes] = {}

    def add(self, name: bytes, digest: bytes) -> bool:
        """Add a result. Returns False if there is one of this ID already."""
        if name in self._digests:
            return False
        self._digests[name] = digest
        self.left += 1
        return True

    def knows(self, custom_id: str) -> bool:
        """Return whether an ID has a result, or was asked for in this run."""
        return as_json(custom_id) in self._digests

    def ask(self, custom_id: str, digest: str) -> bool:
        """Note that a request is asked for. Returns False if it has a result.

        Raises RequestError if an earlier request has this ID, InputChanged if its result is of something else.
        """
        name = as_json(custom_id)
        known = self._digests.get(name)
        if known == _ASKED:
            raise RequestError(f"an earlier line has the custom_id {custom_id!r} too")
        if known not in (None, digest.encode()):
            raise InputChanged(
                f"{custom_id!r} has a result already, but of something else: this line or the options have changed "
                "since; give another output, or remove the old one"
            )
        self._digests[name] = _ASKED
        self.order.append(name)
        self.left -= known is not None
        return known is None


def requests(
    entries: Iterable[Entry], defaults: Defaults, done: Done, file: str, fingerprint: bytes = b""
) -> Iterator[Union[Request, Result]]:
    """Yield the requests that have no result yet, and a failure for what is not a request.

    A line of an errors file is the request that failed: asked again, unless it has a result by now. `fingerprint`, of
    32 bytes at most, stands for everything else that decides the requests, such as a template. Raises FileError, with
    the name of the input, if a request has a result, but of something else.
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
                if not done.knows(request.custom_id) and done.ask(request.custom_id, request.digest):
                    yield request
            elif done.ask(custom_id, digest):
                yield make_request(value, number, defaults, digest)
        except InputChanged as error:
            raise FileError(str(error), file, number) from None
        except RequestError as error:
            yield Result(custom_id, number, error=error, digest=digest)
