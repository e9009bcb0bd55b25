"""Lines that a person types, with editing, completion and a history if Python has readline."""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from typing import List, Optional, Sequence

from .history import history_file, make_folder

try:
    import readline
except ImportError:  # a Python built without it
    readline = None  # type: ignore[assignment]

_HISTORY_LENGTH = 1000  # lines


class LineEditor:
    """A context manager; within it, `read` returns what was typed. The history is kept from one chat to the next.

    Args:
        commands: Tab completes them, and after one of them the names of files.
        coloured: whether what is typed is shown in bold.
    """

    def __init__(self, commands: Sequence[str], *, coloured: bool) -> None:
        self._commands = sorted(commands)
        self._matches: List[str] = []
        # readline does not count what is between \x01 and \x02 as columns.
        self._bold = ("\x01\x1b[1m\x02" if readline else "\x1b[1m") if coloured else ""
        self._plain = "\x1b[0m" if coloured else ""

    def __enter__(self) -> LineEditor:
        if readline:
            readline.set_history_length(_HISTORY_LENGTH)
            readline.set_completer(self._complete)
            readline.set_completer_delims("")
            is_libedit = "libedit" in (readline.__doc__ or "")
            readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
            if os.environ.get("TERM", "dumb") != "dumb":
                # Otherwise each line of a pasted text would be a prompt.
                readline.parse_and_bind("set enable-bracketed-paste on")
            if path := history_file("history"):
                with suppress(OSError):  # the first time, or written by another kind of readline
                    readline.read_history_file(path)
        return self

    def __exit__(self, *error: object) -> None:
        path = history_file("history")
        if readline and path:
            with suppress(OSError):  # the history is a convenience
                make_folder(path)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                os.chmod(path, 0o600)
                readline.write_history_file(path)

    def read(self) -> str:
        """Return the next line, with the lines after it while each ends in a backslash. EOFError for Ctrl-D."""
        line = self._input("> ")
        while line.endswith("\\"):
            line = f"{line[:-1]}\n{self._input('. ')}"
        return line

    def typed(self) -> str:
        """Return what was typed before Ctrl-C ended the last `read`."""
        return readline.get_line_buffer() if readline else ""

    def _input(self, prompt: str) -> str:
        try:
            return input(f"{self._bold}{prompt}")
        finally:
            if self._plain:
                print(self._plain, end="", flush=True)

    def _complete(self, line: str, number: int) -> Optional[str]:
        """Return a completion of the line, by number; None after the last one."""
        if number == 0:
            self._matches = [name for name in self._commands if line and name.startswith(line)]
            command, space, path = line.partition(" ")
            if space and command in self._commands:
                paths = sorted(glob.glob(glob.escape(os.path.expanduser(path)) + "*"))
                self._matches = [f"{command} {name}{os.sep if os.path.isdir(name) else ''}" for name in paths]
        return self._matches[number] if number < len(self._matches) else None
