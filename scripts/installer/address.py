"""Split URLs and decide whether the connection to a URL can be eavesdropped on."""

from __future__ import annotations

from typing import Optional
from urllib.parse import SplitResult, urlsplit

from flynn.http.endpoint import is_loopback

from .errors import EXIT_USAGE, InstallError


def split(url: str) -> SplitResult:
    """Split a URL and validate its host and port.

    Raises:
        InstallError: the URL is invalid, e.g. `https://[::1/` or `https://host:port/`.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is not a number
    except ValueError as error:
        raise InstallError(f"{url}: invalid URL: {error}", status=EXIT_USAGE) from error
    return parts


def origin(url: str) -> tuple[str, str, Optional[int]]:
    """Return scheme, host and port; the port is the scheme's default if the URL has none."""
    parts = split(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_private_channel(url: str) -> bool:
    """Return True if nobody on the network can read the traffic: https, or a loopback address."""
    parts = split(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")
