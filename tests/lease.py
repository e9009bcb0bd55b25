"""Delay the loading of a model: hold a lease on its file."""

from __future__ import annotations

import contextlib
import fcntl
import signal
from pathlib import Path
from typing import Callable, Iterator


@contextlib.contextmanager
def leased(path: Path) -> Iterator[Callable[[], None]]:
    """Hold a lease on a file (fcntl(2), F_SETLEASE): opening it blocks until the yielded function is called.

    The kernel breaks the lease after /proc/sys/fs/lease-break-time, usually 45 seconds. No other process may have the
    file open.
    """
    with path.open("r+b") as lease:
        fcntl.fcntl(lease, fcntl.F_SETSIG, signal.SIGURG)  # by default SIGIO, which ends a process
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield lease.close
