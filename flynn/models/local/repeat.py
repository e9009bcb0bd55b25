"""Events that differ from an earlier one by a single string, read without reading all of their JSON. No I/O.

For each token llama-server sends some 250 bytes, of which all but the text are those of the event before. Where the
bytes before a string and those after it are the same, a JSON reader comes to the same result but for that string: so
only the string is read. With it a stream costs less than `json.loads` of its events alone would.
"""

from __future__ import annotations

from json.decoder import scanstring  # type: ignore[attr-defined]

from .decode import decode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

_PROBE = b"\\u0000"
_PATIENCE = 8  # events that are not alike, after which a pattern that was of no use is given up for another


class Repeat:
    """The pattern of the events that come, learned from one of them.

    Example:
        >>> repeat = Repeat()
        >>> event = b'{"choices":[{"delta":{"content":"Hi"}}]}'
        >>> repeat.learn(event, "content")
        True
        >>> repeat.read(b'{"choices":[{"delta":{"content":"there"}}]}'), repeat.read(b'{"choices":[{"delta":{}}]}')
        ('there', None)
    """

    def __init__(self) -> None:
        self._before = self._after = b"\0"  # no JSON begins so
        self._start = self._end = 0
        self._uses = self._misses = 0

    def read(self, data: bytes) -> Optional[str]:
        """The string in which an event differs; None if it differs elsewhere, or is no JSON."""
        if data.startswith(self._before) and data.endswith(self._after):
            try:
                literal = data[self._start : self._end].decode()  # with the quote that ends it
                text, length = scanstring(literal, 0)
            except ValueError:
                return None
            if length == len(literal):
                self._uses += 1
                return text  # type: ignore[no-any-return]
        return None

    def learn(self, data: bytes, key: str) -> bool:
        """Take an event for the pattern of those to come, unless the present pattern is in use; whether that is done.

        Args:
            data: the event, which is JSON.
            key: the member of `choices[0].delta` that is going to differ.
        """
        self._misses += 1
        start = data.find(f'"{key}":"'.encode()) + len(key) + 4
        if (not self._uses and 1 < self._misses < _PATIENCE) or start < len(key) + 4 or _PROBE in data:
            return False
        self._uses = 0
        self._misses = 1
        rest = data[start:].decode()
        before, after = data[:start], rest[scanstring(rest, 0)[1] - 1 :].encode()
        # That this string is the one there shows by another in its place, which the event has nowhere.
        if decode_json(before + _PROBE + after)["choices"][0]["delta"].get(key) != "\0":
            return False
        self._before, self._after = before, after
        self._start, self._end = start, 1 - len(after)
        return True
