"""A bearer token in a file of its own, which nobody else may read."""

from __future__ import annotations

import os

from ..errors import ConfigError
from ..http.token import check_token

# The longest header line that llama-server's HTTP library takes: cpp-httplib, CPPHTTPLIB_HEADER_MAX_LENGTH.
_MAX_TOKEN = 8192


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
