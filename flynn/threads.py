"""How Flynn starts a thread."""

from __future__ import annotations

import threading
from typing import Callable

from .errors import FlynnError


def start(target: Callable[..., object], *arguments: object, name: str) -> None:
    """Call a function in a daemon thread.

    The size of its stack stays the default. A smaller one would save memory, but CPython 3.13 allows a recursion that
    needs 2 MiB, so deeply nested JSON from a server would crash the process.

    Raises:
        FlynnError: the system cannot start another thread.
    """
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    except RuntimeError as error:
        raise FlynnError(f"{error}: too little memory, or too many processes (see ulimit -v and ulimit -u)") from None
