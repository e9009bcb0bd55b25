"""JSON that is still growing: the value of the text so far, in linear time.

The grammar is RFC 8259's, the values are those of `json.loads`. A number, a literal (`true`) and a key appear once they
are complete, a string grows with its text.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Generator, List, NoReturn, Optional, Tuple, TypeVar

from .mismatch import Key

T = TypeVar("T")
# A part of the parser. It yields when it needs the next piece of the text.
Parser = Generator[None, None, T]

# Limit of nesting: json.loads fails at about this depth on Python 3.9 to 3.11.
MAX_DEPTH = 1000

_SPACE = re.compile(r"[ \t\n\r]*")
_CHARACTERS = re.compile(r'(?:[^"\\\x00-\x1f]+|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*')
# An escape, or a surrogate pair of two, that is not complete.
_ESCAPE_PREFIX = re.compile(r"\\(?:u[0-9a-fA-F]{0,4}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?")
_SCALAR = re.compile(r"[-+.0-9a-zA-Z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LITERALS = ("true", "false", "null")


class PartialJSON:
    """A growing JSON value.

    Example:
        >>> partial = PartialJSON()
        >>> partial.feed('{"name": "Ad')
        True
        >>> partial.value, partial.keys
        ({'name': 'Ad'}, ['name'])
    """

    def __init__(self) -> None:
        self._text = ""  # what is not read of the last piece begins at _position
        self._position = 0
        self._changed = False  # by the last piece
        self._complete = False
        self._ended = False
        # The open containers, and the key of the item that is being read in each (None before a key). The outermost one
        # stands for the whole text: its only item is the value.
        self._open: List[Any] = [[]]
        self._keys: List[Optional[Key]] = [0]
        self._parser = self._parse()

    @property
    def value(self) -> Any:
        """The value so far; None before it begins. Its lists and dicts stay the same objects and grow."""
        return next(iter(self._open[0]), None)

    @property
    def keys(self) -> List[Key]:
        """The keys and indices that lead to the end of the text."""
        return [key for key in self._keys[1:] if key is not None]

    def feed(self, text: str) -> bool:
        """Read the next piece of the text. Returns whether `value` has changed.

        Raises:
            ValueError: the text is not the beginning of JSON. Nothing more can be fed.
        """
        self._text, self._position = self._text[self._position :] + text, 0
        self._changed = False
        next(self._parser)
        return self._changed

    def end(self) -> None:
        """Mark the end of the text. Only now is a number at the top level known to be complete.

        Raises:
            ValueError: the text is not complete.
        """
        self._ended = True
        next(self._parser)
        if not self._complete:
            raise ValueError("it ends too early")

    def _parse(self) -> Parser[None]:
        yield from self._value()
        while len(self._open) > 1:
            container = self._open[-1]
            closing = "]" if isinstance(container, list) else "}"
            if (yield from self._peek()) == closing:
                self._position += 1
                self._open.pop()
                self._keys.pop()
                continue
            if container:
                yield from self._expect(",", f"a comma or {closing}")
            if isinstance(container, list):
                self._keys[-1] = len(container)
            else:
                yield from self._expect('"', "a key")
                pieces: List[str] = []
                yield from self._string(pieces.append)
                self._keys[-1] = "".join(pieces)
                yield from self._expect(":", "a colon")
            yield from self._value()
        self._complete = True
        while True:
            self._skip_space()
            if self._position < len(self._text):
                self._refuse("nothing more")
            yield

    def _value(self) -> Parser[None]:
        """Read a scalar, or open a container."""
        character = yield from self._peek()
        if character in "[{":
            if len(self._open) > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
            container: Any = [] if character == "[" else {}
            self._put(container)
            self._open.append(container)
            self._keys.append(0 if character == "[" else None)
            self._position += 1
        elif character == '"':
            self._put("")
            self._position += 1
            yield from self._string(self._grow)
        elif character in "-0123456789tfn":
            self._put((yield from self._scalar()))
        else:
            self._refuse("a value")

    def _string(self, add: Callable[[str], object]) -> Parser[None]:
        """Read the rest of a string, and pass its pieces to `add`."""
        while True:
            piece, self._position = self._characters(self._text, self._position)
            if piece:
                add(piece)
            if self._text[self._position : self._position + 1] == '"':
                self._position += 1
                return
            if self._position < len(self._text) and not _ESCAPE_PREFIX.fullmatch(self._text, self._position):
                self._refuse("a character of a string")
            yield

    def _characters(self, text: str, position: int) -> Tuple[str, int]:
        """Return the complete characters of a string from a position on, and the position after them."""
        end = _CHARACTERS.match(text, position).end()  # type: ignore[union-attr]
        piece = text[position:end]
        if "\\" in piece:
            piece = json.loads(f'"{piece}"')
            escaped = piece[-1] != text[end - 1]
            if escaped and "\ud800" <= piece[-1] <= "\udbff" and text[end : end + 1] != '"':
                return piece[:-1], end - len(r"\ud800")  # the first half of a surrogate pair waits for the second
        return piece, end

    def _scalar(self) -> Parser[Any]:
        """Return a number or a literal. Only the character after a number shows that it is complete."""
        token, kind = "", "a number" if self._text[self._position] in "-0123456789" else "a value"
        while token not in _LITERALS:
            end = _SCALAR.match(self._text, self._position).end()  # type: ignore[union-attr]
            token += self._text[self._position : end]
            self._position = end
            if end < len(self._text) or (self._ended and kind == "a number"):
                break
            yield
        if token not in _LITERALS and not _NUMBER.fullmatch(token):
            raise ValueError(f"expected {kind}, got {token:.40}")
        return json.loads(token)

    def _peek(self) -> Parser[str]:
        """Return the next character that is not whitespace, without consuming it."""
        self._skip_space()
        while self._position == len(self._text):
            yield
            self._skip_space()
        return self._text[self._position]

    def _expect(self, character: str, name: str) -> Parser[None]:
        if (yield from self._peek()) != character:
            self._refuse(name)
        self._position += 1

    def _skip_space(self) -> None:
        self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]

    def _put(self, value: Any) -> None:
        container, key = self._open[-1], self._keys[-1]
        if isinstance(container, list):
            container.append(value)
        else:
            container[key] = value
        self._changed = True

    def _grow(self, piece: str) -> None:
        """Append to the string that is being read."""
        container, key = self._open[-1], self._keys[-1]
        string = container[key]
        container[key] = None  # CPython appends in place to a string that nothing else refers to
        string += piece
        container[key] = string
        self._changed = True

    def _refuse(self, expected: str) -> NoReturn:
        shown = json.dumps(self._text[self._position : self._position + 20], ensure_ascii=False)
        raise ValueError(f"expected {expected}, got {shown}")
