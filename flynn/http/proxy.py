"""The proxy before an endpoint, from the environment and the system's settings, as `urllib.request` finds it."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Mapping, Optional
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from ..errors import ConfigError
from .endpoint import Endpoint


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        endpoint: where it listens.
        headers: what each request through it has to carry.
    """

    endpoint: Endpoint
    headers: Mapping[str, str] = field(repr=False)


def proxy_for(endpoint: Endpoint) -> Optional[Proxy]:
    """Return the proxy that requests to an endpoint that is not local go through; None for a direct connection.

    Raises:
        ConfigError: the environment names a proxy that is not an HTTP proxy.
    """
    address = getproxies().get(endpoint.scheme)
    if not address or proxy_bypass(endpoint.authority):
        return None
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        host, port = url.hostname, url.port or 80
    except ValueError:
        host = None
    if not host or url.scheme != "http":
        raise ConfigError(
            f"{endpoint.scheme}_proxy in the environment is not of the form http://HOST:PORT; "
            f"to go without a proxy add {endpoint.host} to no_proxy"
        )
    headers = {}
    if url.username is not None:
        secret = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {b64encode(secret).decode()}"
    return Proxy(Endpoint(f"http://{host}:{port}", "http", host, port), headers)
