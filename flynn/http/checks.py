"""Checks of what a client is given: its timeout, and the token of a server with `--api-key`, which no error shows."""

from __future__ import annotations

from typing import Optional

from ..errors import ConfigError

DEFAULT_TIMEOUT = 60.0  # seconds
MAX_TIMEOUT = 2_147_483  # seconds; poll(2) takes milliseconds as a C int
TIMEOUTS = f"a number of seconds above 0 and up to {MAX_TIMEOUT}, or None for no limit"


def check_timeout(value: object) -> Optional[float]:
    """Return a timeout in seconds, None for no limit.

    Raises:
        ConfigError: it is neither None nor a number of seconds that a socket can wait for.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TIMEOUT:
        # A very large int has no repr: Python limits the digits that it converts.
        got = "a larger one" if isinstance(value, int) and value > MAX_TIMEOUT else repr(value)
        raise ConfigError(f"a timeout is {TIMEOUTS}, not {got}")
    return float(value)


def check_token(token: object) -> str:
    """Return the token, if a header can carry it.

    Raises:
        ConfigError: it is not a string, is empty, or has characters other than printable ASCII, or whitespace at its
            ends, which would be lost on the way (RFC 9110 section 5.5).
    """
    if not isinstance(token, str):
        raise ConfigError("the token must be a string: put it in quotes")
    if not token:
        raise ConfigError("the token is empty")
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise ConfigError("the token must be printable ASCII without leading or trailing whitespace")
    return token
