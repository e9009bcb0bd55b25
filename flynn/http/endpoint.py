"""Where a llama-server listens: the text of an endpoint, taken apart. No I/O."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import Optional
from urllib.parse import urlsplit

from ..errors import ConfigError

DEFAULT_ENDPOINT = "http://localhost:8080"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103  # bytes: sun_path in unix(7), and on BSD and macOS
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")  # as in /etc/hosts
_ALLOWED = "write http://HOST:PORT, https://HOST:PORT or unix:///path/to.sock"


@dataclass(frozen=True)
class Endpoint:
    """An address that requests go to.

    Attributes:
        text: as it was written; messages show it.
        scheme: `"http"`, `"https"` or `"unix"`.
        host, port: of the server; for a UNIX socket `"localhost"` and 80, as its Host header wants.
        prefix: the path before every route, without a slash at its end.
        socket_path: of a UNIX socket, else None.
    """

    text: str
    scheme: str
    host: str
    port: int
    prefix: str = ""
    socket_path: Optional[str] = None

    @cached_property
    def authority(self) -> str:
        """`host:port`; an IPv6 address in brackets, without its zone, which means something on this machine only."""
        host = self.host.partition("%")[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @cached_property
    def host_header(self) -> str:
        """The value of the Host header: without the port where that is the scheme's own (RFC 9110 section 7.2)."""
        default = _DEFAULT_PORTS.get(self.scheme, self.port)
        return self.authority[: -len(f":{self.port}")] if self.port == default else self.authority

    @property
    def url(self) -> str:
        """The URL that paths are appended to."""
        return self.text if self.socket_path else f"{self.scheme}://{self.host_header}{self.prefix}"

    @cached_property
    def is_local(self) -> bool:
        """Whether requests stay on this machine: a UNIX socket, or a loopback or unspecified address."""
        return self.socket_path is not None or is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name (RFC 6761 section 6.3) or its address in any spelling.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.1", "2130706433", "::1", "0.0.0.0", "example.org")]
        [True, True, True, True, True, False]
    """
    host = host.lower().rstrip(".")
    if host in _LOCAL_NAMES or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host.partition("%")[0] if ":" in host else socket.inet_aton(host))
    except (OSError, ValueError):
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def parse_endpoint(text: str) -> Endpoint:
    """Take an endpoint apart.

    Args:
        text: `http://`, `https://` or `unix:///path/to.sock`; a path after the host is a prefix of every route.

    Raises:
        ConfigError: it has none of these forms, or carries a user name, a query or a fragment.

    Example:
        >>> parse_endpoint("http://localhost:8080/llm").prefix
        '/llm'
    """
    if not isinstance(text, str):
        raise ConfigError(f"an endpoint is a string, not {type(text).__name__}; {_ALLOWED}")
    if any(not char.isprintable() for char in text):
        raise ConfigError(f"control character in the endpoint {text!r}; {_ALLOWED}")
    if text.startswith("unix://"):
        return _unix_endpoint(text)
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
        raise ConfigError(f"space or non-ASCII character in the endpoint {text!r}; write it as the server's DNS name")
    host = host.replace("%25", "%")  # the zone of an IPv6 address (RFC 6874)
    return Endpoint(text, url.scheme, host, port or _DEFAULT_PORTS[url.scheme], url.path.rstrip("/"))


def _unix_endpoint(text: str) -> Endpoint:
    path = text[len("unix://") :]
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(f"not an absolute path of a socket: {text!r}; write unix:///path/to.sock")
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"this Python has no UNIX sockets: {text!r}; write http://HOST:PORT")
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ConfigError(f"longer than the {_MAX_SOCKET_PATH} bytes that the path of a UNIX socket may have: {text!r}")
    return Endpoint(text, "unix", "localhost", 80, socket_path=path)
