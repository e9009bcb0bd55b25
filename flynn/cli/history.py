"""The files in which the command keeps what was asked: the last conversation of `flynn ask`, and the lines typed.

They are a convenience: one that cannot be written never fails a command. `FLYNN_HISTORY=` keeps nothing.
"""

from __future__ import annotations

import json
import os
from typing import Optional, Sequence

from ..files import replace_file
from ..models.local.encode import encode_message
from ..models.messages import AnyMessage
from .exits import UsageError
from .terminal import Terminal

_OFF = ("", "0", "off")  # values of FLYNN_HISTORY


def history_file(name: str) -> Optional[str]:
    """Return the path of a history file; None if nothing is to be kept."""
    if os.environ.get("FLYNN_HISTORY", "on") in _OFF:
        return None
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # a relative one is to be ignored: XDG Base Directory Specification
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "flynn", name)


def make_folder(path: str) -> None:
    """Create the folder of a history file; only its owner may look into it. Raises OSError."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)


def last_conversation() -> str:
    """Return the path of the last conversation of `flynn ask`. Raises UsageError if there is none."""
    path = history_file("last.json")
    if path is None:
        raise UsageError("--continue: FLYNN_HISTORY is set to keep no conversation")
    if not os.path.exists(path):
        raise UsageError("--continue: there is no last conversation; ask without it first")
    return path


def keep_conversation(messages: Sequence[AnyMessage], terminal: Terminal, *, continued: bool) -> None:
    """Replace the last conversation. If it cannot be written, one line says why to a person, or who continued one."""
    path = history_file("last.json")
    if path is None:
        return
    try:
        make_folder(path)
        replace_file(path, json.dumps([encode_message(message) for message in messages]) + "\n")
    except OSError as error:
        if continued or terminal.err_is_terminal:
            problem = f"{path}: {error.strerror}"
            terminal.fail(f"{problem}; this conversation cannot be continued (FLYNN_HISTORY= keeps none)")
