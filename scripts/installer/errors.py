"""The one error that the installer shows to its user: what is wrong, and what to type next."""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69  # sysexits.h EX_UNAVAILABLE: no systemd, no user bus, no server
EXIT_TEMPORARY = 75  # sysexits.h EX_TEMPFAIL: not ready in time, or a download that goes on when run again
EXIT_INTERRUPTED = 130


class InstallError(Exception):
    """Something that the user can act on.

    Args:
        message: what is wrong and where, one line.
        hint: the next command to type, or the next thing to do; may have several lines.
        status: the exit code of the program.
    """

    def __init__(self, message: str, *, hint: str = "", status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status
