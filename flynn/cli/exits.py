"""The exit codes of the command, the error for wrong usage, and how any error is explained."""

from __future__ import annotations

from ..errors import (
    AuthenticationError,
    ConfigError,
    FileError,
    FlynnError,
    ModelLoadingError,
    RequestError,
    RequestTimeoutError,
    ServerNotRunningError,
)


class UsageError(FlynnError):
    """The command was called wrongly: the message says which argument, and what is wrong with it."""


# Those from 64 on are sysexits(3)'s, 130 and 141 a shell's for SIGINT and SIGPIPE.
DONE, FAILED, USAGE, NOT_RUNNING, TRY_AGAIN, NOT_AUTHORISED, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 69, 75, 77, 130, 141
EXIT_CODES = {
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
    UsageError: USAGE,
    ConfigError: USAGE,
    RequestError: USAGE,
    FileError: USAGE,
}


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAILED)


def explain(error: FlynnError) -> str:
    """Return the message of an error with what to do about it, in one line."""
    hints = [error.hint, "run flynn status for advice" if isinstance(error, ServerNotRunningError) else ""]
    return "; ".join(part for part in (str(error), *hints) if part)
