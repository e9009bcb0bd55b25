"""The bearer token of a server with `--api-key`: what it may hold, and how it is read from a file. Never shown."""

from __future__ import annotations

import os

from ..errors import ConfigError

# The longest header line that llama-server's HTTP library takes: cpp-httplib, CPPHTTPLIB_HEADER_MAX_LENGTH.
_MAX_TOKEN = 8192


def check_token(token: object) -> str:
    """The token itself, if a header can carry it.

    Raises:
        ConfigError: it is no string, is empty, or has characters other than printable ASCII, or a blank at its ends,
            which would be lost on the way (RFC 9110 section 5.5).
    """
    if not isinstance(token, str):
        raise ConfigError("a token is a string: put it in quotes")
    if not token:
        raise ConfigError("the token is empty")
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise ConfigError("a token is printable ASCII with no blank at its ends; this one is not")
    return token


def read_token_file(path: str) -> str:
    """The token in a file that nobody but its owner can open. White space around it is dropped.

    Args:
        path: of the file; a leading `~` is the home directory.

    Raises:
        ConfigError: the file cannot be read, is open to group or others, or holds no token.
    """
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_TOKEN + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path!r}: {getattr(error, 'strerror', error)}") from None
    if os.name == "posix" and mode & 0o077:
        import shlex

        raise ConfigError(f"others may open this file (mode {mode & 0o777:03o}): run chmod 600 {shlex.quote(path)}")
    try:
        if len(content) > _MAX_TOKEN:
            raise ConfigError(f"more than {_MAX_TOKEN} bytes")
        return check_token(content.decode("ascii", "replace").strip())
    except ConfigError as error:
        raise ConfigError(f"no token in {path!r}: {error}") from None
