"""URLs: taken apart without surprises, and whether somebody could read along on the way there."""

from __future__ import annotations

from typing import Optional
from urllib.parse import SplitResult, urlsplit

from flynn.http.endpoint import is_loopback

from .errors import EXIT_USAGE, InstallError


def split(url: str) -> SplitResult:
    """The parts of a URL whose host and port can be read.

    Raises:
        InstallError: it is not a URL, e.g. `https://[::1/` or `https://host:port/`.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is not a number
    except ValueError as error:
        raise InstallError(f"{url}: not a URL: {error}", status=EXIT_USAGE) from error
    return parts


def origin(url: str) -> tuple[str, str, Optional[int]]:
    """Scheme, host and port."""
    parts = split(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_private_channel(url: str) -> bool:
    """Whether nobody between can read along: https, or a server on this machine."""
    parts = split(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")
