"""A file of requests, prompts or values, read one entry at a time, and `Done`: what of it need not be asked again."""

from __future__ import annotations

import json
import re
from array import array
from functools import partial

from ..errors import ConfigError
from .ids import IdTable
from .requests import id_of, make_request
from .results import Result, id_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Dict, Iterator, NoReturn, Tuple, Union

    from .requests import Defaults, Request

    # The place of a line, what it says as bytes, and what makes of them the request, still in any of its forms, or
    # raises ConfigError.
    Entry = Tuple[int, bytes, Callable[[], Any]]

MAX_LINE = 64 * 1024 * 1024  # bytes
_ASKED = b"is asked"  # in place of the digits of a digest
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(rb'"custom_id": ?("[^"\\]+")')  # as it stands in most lines
_PLACE = re.compile(r"\{\{\s*(\w(?:[\w .-]*\w)?)\s*\}\}")


class Done:
    """What has a result already, by ID, with what was asked then.

    Args:
        keep_order: remember the order in which requests were asked for.

    Attributes:
        order: their hashes in this order.
        left: how many of the results belong to no request that was asked for.
    """

    def __init__(self, *, keep_order: bool = False) -> None:
        self._table = IdTable()
        self._keeps_order = keep_order
        self.order = array("q")
        self.left = 0

    def add(self, name: bytes, digest: bytes) -> bool:
        """A result that is there. False if there was one of this ID before.

        Args:
            name: the ID as JSON.
            digest: 16 hexadecimal digits.
        """
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
            ConfigError: its ID is another one's.
            InputChanged: there is a result of something else that was asked under this ID.
        """
        key = hash(id_json(custom_id))
        before = self._table.swap(key, _ASKED)
        if before == _ASKED:
            raise ConfigError(f"the custom_id {custom_id!r} is that of an earlier line")
        if before:
            raise InputChanged(
                f"{custom_id!r} has a result already, but of something else: this line has changed since, or the "
                "options have; give another output, or remove the old one"
            )
        if self._keeps_order:
            self.order.append(key)


class InputChanged(ConfigError):
    """Something else was asked under this ID when the output was written."""


def requests(
    entries: Iterator[Entry], defaults: Defaults, done: Done, *, file: str, fingerprint: bytes = b""
) -> Iterator[Union[Request, Result]]:
    """The requests that have no result yet; for what is no request, a result that says why.

    Args:
        file: what they come from, for errors.
        fingerprint: of whatever else decides what is asked, e.g. a template; 32 bytes at most.

    Raises:
        ConfigError: a result is of something else; see `Done.ask`.
    """
    from hashlib import blake2b

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
            raise ConfigError(str(error), file=file, line=number) from None
        except ConfigError as error:
            yield Result(None, number, error=error)


class Lines:
    """The lines of a file.

    Attributes:
        read: bytes so far.
        count: lines so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in iter(partial(self._file.readline, MAX_LINE + 1), b""):
            self.read += len(line)
            self.count += 1
            yield line
            if len(line) > MAX_LINE:
                self._skip(line)

    def _skip(self, line: bytes) -> None:
        """Read on to the end of a line that is too long."""
        while line and not line.endswith(b"\n"):
            line = self._file.readline(MAX_LINE)
            self.read += len(line)


def read_jsonl(lines: Lines) -> Iterator[Entry]:
    """Each line an object."""
    for line in lines:
        said = line.strip()
        if lines.count == 1:
            said = said[len(_BOM) :] if said.startswith(_BOM) else said
        if said:
            yield lines.count, said, partial(_parsed, said)


def read_text(lines: Lines) -> Iterator[Entry]:
    """Each line a prompt."""
    for line in lines:
        said = line.rstrip(b"\r\n")
        if lines.count == 1 and said.startswith(_BOM):
            said = said[len(_BOM) :]
        if said.strip():
            yield lines.count, said, partial(_decoded, said)


def read_table(lines: Lines) -> Iterator[Entry]:
    """CSV: a header, then each row an object. The number of an entry is that of the row's last line."""
    import csv

    csv.field_size_limit(MAX_LINE)
    text = (line.decode("utf-8-sig" if lines.count == 1 else "utf-8", "surrogateescape") for line in lines)
    rows = csv.DictReader(text)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield lines.count, b"", partial(_refused, f"not CSV: {error}")
        else:
            yield lines.count, json.dumps(row).encode(), partial(_values, row, len(rows.fieldnames or ()))


def _values(row: Dict[Any, Any], count: int) -> Any:
    if None in row or None in row.values():
        raise ConfigError(f"the row has not as many values as the header, which has {count}")
    try:
        "".join(row.values()).encode()
    except UnicodeEncodeError:  # what was no UTF-8 came as lone surrogates
        raise ConfigError("not UTF-8") from None
    return row


def _refused(message: str) -> NoReturn:
    raise ConfigError(message)


def read_values(lines: Lines) -> Iterator[Entry]:
    """CSV, or JSON lines if the first line begins as an object does."""
    first = next(iter(lines), b"")
    whole = _Again(first, lines)
    start = first[len(_BOM) :] if first.startswith(_BOM) else first
    return read_jsonl(whole) if start.lstrip().startswith(b"{") else read_table(whole)


class _Again(Lines):
    """Lines of which the first was read already."""

    def __init__(self, first: bytes, lines: Lines) -> None:
        super().__init__(lines._file)
        self._first, self._lines = first, lines

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            self.count = 1
            yield self._first
            for line in self._lines:
                self.count = self._lines.count
                yield line


class Template:
    """A prompt with places for values: `Translate to {{language}}: {{text}}`. Single braces stand for themselves.

    Raises:
        ConfigError: it has no place for a value.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.names = list(dict.fromkeys(_PLACE.findall(text)))
        if not self.names:
            raise ConfigError("the template has no {{name}} for a value to go to")

    def entry(self, entry: Entry) -> Entry:
        """The prompt that an entry of values makes."""
        number, said, read = entry
        return number, said, partial(self._prompt, read)

    def _prompt(self, read: Callable[[], Any]) -> Any:
        values = read()
        missing = [name for name in self.names if values.get(name) is None]
        if missing:
            raise ConfigError(f"no value for {{{{{missing[0]}}}}}; there is: {', '.join(map(str, values))}")
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
        raise ConfigError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"a line is an object, not {type(value).__name__}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


_DECODE = json.JSONDecoder(parse_constant=_refuse).decode  # json.loads would make one for each line


def _decoded(said: bytes) -> str:
    if len(said) > MAX_LINE:
        raise ConfigError(f"more than {MAX_LINE} bytes")
    try:
        return said.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8") from None
