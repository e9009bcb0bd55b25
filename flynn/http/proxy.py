"""The proxy between here and an endpoint, from the environment as `urllib.request` finds it."""

from __future__ import annotations

import os
import sys

from ..errors import ConfigError
from .endpoint import Endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional


class Proxy:
    """An HTTP proxy: where it listens and what it wants to be told with each request."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str]) -> None:
        self.endpoint = endpoint
        self.headers = headers


def proxy_for(endpoint: Endpoint) -> Optional[Proxy]:
    """The proxy that requests to an endpoint go through; None for a direct connection.

    Never one for a UNIX socket or the loopback interface, whatever the environment says.

    Raises:
        ConfigError: the environment names a proxy that is not an HTTP proxy.
    """
    if endpoint.is_local:
        return None
    # urllib.request takes 20 ms to import, and on Linux finds proxies nowhere else.
    if sys.platform == "linux" and not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.parse import unquote, urlsplit
    from urllib.request import getproxies, proxy_bypass

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
        from base64 import b64encode

        secret = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {b64encode(secret).decode()}"
    return Proxy(Endpoint(f"http://{host}:{port}", "http", host, port), headers)
