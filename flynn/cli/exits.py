"""The exit codes of the command, and which error ends in which.

Those from 64 on are sysexits(3)'s, 130 and 141 a shell's for SIGINT and SIGPIPE.
"""

from __future__ import annotations

from ..errors import AuthenticationError, ConfigError, ModelLoadingError, RequestTimeoutError, ServerNotRunningError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .screen import Screen

DONE = 0
FAILED = 1
USAGE = 2
NOT_RUNNING = 69
TRY_AGAIN = 75
NOT_AUTHORISED = 77
INTERRUPTED = 130
CLOSED_PIPE = 141

MEANINGS = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "wrong usage or configuration",
    NOT_RUNNING: "server not running",
    TRY_AGAIN: "timed out or still loading",
    NOT_AUTHORISED: "not authorised",
    INTERRUPTED: "interrupted",
    CLOSED_PIPE: "output closed",
}
_CODES = {
    BrokenPipeError: CLOSED_PIPE,
    KeyboardInterrupt: INTERRUPTED,
    ServerNotRunningError: NOT_RUNNING,
    RequestTimeoutError: TRY_AGAIN,
    ModelLoadingError: TRY_AGAIN,
    AuthenticationError: NOT_AUTHORISED,
    ConfigError: USAGE,
}
_HINTS = {NOT_RUNNING: "; flynn status tells what to do"}


def code(error: BaseException) -> int:
    """The exit code that an error ends in."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAILED)


def report(error: BaseException, screen: Screen) -> int:
    """Say in one line what went wrong, where that is not plain already, and return the exit code.

    Raises:
        BaseException: the error itself, if it is neither Flynn's nor the system's but a bug.
    """
    from ..errors import FlynnError

    ended = code(error)
    try:
        if ended == CLOSED_PIPE:
            screen.abandon()
        elif ended == INTERRUPTED:
            screen.break_line()
        elif isinstance(error, FlynnError):
            screen.fail(f"{error}{_HINTS.get(ended, '')}")
        elif isinstance(error, MemoryError):
            screen.fail("out of memory")
        elif isinstance(error, OSError):
            screen.abandon()
            screen.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        else:
            raise error
    except OSError:
        screen.abandon()
    return ended
