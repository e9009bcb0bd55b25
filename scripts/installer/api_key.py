"""The server's API key: generated once, stored in a file that only its owner can read, never printed."""

from __future__ import annotations

import secrets
from pathlib import Path

from .errors import EXIT_USAGE, InstallError
from .files import write_atomically


def ensure(path: Path) -> bool:
    """Generate a key at `path` if the file is missing; validate the existing key otherwise.

    Returns:
        True if a key was generated.

    Raises:
        InstallError: other users can read the existing key, or it cannot be sent as a Bearer token.
    """
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32) + "\n", mode=0o600)
        return True
    check(path)
    return False


def check(path: Path) -> None:
    """Validate a key file.

    Raises:
        InstallError: other users can read the file, or the key cannot be sent in an HTTP header.
    """
    if path.stat().st_mode & 0o077:
        raise InstallError(f"{path}: other users can read the API key", hint=f"Run: chmod 600 {path}")
    read(path)


def read(path: Path) -> str:
    """Return the key stored in a file.

    Raises:
        InstallError: the file cannot be read, or the key is invalid. The message never contains the key.
    """
    try:
        key = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"{path}: cannot be read: {error.__class__.__name__}") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key or "," in key or key.startswith("#"):
        rule = "must be one line of printable ASCII without spaces and commas, and must not start with #"
        raise InstallError(f"{path}: the API key {rule}", status=EXIT_USAGE)
    return key
