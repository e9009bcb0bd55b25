"""What the command prints: results on standard output, everything else on standard error.

On a terminal, text is shown without control characters, so that a server cannot send escape codes to it. Flynn's own
escape codes are written here and nowhere else, and colours not where NO_COLOR is set (https://no-color.org).
"""

from __future__ import annotations

import errno
import io
import json
import os
from contextlib import contextmanager
from typing import Any, Iterator, Optional, Sequence, TextIO

from ..files import named
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
        obeys_codes, colours = os.environ.get("TERM", "dumb") != "dumb", not os.environ.get("NO_COLOR")
        self.redraws = self.out_is_terminal and obeys_codes  # what was written can be replaced
        self.has_colours = self.redraws and colours
        self._dims = self.err_is_terminal and obeys_codes and colours
        self._words = WordWrap()
        self._drawn = 0  # lines
        self._open_line = False  # of results
        self._open_aside = False
        self._progress = 0  # characters on the line

    # --- standard output ----------------------------------------------------------------------------------------------

    def write(self, text: str, *, prose: bool = False) -> None:
        """Write a result, or a piece of one, at once. On a terminal, lines of prose end between words."""
        self.clear_progress()
        self._end_aside("\n\n")
        if not self._open_line:
            self._words.start_line()
        if text:
            self._open_line = not text.endswith("\n")  # before it is written: Ctrl-C may come right after that
        self._put(self._shown(text, self._out, prose=prose and self.redraws) if self.out_is_terminal else text)

    def write_json(self, value: Any) -> None:
        """Write a result for a program, on a line of its own, in ASCII so that no encoding can spoil it."""
        self.write(json.dumps(value) + "\n")

    def end_line(self) -> None:
        """End the line of results, if it has text."""
        self.clear_progress()
        if self._open_line:
            self.write("\n")

    def redraw(self, lines: Sequence[str]) -> None:
        """Replace the lines that the last call wrote. Only on a terminal that `redraws`.

        Writes as much as fits: a line that wraps or scrolls away could not be replaced.
        """
        columns, rows = os.get_terminal_size(1)  # not $COLUMNS and $LINES, which may be those of before a resize
        columns, rows = columns or 80, rows or 24  # a terminal may not know
        # ECMA-48: go to the beginning of the nth line above, erase to the end of the line, erase to the end of all.
        drawn = [f"\x1b[{self._drawn}F" if self._drawn else ""]
        drawn += [f"{printable(line)[: columns - 1]}\x1b[K\n" for line in lines[: rows - 1]]
        self._drawn = len(drawn) - 1
        self._open_line = True  # Ctrl-C is shown there, as ^C
        self._put("".join([*drawn, "\x1b[J"]))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While an answer is written on a terminal, hide what is typed; it is kept for whoever reads it next."""
        self._words = WordWrap()
        stream = self._out if self.out_is_terminal else self._err if self.err_is_terminal else None
        terminal = -1 if stream is None else stream.fileno()
        is_hidden = _set_echo(terminal, False)
        try:
            yield
        finally:
            if is_hidden:
                _set_echo(terminal, True)

    # --- standard error -----------------------------------------------------------------------------------------------

    def say(self, text: str, *, dimmed: bool = False) -> None:
        """Write a line. An unimportant one is dimmed on a terminal."""
        self.break_line()
        shown = printable(text) if self.err_is_terminal else text
        self._put_err(f"{self._dimmed(shown) if dimmed else shown}\n")

    def fail(self, message: str) -> None:
        """Write the one line that says what went wrong, without control characters: it may quote the server."""
        self.say(f"flynn: {printable(' '.join(message.split()))}")

    def note(self, text: str) -> None:
        """Write what happens before the answer: one dimmed line, cut if it is long, and only on a terminal."""
        if self.err_is_terminal:
            line = " ".join(text.split())
            self.say(line if len(line) <= _LONGEST_NOTE else f"{line[:_LONGEST_NOTE]}…", dimmed=True)

    def aside(self, text: str) -> None:
        """Write a piece of the model's reasoning: dimmed, and only on a terminal."""
        if self.err_is_terminal:
            self.clear_progress()
            if not self._open_aside:
                self._words.start_line()
            self._open_aside = True
            self._put_err(self._dimmed(self._shown(text, self._err, prose=self._dims)))

    def progress(self, text: str) -> None:
        """Write a line that the next output replaces. Only on a terminal."""
        if self.err_is_terminal:
            line = text.ljust(self._progress)
            self._progress = len(line)
            self._put_err(f"\r{line}")

    def clear_progress(self) -> None:
        if self._progress:
            blank = " " * (self._progress + len("^C"))
            self._progress = 0
            self._put_err(f"\r{blank}\r")

    def break_line(self) -> None:
        """On a terminal, begin a new line if the cursor is not at the start of one. Files get nothing."""
        if self.out_is_terminal:
            self.end_line()
        self.clear_progress()
        self._end_aside("\n")

    def _end_aside(self, end: str) -> None:
        if self._open_aside:
            self._open_aside = False
            self._put_err(end)

    # --- both ---------------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Discard buffered output that cannot be written: Python would try again at exit, and complain."""
        for stream in filter(None, (self._out, self._err)):
            try:
                stream.flush()
            except OSError:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)

    def _shown(self, text: str, stream: Optional[TextIO], *, prose: bool) -> str:
        """Return a text as a terminal gets it: without control characters, prose with line breaks between words."""
        columns = os.get_terminal_size(stream.fileno()).columns if stream and prose else 0
        return self._words.wrap(printable(text), columns) if columns >= _NARROWEST else printable(text)

    def _dimmed(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._dims else text

    def _put(self, text: str) -> None:
        with named("standard output"):
            if self._out is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._out.write(text)
            self._out.flush()

    def _put_err(self, text: str) -> None:
        if self._err is not None:
            with named("standard error"):
                self._err.write(text)
                self._err.flush()


def _set_echo(terminal: int, on: bool) -> bool:
    """Show or hide what is typed. Returns whether that changed anything: a job in the background may not."""
    try:
        if not termios or os.tcgetpgrp(terminal) != os.getpgrp():
            return False
        modes = termios.tcgetattr(terminal)
        changed = bool(modes[3] & termios.ECHO) != on
        modes[3] ^= termios.ECHO if changed else 0
        termios.tcsetattr(terminal, termios.TCSANOW, modes)
        return changed
    except (OSError, termios.error):  # it was closed
        return False
