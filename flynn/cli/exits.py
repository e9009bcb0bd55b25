"""The exit codes of the command, the error for wrong usage, and how any error is explained."""

from __future__ import annotations

from typing import Dict, Tuple, Type

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
_ERRORS: Dict[int, Tuple[Type[BaseException], ...]] = {
    CLOSED_PIPE: (BrokenPipeError,),
    INTERRUPTED: (KeyboardInterrupt,),
    NOT_RUNNING: (ServerNotRunningError,),
    TRY_AGAIN: (RequestTimeoutError, ModelLoadingError),
    NOT_AUTHORISED: (AuthenticationError,),
    USAGE: (UsageError, ConfigError, RequestError, FileError),
}


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    return next((code for code, kinds in _ERRORS.items() if isinstance(error, kinds)), FAILED)


def explain(error: BaseException) -> str:
    """Return what went wrong and what to do about it, in one line."""
    if isinstance(error, FlynnError):
        advice = "run flynn status for advice" if isinstance(error, ServerNotRunningError) else ""
        return "; ".join(filter(None, [str(error), error.hint, advice]))
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
