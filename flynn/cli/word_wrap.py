"""Breaking lines between words while a text is still being written. No I/O."""

from __future__ import annotations

_TAB = 8  # columns
_FENCES = ("```", "~~~")
_LONGEST_INDENT = 16  # characters in front of a fence


class WordWrap:
    """Breaks the lines of a text that comes piece by piece.

    No word is held back until it is complete: one that turns out too long for its line is erased and begun again on the
    next line. Code blocks and words longer than a line are left to the terminal, so that they can be copied whole.
    """

    def __init__(self) -> None:
        self._in_code = False
        self.start_line()

    def start_line(self) -> None:
        """The cursor is at the start of a line."""
        self._column = 0
        self._head = ""  # the first characters of the line of the text
        self._word, self._width = "", 0  # the word at the cursor and its columns

    def wrap(self, text: str, columns: int) -> str:
        """Return the next piece of the text with line breaks, for a terminal of that width."""
        # The last column stays empty: terminals differ in where the cursor is once it is filled.
        return "".join([self._place(char, columns - 1) for char in text])

    def _place(self, char: str, limit: int) -> str:
        if char == "\n":
            if self._head.lstrip().startswith(_FENCES):
                self._in_code = not self._in_code
            self.start_line()
            return char
        if len(self._head) < _LONGEST_INDENT + len(_FENCES[0]):
            self._head += char
        if self._in_code:
            return char
        if char in " \t":
            return self._place_space(char, limit)
        width = _width(char)
        broken = self._break(limit) if self._column + width > limit else ""
        if width == 2:  # Chinese and Japanese have no spaces: a line may end after any character
            self._word, self._width = "", 0
        else:
            self._word += char
            self._width += width
        self._column += width
        return broken + char

    def _place_space(self, char: str, limit: int) -> str:
        if self._column > limit:  # after a word that the terminal has broken
            self._column %= limit + 1
        self._word, self._width = "", 0
        column = self._column + 1 if char == " " else (self._column // _TAB + 1) * _TAB
        self._column = min(column, limit)
        return char if column <= limit else ""

    def _break(self, limit: int) -> str:
        """Return what moves the word at the cursor to the next line; nothing if it has the line for itself."""
        if self._width == self._column:
            return ""
        width, self._column = self._width, self._width
        return "\b" * width + " " * width + "\n" + self._word


def _width(char: str) -> int:
    """Return the columns of a character: 0 for what is drawn over the one before, 2 for wide ones."""
    if char < "\u0300":
        return 1
    import unicodedata  # not before it is needed

    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
