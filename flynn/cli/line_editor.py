"""Lines that a person types, with editing and a history where Python has readline."""

from __future__ import annotations

import os
import signal

try:
    import readline
except ImportError:  # a Python that was built without it
    readline = None  # type: ignore[assignment]

_HISTORY_LENGTH = 1000  # lines
_LOOK = 0.25  # seconds between two looks whether a signal has come


class LineEditor:
    """A context manager; within it, `read` gives what was typed. The history lasts from one time to the next."""

    def __enter__(self) -> LineEditor:
        if readline:
            readline.set_history_length(_HISTORY_LENGTH)
            if os.environ.get("TERM", "dumb") != "dumb":
                # Else each line of a text that is pasted would be a prompt of its own.
                readline.parse_and_bind("set enable-bracketed-paste on")
            try:
                readline.read_history_file(_history_file())
            except OSError:
                pass  # the first time, or written by another kind of readline
        return self

    def __exit__(self, *error: object) -> None:
        if readline:
            path = _history_file()
            try:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                os.chmod(path, 0o600)  # what people ask is nobody else's
                readline.write_history_file(path)
            except OSError:
                pass  # a chat without a history is still a chat

    def read(self) -> str:
        """The next line; one that ends in a backslash goes on in the next one. EOFError for Ctrl-D."""
        line = _input("> ")
        while line.endswith("\\"):
            line = f"{line[:-1]}\n{_input('. ')}"
        return line


def _input(prompt: str) -> str:
    """`input`, but one that a signal always ends whose handler raises.

    Between two keys, Python's readline waits in select(2), and does not notice a signal that came just before that
    until the next one (Modules/readline.c in CPython, readline_until_enter_or_signal). So a next one always comes.
    """
    try:
        before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    except ValueError:  # signals are for the main thread, and this is another
        return input(prompt)
    signal.setitimer(signal.ITIMER_REAL, _LOOK, _LOOK)
    try:
        return input(prompt)
    except SystemError as error:
        # `input` looks for signals once more after one's handler has raised; that SIGALRM's then does not is an error.
        raise error.__cause__ or error from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _history_file() -> str:
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # a relative one is to be ignored: XDG Base Directory Specification
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "flynn", "history")
