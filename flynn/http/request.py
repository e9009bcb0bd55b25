"""The head of a request (RFC 9112 section 3), as bytes. No I/O."""

from __future__ import annotations

from ..errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional


def encode_head(method: str, target: str, headers: Mapping[str, str], body: Optional[bytes] = None) -> bytes:
    """Request line and headers.

    Not by `http.client`, which takes ten times as long; only printable ASCII gets in, so no value can begin a new line.

    Raises:
        ConfigError: a method, target or header holds what no head may hold.

    Example:
        >>> encode_head("GET", "/health", {"Host": "localhost"})
        b'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n'
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    elif method in ("POST", "PUT", "PATCH"):
        lines.append("Content-Length: 0")
    wrong = next((line for line in lines if not (line.isascii() and line.isprintable())), None)
    if wrong is not None or lines[0].count(" ") != 2 or not method.isalpha():
        raise ConfigError(f"not a method and a path of printable ASCII without blanks: {method!r} {target!r}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")
