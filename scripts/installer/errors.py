"""InstallError, the only error that the installer shows to the user, and the exit codes."""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69  # sysexits.h EX_UNAVAILABLE: no systemd, no user bus, or no llama-server
EXIT_TEMPORARY = 75  # sysexits.h EX_TEMPFAIL: not ready in time, or a download that the next run resumes
EXIT_INTERRUPTED = 130


class InstallError(Exception):
    """An error that the user can fix.

    Args:
        message: what is wrong and where, one line.
        hint: the command to run or the step to take next; may have several lines.
        status: the exit code of the installer.
    """

    def __init__(self, message: str, *, hint: str = "", status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status
