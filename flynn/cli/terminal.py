"""What the command prints: results on standard output, everything else on standard error.

On a terminal, text is shown without control characters, so that a server cannot send escape codes to it. Flynn's own
escape codes are written here and nowhere else, and colours not where NO_COLOR is set (https://no-color.org).
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from typing import Any, Iterator, Optional, Sequence, TextIO

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
        self._has_colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._drawn = 0  # lines
        self._open_line = False  # of results
        self._open_aside = False
        self._progress = 0  # characters on the line
        if self.out_is_terminal or self.err_is_terminal:
            from .word_wrap import WordWrap

            self._words = WordWrap()

    @property
    def has_colours(self) -> bool:
        """Whether results may be coloured."""
        return self.out_is_terminal and self._has_colours

    def write(self, text: str) -> None:
        """Write a result, or a piece of one, at once."""
        self._begin_result()
        if text:
            self._open_line = not text.endswith("\n")  # before it is written: Ctrl-C may come right after that
        self._put(printable(text) if self.out_is_terminal else text)

    def write_prose(self, text: str) -> None:
        """Write a piece of an answer. On a terminal, lines end between words."""
        self._begin_result()
        self.write(self._wrapped(text, self._out) if self.out_is_terminal else text)

    def _begin_result(self) -> None:
        self.clear_progress()
        if self._open_aside:
            self._open_aside = False
            self._put_err("\n\n")
            self._words.start_line()

    def _wrapped(self, text: str, stream: Optional[TextIO]) -> str:
        assert stream is not None
        columns = os.get_terminal_size(stream.fileno()).columns
        return self._words.wrap(printable(text), columns) if columns > _NARROWEST else printable(text)

    def write_json(self, value: Any) -> None:
        """A result for a program, on a line of its own. In ASCII, so that no encoding can spoil it."""
        import json

        self.write(json.dumps(value) + "\n")

    def redraw(self, lines: Sequence[str]) -> None:
        """Results in place of those that the last call wrote; on a terminal that can do that.

        As much as fits: a line that went on in the next one, or scrolled away, could not be found again.
        """
        try:
            columns, rows = os.get_terminal_size(1)
        except OSError:
            columns = rows = 0
        columns, rows = columns or 80, rows or 24  # a terminal may not know
        # ECMA-48: to the beginning of the line so many above, erase to the end of the line, erase to the end of all.
        drawn = [f"\x1b[{self._drawn}F" if self._drawn else ""]
        drawn += [f"{printable(line)[: columns - 1]}\x1b[K\n" for line in lines[: rows - 1]]
        self._drawn = len(drawn) - 1
        self._open_line = True  # the ^C of who has seen enough is shown there
        self._put("".join([*drawn, "\x1b[J"]))

    def end_line(self) -> None:
        """End the line of results, if one is open."""
        self.clear_progress()
        if self._open_line:
            self.write("\n")

    def break_line(self) -> None:
        """On a terminal, begin a new line. In a file, a result that was cut short stays as it came."""
        self.clear_progress()
        if self._open_line and self.out_is_terminal:
            self.write("\n")
        if self._open_aside:
            self._open_aside = False
            self._put_err("\n")

    def say(self, text: str, *, dimmed: bool = False) -> None:
        """A line on standard error; one that may be overlooked is dimmed on a terminal."""
        self.break_line()
        shown = printable(text) if self.err_is_terminal else text
        self._put_err(f"{self._dimmed(text) if dimmed else shown}\n")

    def fail(self, message: str) -> None:
        """The one line that tells what went wrong. It may quote the server, so it is cleaned wherever it goes."""
        self.say(f"flynn: {printable(' '.join(message.split()))}")

    def aside(self, text: str) -> None:
        """A piece of what the model thinks: dimmed, and only on a terminal."""
        if self.err_is_terminal:
            self.clear_progress()
            self._open_aside = True
            self._put_err(self._dimmed(text))

    def note(self, text: str) -> None:
        """What happens on the way to the answer: one dimmed line, cut if it is long, and only on a terminal."""
        if self.err_is_terminal:
            line = " ".join(text.split())
            self.say(line if len(line) <= _LONGEST_NOTE else f"{line[:_LONGEST_NOTE]}…", dimmed=True)

    def progress(self, text: str) -> None:
        """A line that the next one replaces, or whatever else comes. Only on a terminal."""
        if self.err_is_terminal:
            line = text.ljust(self._progress)
            self._progress = len(line)
            self._put_err(f"\r{line}")

    def clear_progress(self) -> None:
        """Take the progress away."""
        if self._progress:
            blank = " " * (self._progress + len("^C"))
            self._progress = 0
            self._put_err(f"\r{blank}\r")

    def _dimmed(self, text: str) -> str:
        return f"\x1b[2m{printable(text)}\x1b[0m" if self._dims else printable(text)

    def flush(self) -> None:
        """Write out what others, such as argparse, have printed."""
        self._put("")

    def abandon(self) -> None:
        """Throw away what cannot be written, or Python would try once more at its end, and complain."""
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
            import errno

            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
        _put(self._out, text, "standard output")

    def _put_err(self, text: str) -> None:
        if self._err is not None:
            _put(self._err, text, "standard error")


def _put(stream: TextIO, text: str, name: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
