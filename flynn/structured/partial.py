"""JSON that is still growing: the value of the text so far.

The grammar is RFC 8259's, the values are those of `json.loads`. A number, a literal (`true`) and a key appear once they
are complete, a string grows with its text. Each piece of text is read once, so the time is linear.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple, Union

from .mismatch import Key

# A step of the parser. Takes the text and a position in it, and returns the position after what it has read.
State = Callable[["PartialJSON", str, int], int]

# Limit of nesting: json.loads fails at about this depth on Python 3.9 to 3.11.
MAX_DEPTH = 1000

_SPACE = re.compile(r"[ \t\n\r]*")
# Complete characters of a string. A surrogate pair is two escapes, so the first of them waits for the second.
_HIGH = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_NOT_HIGH = r"\\u(?![dD][89abAB])[0-9a-fA-F]{4}"
_CHARACTERS = re.compile(
    rf'(?:[^"\\\x00-\x1f]+|\\["\\/bfnrt]|{_NOT_HIGH}|{_HIGH}{_NOT_HIGH}|{_HIGH}(?=[^\\]|\\[^u]|{_HIGH}))*'
)
_ESCAPE_PREFIX = re.compile(r"\\(?:u[0-9a-fA-F]{0,4}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?")
_NUMBER_PART = re.compile(r"[-+.0-9eE]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LITERALS: Dict[str, Any] = {"true": True, "false": False, "null": None}


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
        # The open containers, and for each the key of the item that is read (None before a key). The outermost one
        # stands for the text: the value is its only item.
        self._open: List[Any] = [[]]
        self._keys: List[Optional[Key]] = [0]
        self._state: State = PartialJSON._value
        self._token = ""  # the part of a number or a literal
        self._held = ""  # the prefix of an escape
        self._key: List[str] = []  # the pieces of a key
        self._changed = False

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
        text, self._held = self._held + text, ""
        self._changed = False
        position = 0
        while position < len(text):
            position = self._state(self, text, position)
        return self._changed

    def end(self) -> None:
        """Mark the end of the text. Only then a number at the top level is known to be complete.

        Raises:
            ValueError: the text is not complete.
        """
        if self._state is PartialJSON._number and len(self._open) == 1:
            self._end_number()
        if self._state is not PartialJSON._separator or len(self._open) > 1:
            raise ValueError("it ends too early")

    def _value(self, text: str, position: int) -> int:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text):
            return position
        character = text[position]
        if character == "{":
            self._enter({}, PartialJSON._first_key, None)
        elif character == "[":
            self._enter([], PartialJSON._first_item, 0)
        elif character == '"':
            self._put("")
            self._state = PartialJSON._string
        elif character in "-0123456789":
            self._state = PartialJSON._number
            return position
        elif character in "tfn":
            self._state = PartialJSON._literal
            return position
        else:
            _refuse("a value", text, position)
        return position + 1

    def _first_item(self, text: str, position: int) -> int:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == "]":
            return self._leave(position)
        if position < len(text):
            self._state = PartialJSON._value
        return position

    def _first_key(self, text: str, position: int) -> int:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == "}":
            return self._leave(position)
        if position < len(text):
            self._state = PartialJSON._before_key
        return position

    def _before_key(self, text: str, position: int) -> int:
        return self._expect('"', "a key", PartialJSON._in_key, text, position)

    def _in_key(self, text: str, position: int) -> int:
        piece, position = self._characters(text, position)
        self._key.append(piece)
        if text[position : position + 1] == '"':
            self._keys[-1] = "".join(self._key)
            self._key = []
            self._state = PartialJSON._colon
            position += 1
        return position

    def _colon(self, text: str, position: int) -> int:
        return self._expect(":", "a colon", PartialJSON._value, text, position)

    def _string(self, text: str, position: int) -> int:
        piece, position = self._characters(text, position)
        if piece:
            inside, key = self._open[-1], self._keys[-1]
            string = inside[key]
            inside[key] = None  # CPython appends in place to a string that nothing else refers to
            string += piece
            inside[key] = string
            self._changed = True
        if text[position : position + 1] == '"':
            self._state = PartialJSON._separator
            position += 1
        return position

    def _number(self, text: str, position: int) -> int:
        end = _NUMBER_PART.match(text, position).end()  # type: ignore[union-attr]
        self._token += text[position:end]
        if end < len(text):
            self._end_number()
        return end

    def _end_number(self) -> None:
        if not _NUMBER.fullmatch(self._token):
            raise ValueError(f"expected a number, got {self._token:.40}")
        self._put(json.loads(self._token))
        self._token = ""
        self._state = PartialJSON._separator

    def _literal(self, text: str, position: int) -> int:
        self._token += text[position]
        if self._token in _LITERALS:
            self._put(_LITERALS[self._token])
            self._token = ""
            self._state = PartialJSON._separator
        elif not any(literal.startswith(self._token) for literal in _LITERALS):
            raise ValueError(f"expected a value, got {self._token}")
        return position + 1

    def _separator(self, text: str, position: int) -> int:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text):
            return position
        inside = self._open[-1]
        if len(self._open) == 1:
            _refuse("nothing more", text, position)
        if text[position] == ("]" if isinstance(inside, list) else "}"):
            return self._leave(position)
        if isinstance(inside, list):
            self._keys[-1] = len(inside)
            return self._expect(",", "a comma or ]", PartialJSON._value, text, position)
        return self._expect(",", "a comma or }", PartialJSON._before_key, text, position)

    def _expect(self, character: str, name: str, state: State, text: str, position: int) -> int:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text):
            return position
        if text[position] != character:
            _refuse(name, text, position)
        self._state = state
        return position + 1

    def _characters(self, text: str, position: int) -> Tuple[str, int]:
        """Return complete characters of a string, and the position after them. The prefix of an escape is kept."""
        end = _CHARACTERS.match(text, position).end()  # type: ignore[union-attr]
        piece = text[position:end]
        if "\\" in piece:
            piece = json.loads(f'"{piece}"')
        if end < len(text) and text[end] != '"':
            if not _ESCAPE_PREFIX.fullmatch(text, end):
                _refuse("a character of a string", text, end)
            self._held = text[end:]
            end = len(text)
        return piece, end

    def _put(self, value: Any) -> None:
        inside, key = self._open[-1], self._keys[-1]
        if isinstance(inside, list):
            inside.append(value)
        else:
            inside[key] = value
        self._changed = True

    def _enter(self, container: Union[List[Any], Dict[str, Any]], state: State, key: Optional[Key]) -> None:
        if len(self._open) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        self._put(container)
        self._open.append(container)
        self._keys.append(key)
        self._state = state

    def _leave(self, position: int) -> int:
        self._open.pop()
        self._keys.pop()
        self._state = PartialJSON._separator
        return position + 1


def _refuse(expected: str, text: str, position: int) -> NoReturn:
    raise ValueError(f"expected {expected}, got {json.dumps(text[position : position + 20], ensure_ascii=False)}")
