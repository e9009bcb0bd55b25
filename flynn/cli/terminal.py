"""What the command prints: results on standard output, everything else on standard error.

On a terminal, text is shown without control characters, so that a server cannot send escape codes to it. Flynn's own
escape codes are written here and nowhere else, and colours not where NO_COLOR is set (https://no-color.org).
"""

from __future__ import annotations

import errno
import io
import os
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Sequence, TextIO

from .word_wrap import WordWrap

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

# C0 without tab and newline, DEL, C1 (ECMA-48).
_CONTROLS = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])
_LONGEST_NOTE = 300  # characters
_NARROWEST = 20  # columns of a terminal in which lines are still broken between words


def printable(text: str) -> str:
    """Return a text without control characters other than tab and newline.

    Example:
        >>> printable("a\\x1b[31mb\\n")
        'a[31mb\\n'
    """
    return text.translate(_CONTROLS)


class Terminal:
    """Standard output and standard error.

    Args:
        out, err: their text streams; None for one that is closed.

    Attributes:
        out_is_terminal, err_is_terminal: whether a person looks at them.
        redraws: whether what was written on standard output can be replaced.
        has_colours: whether standard output may be coloured.

    Raises, from every method that writes:
        OSError: `filename` says which of the two cannot be written.
    """

    def __init__(self, out: Optional[TextIO], err: Optional[TextIO]) -> None:
        self._out, self._err = out, err
        for stream in (out, err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for what it cannot show
        self.out_is_terminal = out is not None and out.isatty()
        self.err_is_terminal = err is not None and err.isatty()
        self.redraws = self.out_is_terminal and os.environ.get("TERM", "dumb") != "dumb"
        self.has_colours = self.redraws and not os.environ.get("NO_COLOR")
        self._dims = self.err_is_terminal and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        self._words = WordWrap()
        self._drawn = 0  # lines
        self._open_line = False  # of results
        self._open_aside = False
        self._progress = 0  # characters on the line

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While an answer is written on a terminal, what is typed is not shown in the middle of it.

        It is kept for whoever reads from the terminal next.
        """
        self._words = WordWrap()
        stream = self._out if self.out_is_terminal else self._err if self.err_is_terminal else None
        terminal = -1 if stream is None else stream.fileno()
        before = _modes(terminal)
        if before:
            _set_modes(terminal, [*before[:3], before[3] & ~termios.ECHO, *before[4:]])
        try:
            yield
        finally:
            if before:
                _set_modes(terminal, before)

    def write(self, text: str) -> None:
        """Write a result, or a piece of one, at once."""
        self._begin_result()
        if text:
            self._open_line = not text.endswith("\n")  # before it is written: Ctrl-C may come right after that
        self._put(printable(text) if self.out_is_terminal else text)

    def write_prose(self, text: str) -> None:
        """Write a piece of an answer. On a terminal, lines end between words."""
        self._begin_result()
        if not self._open_line:
            self._words.start_line()
        if text and self.redraws:
            self._open_line = not text.endswith("\n")
            self._put(self._wrapped(text, self._out))
        else:
            self.write(text)

    def _begin_result(self) -> None:
        self.clear_progress()
        if self._open_aside:
            self._open_aside = False
            self._put_err("\n\n")

    def _wrapped(self, text: str, stream: Optional[TextIO]) -> str:
        """Return a text without control characters, with line breaks between words, to be written as it is."""
        assert stream is not None
        columns = os.get_terminal_size(stream.fileno()).columns
        return self._words.wrap(printable(text), columns) if columns >= _NARROWEST else printable(text)

    def write_json(self, value: Any) -> None:
        """Write a result for a program, on a line of its own, in ASCII so that no encoding can spoil it."""
        import json

        self.write(json.dumps(value) + "\n")

    def redraw(self, lines: Sequence[str]) -> None:
        """Replace the lines that the last call wrote. Only on a terminal that `redraws`.

        Writes as much as fits: a line that wraps or scrolls away could not be replaced.
        """
        try:
            columns, rows = os.get_terminal_size(1)
        except OSError:
            columns = rows = 0
        columns, rows = columns or 80, rows or 24  # a terminal may not know
        # ECMA-48: go to the beginning of the nth line above, erase to the end of the line, erase to the end of all.
        drawn = [f"\x1b[{self._drawn}F" if self._drawn else ""]
        drawn += [f"{printable(line)[: columns - 1]}\x1b[K\n" for line in lines[: rows - 1]]
        self._drawn = len(drawn) - 1
        self._open_line = True  # Ctrl-C is shown there, as ^C
        self._put("".join([*drawn, "\x1b[J"]))

    def end_line(self) -> None:
        """End the line of results, if it has text."""
        self.clear_progress()
        if self._open_line:
            self.write("\n")

    def break_line(self) -> None:
        """On a terminal, begin a new line if the cursor is not at the start of one. Files get nothing."""
        self.clear_progress()
        if self._open_line and self.out_is_terminal:
            self.write("\n")
        if self._open_aside:
            self._open_aside = False
            self._put_err("\n")

    def say(self, text: str, *, dimmed: bool = False) -> None:
        """Write a line to standard error. An unimportant one is dimmed on a terminal."""
        self.break_line()
        shown = printable(text) if self.err_is_terminal else text
        self._put_err(f"{self._dimmed(shown) if dimmed else shown}\n")

    def fail(self, message: str) -> None:
        """Write the one line that says what went wrong, without control characters: it may quote the server."""
        self.say(f"flynn: {printable(' '.join(message.split()))}")

    def aside(self, text: str) -> None:
        """Write a piece of the model's reasoning: dimmed, and only on a terminal."""
        if self.err_is_terminal:
            self.clear_progress()
            if not self._open_aside:
                self._words.start_line()
            self._open_aside = True
            self._put_err(self._dimmed(self._wrapped(text, self._err)) if self._dims else printable(text))

    def note(self, text: str) -> None:
        """Write what happens before the answer: one dimmed line, cut if it is long, and only on a terminal."""
        if self.err_is_terminal:
            line = " ".join(text.split())
            self.say(line if len(line) <= _LONGEST_NOTE else f"{line[:_LONGEST_NOTE]}…", dimmed=True)

    def progress(self, text: str) -> None:
        """Write a line that the next output replaces. Only on a terminal."""
        if self.err_is_terminal:
            line = text.ljust(self._progress)
            self._progress = len(line)
            self._put_err(f"\r{line}")

    def clear_progress(self) -> None:
        """Erase the line of progress."""
        if self._progress:
            blank = " " * (self._progress + len("^C"))
            self._progress = 0
            self._put_err(f"\r{blank}\r")

    def _dimmed(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._dims else text

    def flush(self) -> None:
        """Flush what others, such as argparse, have printed."""
        self._put("")

    def abandon(self) -> None:
        """Discard buffered output that cannot be written: Python would try again at exit, and complain."""
        for stream in (self._out, self._err):
            if stream is None:
                continue
            try:
                stream.flush()
            except OSError:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)

    def _put(self, text: str) -> None:
        if self._out is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
        _put(self._out, text, "standard output")

    def _put_err(self, text: str) -> None:
        if self._err is not None:
            _put(self._err, text, "standard error")


def _modes(terminal: int) -> List[Any]:
    """Return the modes of a terminal; empty if they cannot be set: a background job would be stopped."""
    try:
        return termios.tcgetattr(terminal) if termios and os.tcgetpgrp(terminal) == os.getpgrp() else []
    except (OSError, termios.error):
        return []


def _set_modes(terminal: int, modes: List[Any]) -> None:
    try:
        if os.tcgetpgrp(terminal) == os.getpgrp():
            termios.tcsetattr(terminal, termios.TCSANOW, modes)
    except (OSError, termios.error):
        pass  # it was closed


def _put(stream: TextIO, text: str, name: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
