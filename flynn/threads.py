"""How Flynn starts a thread."""

from __future__ import annotations

import threading
from typing import Callable

from .errors import FlynnError


def start(target: Callable[..., object], *arguments: object, name: str) -> None:
    """Call a function in a thread of its own, which does not keep the process from ending.

    The size of its stack is left as it is. A smaller one would fit more often into little memory, but CPython allows a
    recursion that needs 2 MiB of it (3.13), and a server's deeply nested JSON would then end the process.

    Raises:
        FlynnError: there is no room for another thread.
    """
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    except RuntimeError as error:
        raise FlynnError(f"{error}: too little memory, or too many processes (see ulimit -v and ulimit -u)") from None
