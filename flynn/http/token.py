"""The bearer token of a server with `--api-key`: what it may hold. Errors never show it."""

from __future__ import annotations

from ..errors import ConfigError


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
