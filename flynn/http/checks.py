"""Checks of what a client is given: timeouts, headers, and the token of a server with `--api-key`.

No error shows a token, nor the value of a header.
"""

from __future__ import annotations

import re
from typing import Dict, Mapping, Optional

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
        shown = "a larger one" if isinstance(value, int) and value > MAX_TIMEOUT else repr(value)
        raise ConfigError(f"a timeout is {TIMEOUTS}, not {shown}")
    return float(value)


# What Flynn sets itself: most of it decides where a message ends.
_RESERVED = (
    "accept", "accept-encoding", "connection", "content-length", "content-type", "transfer-encoding",
    "x-conversation-id",
)  # fmt: skip
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110 section 5.6.2


def check_headers(headers: Optional[Mapping[str, str]]) -> Dict[str, str]:
    """Return the headers, if a request can carry them besides Flynn's own.

    Raises:
        ConfigError: a name or a value has characters that no header may have, or the header is Flynn's own. No error
            shows a value, which may be a secret.
    """
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"invalid header name {name!r:.60}: use letters, digits and -")
        if name.lower() in _RESERVED:
            raise ConfigError(f"the header {name!r} is set by Flynn: leave it out")
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()) or value != value.strip():
            form = "printable ASCII without leading or trailing whitespace"
            raise ConfigError(f"invalid value of the header {name!r}: it must be {form}")
    return dict(headers or {})


def check_retries(value: object) -> int:
    """Return a number of retries. Raises ConfigError if it is not a whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"retries must be a whole number, 0 or more, not {value!r:.60}")
    return value


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
