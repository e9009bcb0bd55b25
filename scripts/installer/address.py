"""URLs: taken apart without surprises, and whether somebody could read along on the way there."""

from __future__ import annotations

import socket
from typing import Optional
from urllib.parse import SplitResult, urlsplit

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


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: by name, or in any form of address that inet_aton(3) takes.

    >>> [is_loopback(host) for host in ("127.1", "2130706433", "ip6-localhost", "0.0.0.0", "::1", "10.0.0.1")]
    [True, True, True, True, True, False]
    """
    name = host.lower().rstrip(".")
    if name in ("localhost", "ip6-localhost", "ip6-loopback", "localhost.localdomain") or name.endswith(".localhost"):
        return True
    try:
        if ":" in name:
            packed = socket.inet_pton(socket.AF_INET6, name)
            if packed[:12] != bytes(10) + b"\xff\xff":
                return packed in (bytes(16), bytes(15) + b"\x01")
            packed = packed[12:]
        else:
            packed = socket.inet_aton(name)
    except OSError:
        return False
    return packed[0] == 127 or packed == bytes(4)  # 0.0.0.0 as a destination is this machine, too


def is_private_channel(url: str) -> bool:
    """Whether nobody between can read along: https, or a server on this machine."""
    parts = split(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")
