"""Where a llama-server listens: the text of an endpoint, taken apart. No I/O."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from ..errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

_LOOPBACK_V6 = bytes(15) + b"\x01"
_MAPPED_LOOPBACK_V4 = bytes(10) + b"\xff\xff\x7f"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ALLOWED = "write http://HOST:PORT, https://HOST:PORT or unix:///path/to.sock"


class Endpoint:
    """An address that requests go to.

    Attributes:
        text: as it was written; messages show it.
        scheme: `"http"`, `"https"` or `"unix"`.
        host, port: of the server; for a UNIX socket `"localhost"` and 80, as its Host header wants.
        prefix: the path before every route, without a slash at its end.
        socket_path: of a UNIX socket, else None.
    """

    __slots__ = ("text", "scheme", "host", "port", "prefix", "socket_path")

    def __init__(
        self, text: str, scheme: str, host: str, port: int, prefix: str = "", socket_path: Optional[str] = None
    ) -> None:
        self.text = text
        self.scheme = scheme
        self.host = host
        self.port = port
        self.prefix = prefix
        self.socket_path = socket_path

    @property
    def authority(self) -> str:
        """`host:port`, the host in brackets if it is an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def host_header(self) -> str:
        """What the Host header says: without the port where that is the scheme's own (RFC 9110 section 7.2)."""
        default = _DEFAULT_PORTS.get(self.scheme, self.port)
        return self.authority[: -len(f":{self.port}")] if self.port == default else self.authority

    @property
    def is_local(self) -> bool:
        """Whether no network lies between."""
        return self.socket_path is not None or self.is_loopback

    @property
    def is_loopback(self) -> bool:
        """Whether the address is this machine's own (RFC 6761 section 6.3 for `localhost`)."""
        host = self.host.lower().rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            if ":" in host:
                address = socket.inet_pton(socket.AF_INET6, host)
                return address == _LOOPBACK_V6 or address.startswith(_MAPPED_LOOPBACK_V4)
            return socket.inet_pton(socket.AF_INET, host)[0] == 127
        except OSError:
            return False


def parse_endpoint(text: str) -> Endpoint:
    """Take an endpoint apart.

    Args:
        text: `http://`, `https://` or `unix:///path/to.sock`; a path after the host is a prefix of every route.

    Raises:
        ConfigError: it is none of these, or carries a user name, a query or a fragment.

    Example:
        >>> parse_endpoint("http://localhost:8080/llm").prefix
        '/llm'
    """
    if not isinstance(text, str):
        raise ConfigError(f"an endpoint is a string, not {type(text).__name__}; {_ALLOWED}")
    if any(not char.isprintable() for char in text):
        raise ConfigError(f"control character in the endpoint {text!r}; {_ALLOWED}")
    if text.startswith("unix://"):
        path = text[len("unix://") :]
        if not path.startswith("/") or path.endswith("/"):
            raise ConfigError(f"not an absolute path of a socket: {text!r}; write unix:///path/to.sock")
        return Endpoint(text, "unix", "localhost", 80, socket_path=path)
    if "@" in text:
        # Not shown: what stands before the @ may be a password.
        raise ConfigError("an endpoint holds no user name or password; use auth_token for llama-server's --api-key")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ConfigError(f"not a URL: {text!r} ({error}); {_ALLOWED}") from None
    if url.scheme not in _DEFAULT_PORTS or not host or port == 0:
        raise ConfigError(f"not an endpoint: {text!r}; {_ALLOWED}")
    if url.query or url.fragment or "?" in text or "#" in text:
        raise ConfigError(f"an endpoint has no query and no fragment: {text!r}; {_ALLOWED}")
    if not text.isascii() or " " in text:
        raise ConfigError(f"blank or non-ASCII character in the endpoint {text!r}; write it as the server's DNS name")
    return Endpoint(text, url.scheme, host, port or _DEFAULT_PORTS[url.scheme], url.path.rstrip("/"))
