"""The server's API key: generated once, kept in a file that only its owner can read, never shown."""

from __future__ import annotations

import secrets
from pathlib import Path

from .errors import EXIT_USAGE, InstallError
from .files import write_atomically


def ensure(path: Path) -> bool:
    """Makes sure that there is a good key at `path`.

    Returns:
        Whether it was made here.

    Raises:
        InstallError: a key is there that others can read, or that cannot be sent as a Bearer token.
    """
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32) + "\n", mode=0o600)
        return True
    check(path)
    return False


def check(path: Path) -> None:
    """Raises InstallError for a key file that others can read, or whose key no HTTP header can carry."""
    if path.stat().st_mode & 0o077:
        raise InstallError(f"{path}: others can read it", hint=f"chmod 600 {path}")
    read(path)


def read(path: Path) -> str:
    """The key in a file. The key itself is in no message."""
    try:
        key = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"{path}: cannot be read: {error.__class__.__name__}") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key or "," in key or key.startswith("#"):
        said = "one line of printable ASCII without blanks and commas, not beginning with #"
        raise InstallError(f"{path}: a key is {said}", status=EXIT_USAGE)
    return key
