"""Reads the part of YAML 1.1 that a configuration needs, without a package. No I/O.

That part is: nested block mappings whose values are scalars or lists of scalars (`- x` on separate lines, or `[a, b]`);
plain, single-quoted and double-quoted scalars on one line; comments; one `---` at the beginning.

Accepted text reads as PyYAML's `safe_load` reads it, including `yes`, `017` and `1:30`. Everything else is refused
with its line and column, also where PyYAML would guess: a key twice, a key that is not a string, a scalar on two lines.
"""

from __future__ import annotations

import re
from typing import Dict, List, Match, NoReturn, Optional, Pattern, Tuple, Union

from ..errors import ConfigError

Scalar = Union[None, bool, int, float, str]
Value = Union[Scalar, List[Scalar], Dict[str, "Value"]]
KeyPath = Tuple[str, ...]
Positions = Dict[KeyPath, Tuple[int, int]]

MAX_DEPTH = 16  # nested mappings
_MAX_KEY = 1024  # characters from a key's start to its colon (YAML 1.1, 9.3: "simple keys")
_MAX_NUMBER = 100  # characters; int() takes quadratic time

# YAML 1.1, 5.1: the character set, without NEL, LS and PS: PyYAML ends a line, and even a comment, at each of them. A
# byte order mark in the middle of a text is left out too.
_UNREADABLE = re.compile("[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_MARKER = re.compile(r"(?:---|\.\.\.)(?:[ \t]|$)")
_ITEM = re.compile(r" *-(?:[ \t]|$)")

# A plain scalar: a first character, then anything up to ": ", " #" or the end. In brackets more characters end it.
_PLAIN = re.compile(
    r"""(?:[^ \t\-?:,\[\]{}#&*!|>'"%@`] | [-?:](?=[^ \t]))
        (?:[^ \t:]+ | :(?=[^ \t]) | [ ]+(?=[^ \t#]))*""",
    re.X,
)
_PLAIN_IN_BRACKETS = re.compile(
    r"""(?:[^ \t\-?:,\[\]{}#&*!|>'"%@`] | -(?=[^ \t,?\[\]{}]))
        (?:[^ \t:,?\[\]{}]+ | :(?=[^ \t,\[\]{}]) | [ ]+(?=[^ \t#]))*""",
    re.X,
)
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""")

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPED = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r",
    "e": "\x1b", " ": " ", '"': '"', "\\": "\\", "/": "/", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip

# The types of plain scalars: the patterns of PyYAML's resolver.py, which are those of yaml.org/type for YAML 1.1.
_WORDS: Dict[str, Optional[bool]] = {
    **dict.fromkeys(("~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_FLOAT = re.compile(
    r"""(?:[-+]?[0-9][0-9_]*\.[0-9_]* | \.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?
      | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
      | [-+]?\.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN)""",
    re.X,
)
_INT = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*(?::[0-5]?[0-9])*)")
_DATE = re.compile(
    r"""[0-9]{4}-[0-9]{2}-[0-9]{2}
      | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ ]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?
        (?:[ ]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?""",
    re.X,
)

_INDENTATION = (
    "unexpected indentation: the keys of one mapping begin in the same column, and a value stays on the line of its key"
)
_KEY = "expected 'key: value' on one line, with a space after the colon"
_TAB = "a tab or a no-break space: use plain spaces"
_COMMENT = "nothing but a comment, ' # ...', may follow here"
_UNCLOSED = "the quote is not closed on this line"
_QUOTE_IT = "if that is text, put it in quotes"
_REFUSED = {  # by the character where a key or a value should begin
    "\t": _TAB,
    "{": "a mapping in braces: write each 'key: value' on a line of its own, indented below its parent",
    "[": "brackets: a list is read as the value of a key only, 'key: [a, b]', and holds single values",
    "&": f"an anchor: write the value out wherever it is needed; {_QUOTE_IT}",
    "*": f"an alias: write the value out; {_QUOTE_IT}",
    "!": f"a tag: leave it out; {_QUOTE_IT}",
    "|": 'a block of text: write it on one line in double quotes, with "\\n" for a line break',
    ">": "a block of text: write it on one line in double quotes",
    "?": "a complex key: write 'key: value'",
    "-": "a list item is not allowed here: write each '- value' on a line of its own below 'key:'",
    ":": "no key before the ':'",
    "'": _UNCLOSED,
    '"': _UNCLOSED,
    ",": "no value before the ','",
}


def parse(text: str, file: Optional[str] = None) -> Tuple[Optional[Dict[str, Value]], Positions]:
    r"""Return the mapping in a document, None if it is empty; and the line and column of every key, by its path.

    Raises ConfigError, which names the file, if the text is not YAML, or is outside the part described above.

    Example:
        >>> parse("models:\n  local:\n    timeout: 1:30\n")[0]
        {'models': {'local': {'timeout': 90}}}
    """
    reader = _Parser(text, file)
    return reader.document(), reader.positions


class _Parser:
    """Reads a document line by line. `at` is always an index in the current line."""

    def __init__(self, text: str, file: Optional[str]) -> None:
        self.file = file
        self.positions: Positions = {}
        self.rest = enumerate(re.split(r"\r\n|\r|\n", text), 1)
        self.advance()

    def advance(self) -> None:
        """Go to the next line that is not blank or a comment; at the end, `indent` is -1."""
        for number, line in self.rest:
            self.number, self.line = number, line
            if unreadable := _UNREADABLE.search(line):
                code = f"{ord(unreadable[0]):04X}"
                self.refuse(unreadable.start(), f'the character U+{code}: write it as "\\u{code}" in double quotes')
            content = line.lstrip(" ")
            if content and content[0] != "#":
                self.indent = len(line) - len(content)
                return
        self.line, self.indent = "", -1

    def refuse(self, at: int, message: str) -> NoReturn:
        raise ConfigError(message, file=self.file, line=self.number, column=at + 1)

    def skip(self, at: int) -> int:
        """Return the index of the first character from `at` on that is not a space."""
        while self.line[at : at + 1] == " ":
            at += 1
        return at

    def is_empty(self, at: int) -> bool:
        """Return whether nothing but a comment follows."""
        return self.line[at : at + 1] in ("", "#")

    def document(self) -> Optional[Dict[str, Value]]:
        if self.line.startswith("-") and _MARKER.match(self.line):
            self.expect_end(3)
            self.advance()
        if self.indent < 0:
            return None
        value = self.mapping(self.indent, ())
        if self.indent >= 0:
            self.refuse(self.indent, _INDENTATION)
        return value

    def mapping(self, indent: int, path: KeyPath) -> Dict[str, Value]:
        """Return the mapping whose keys begin in this column."""
        if len(path) == MAX_DEPTH:
            self.refuse(indent, f"more than {MAX_DEPTH} nested mappings")
        result: Dict[str, Value] = {}
        while self.indent == indent:
            key, at = self.key()
            if key in result:
                self.refuse(indent, f"the key {key!r} is given twice")
            key_path = (*path, key)
            self.positions[key_path] = (self.number, indent + 1)
            result[key] = self.value(at, indent, key_path)
        return result

    def key(self) -> Tuple[str, int]:
        """Return the key of the line, and the index after its colon."""
        if _MARKER.match(self.line):
            self.refuse(0, "one document only: remove this line and what follows")
        key, end = self.scalar(self.indent, _PLAIN)
        colon = self.skip(end)
        if self.line[colon : colon + 2] not in (":", ": "):
            tab = re.search("[\t\xa0]", self.line)
            self.refuse(tab.start() if tab else self.indent, _TAB if tab else _KEY)
        if not isinstance(key, str):
            self.refuse(self.indent, f"the key {self.line[self.indent : end]} is read as {key!r}: put it in quotes")
        if colon - self.indent > _MAX_KEY:
            self.refuse(self.indent, f"a key of more than {_MAX_KEY} characters")
        return key, self.skip(colon + 1)

    def value(self, at: int, indent: int, path: KeyPath) -> Value:
        """Return the value of the key at `path`: from index `at`, otherwise from the lines below. Go past them."""
        if self.is_empty(at):
            self.advance()
            if _ITEM.match(self.line) and self.indent >= indent:
                return self.items(self.indent)
            return self.mapping(self.indent, path) if self.indent > indent else None
        value: Value
        value, end = self.brackets(at) if self.line[at] == "[" else self.scalar(at, _PLAIN)
        self.expect_end(end, "a ':' in the middle of a value: put the whole value in quotes")
        self.advance()
        return value

    def items(self, indent: int) -> List[Scalar]:
        """Return a list whose items are lines that begin with "- "."""
        result: List[Scalar] = []
        while self.indent == indent and _ITEM.match(self.line):
            at = self.skip(indent + 1)
            item, end = (None, at) if self.is_empty(at) else self.scalar(at, _PLAIN)
            self.expect_end(end, f"a mapping in a list: a list holds single values; {_QUOTE_IT}")
            result.append(item)
            self.advance()
        return result

    def brackets(self, start: int) -> Tuple[List[Scalar], int]:
        """Return a list on one line, and the index after it."""
        result: List[Scalar] = []
        at = self.skip(start + 1)
        while self.line[at : at + 1] not in ("]", ""):
            item, at = self.scalar(at, _PLAIN_IN_BRACKETS)
            result.append(item)
            at = self.skip(at)
            after = self.line[at : at + 1]
            if after == ",":
                at = self.skip(at + 1)
            elif after not in ("]", ""):
                self.refuse(at, f"expected ',' or ']', not {after!r}: put a text that holds it in quotes")
        if at == len(self.line):
            self.refuse(start, "the '[' is not closed on this line: write '- value' lines for a long list")
        return result, at + 1

    def scalar(self, at: int, plain: Pattern[str]) -> Tuple[Scalar, int]:
        """Return the scalar that begins at an index, and the index after it."""
        char = self.line[at]
        match = (_QUOTED if char in "'\"" else plain).match(self.line, at)
        if not match:
            self.refuse(at, _REFUSED.get(char, f"neither a key nor a value begins with {char}: {_QUOTE_IT}"))
        if char == "'":
            return match[0][1:-1].replace("''", "'"), match.end()
        if char == '"':
            return self.unescape(at + 1, match[0][1:-1]), match.end()
        text = match[0].rstrip(" ")
        try:
            return _resolve(text), at + len(text)
        except ValueError as error:
            self.refuse(at, str(error))

    def unescape(self, at: int, text: str) -> str:
        def character(match: Match[str]) -> str:
            if match[4] in _ESCAPED:
                return _ESCAPED[match[4]]
            code = int(match[1] or match[2] or match[3] or "-1", 16)
            if 0 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF:
                return chr(code)
            self.refuse(at + match.start(), f"{match[0]} names no character; a backslash itself is written \\\\")

        return _ESCAPE.sub(character, text)

    def expect_end(self, at: int, colon: str = _COMMENT) -> None:
        """Refuse anything but a comment after index `at`; `colon` is the message for a colon."""
        end = self.skip(at)
        after = self.line[end : end + 1]
        if after and not (after == "#" and self.line[end - 1] == " "):
            self.refuse(end, colon if after == ":" else _TAB if after == "\t" else _COMMENT)


def _resolve(text: str) -> Scalar:
    """Return the value of a plain scalar. Raises ValueError for one that is not read."""
    if text in _WORDS:
        return _WORDS[text]
    if text in ("<<", "=") or _DATE.fullmatch(text):
        raise ValueError(f"{text} is not plain text in YAML: put it in quotes")
    if not (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
        return text
    if len(text) > _MAX_NUMBER:
        raise ValueError(f"a number of more than {_MAX_NUMBER} characters: {_QUOTE_IT}")
    try:
        return _number(text)
    except ValueError:
        raise ValueError(f"{text} is a number without digits: put it in quotes") from None


def _number(text: str) -> Union[int, float]:
    """Return a number as PyYAML's constructor.py does: `construct_yaml_int`, `construct_yaml_float`."""
    convert = int if _INT.fullmatch(text) else float
    sign = -1 if text[0] == "-" else 1
    digits = text.replace("_", "").lower().lstrip("+-")
    if ":" in digits:
        total, unit = convert(0), 1
        for part in reversed(digits.split(":")):
            total += convert(part) * unit
            unit *= 60
        return sign * total
    if convert is float:
        return sign * float(digits.replace(".inf", "inf").replace(".nan", "nan"))
    return sign * int(digits, {"0b": 2, "0x": 16}.get(digits[:2], 8 if digits[0] == "0" else 10))
