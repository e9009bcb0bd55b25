"""A connection to an endpoint: TCP, a UNIX socket or TLS, perhaps through a proxy; and one exchange over it."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, Optional, Tuple

from ..errors import ConfigError, ConnectionLostError, FlynnError, ProtocolError, RequestError, ServerNotRunningError
from .endpoint import Endpoint
from .limits import Call, LimitedSocket
from .response import Response

if TYPE_CHECKING:
    import ssl  # a Python may lack it

    from .proxy import Proxy

_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # errnos for exhausted local resources
_PROBE_TIMEOUT = 2.0  # seconds to find out whether a server speaks plain HTTP
_FULL_PAUSE = 0.01  # seconds before a UNIX socket whose queue of connections is full is tried again


class Connection(http.client.HTTPConnection):
    """A connection to one endpoint, used by one call at a time. It connects when the first request is sent.

    Args:
        endpoint: where to, through the proxy that the environment names for it.
        ssl_context: for https; None for what `ssl.create_default_context` returns.

    Attributes:
        release: called with this connection once it is idle and reusable; None to close it then.
        answered: whether any of the response to the last request has come.
    """

    response_class = Response

    def __init__(self, endpoint: Endpoint, ssl_context: Optional[ssl.SSLContext] = None) -> None:
        super().__init__(endpoint.host, endpoint.port)
        self.release: Optional[Callable[[Connection], None]] = None
        self._endpoint = endpoint
        self._ssl_context = ssl_context
        self._proxy = proxy = None if endpoint.is_local else _proxy_for(endpoint)
        self._call: Call
        self._limited: LimitedSocket
        if proxy and endpoint.scheme == "https":
            host, _, port = endpoint.authority.rpartition(":")  # an IPv6 address in brackets
            self.set_tunnel(host, int(port), headers=dict(proxy.headers))

    def exchange(
        self, call: Call, method: str, path: str, body: Optional[bytes], headers: Mapping[str, str]
    ) -> Response:
        """Send a request and read the head of its response. The connection is closed if that fails.

        Args:
            call: whose limits hold until the response is read or closed.
            path: of the request, with its query.
            headers: besides Host and Content-Length.

        Raises:
            ServerNotRunningError: nothing answers at the endpoint.
            ConnectionLostError: the connection ended before the whole head had come; see `answered`.
            RequestTimeoutError: the limit of the call has passed.
            ProtocolError: the peer does not speak HTTP, or TLS, as it should.
            RequestError: the method or the path cannot be sent.
        """
        path = self._endpoint.prefix + path
        if not (method.isalpha() and path.isascii() and path.isprintable() and " " not in path):
            raise RequestError(
                f"invalid request line: method and path must be printable ASCII without spaces: {method!r} {path!r}"
            )
        headers = {"Host": self._endpoint.host_header, **headers}
        if self._proxy and self._endpoint.scheme == "http":
            path = f"http://{self._endpoint.authority}{path}"
            headers.update(self._proxy.headers)
        self._call = call
        try:
            if self.sock is not None:
                self._limited.begin(call)
            self.request(method, path, body, headers)
            response = self.getresponse()
        except http.client.HTTPException as error:
            self.close()
            if not self._limited.ended:
                raise ProtocolError(f"expected an HTTP response, got {error}") from error
            moment = "in the middle of it" if self.answered else "before any of it came"
            lost = ConnectionLostError(f"expected an HTTP response, but the connection was closed {moment}")
            lost.answered = self.answered
            raise lost from None
        except ConnectionLostError as error:
            self.close()
            error.answered = self.answered
            raise
        except BaseException:
            self.close()
            raise
        assert isinstance(response, Response)
        response.on_end = self._response_ended
        return response

    def connect(self) -> None:
        """Open the connection; `http.client` calls this when it sends a request. Raises what `exchange` raises."""
        endpoint, proxy = self._endpoint, self._proxy
        self.sock = self._limited = LimitedSocket(_connected(endpoint, proxy, self._call), self._call)
        if endpoint.scheme == "https":
            if proxy:
                self._open_tunnel()
            context = self._ssl_context or _default_context()
            self.sock = self._limited = self._limited.secured(context, endpoint, self._refuse_plain_http)

    def _open_tunnel(self) -> None:
        try:
            self._tunnel()  # type: ignore[attr-defined]
        except OSError as error:
            if not str(error).startswith("Tunnel connection failed"):  # http.client says so, as a bare OSError
                raise
            raise ProtocolError(f"the proxy refused a tunnel: {error}") from None

    def _refuse_plain_http(self) -> None:
        """Raise ProtocolError if the server answers without TLS, as llama-server does, which ignores a TLS greeting."""
        plain = replace(self._endpoint, scheme="http")
        try:
            Connection(plain).exchange(Call(_PROBE_TIMEOUT, whole=True), "GET", "/health", None, {}).close()
        except FlynnError:
            return
        raise ProtocolError(f"expected a TLS server at {plain.text}, but it speaks plain HTTP: write http://")

    @property
    def answered(self) -> bool:
        return self._limited.received > 0

    @property
    def is_dropped(self) -> bool:
        """Whether the peer has closed this idle connection, or sent bytes without a request."""
        return self._limited.is_dropped

    def _response_ended(self, reusable: bool) -> None:
        self._call.detach()
        if reusable and self.release is not None:
            self.release(self)
        else:
            self.close()


def _connected(endpoint: Endpoint, proxy: Optional[Proxy], call: Call) -> socket.socket:
    """Connect to an endpoint or the proxy before it; the addresses of a name are tried in turn."""
    failure: Optional[OSError] = None
    target = proxy.endpoint if proxy else endpoint
    try:
        addresses = _addresses(target)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: the name is not a host name (idna)
        hint = f"the name {target.host!r} does not resolve: {getattr(error, 'strerror', error)}"
        raise ServerNotRunningError.at(endpoint.text).advise(hint) from error
    for family, address in addresses:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor is left, or the kernel has no IPv6
            if error.errno is None:  # not the system's: a signal's handler raised it
                raise
            failure = error
            continue
        try:
            code = _connect(sock, address, call)
        except BaseException:
            call.detach()
            sock.close()
            raise
        if not code:
            return sock
        failure = OSError(code, os.strerror(code))
        call.detach()
        sock.close()
    assert failure is not None  # a name that resolves has an address
    if failure.errno in _OUT_OF:
        raise FlynnError(f"no connection to {endpoint.text} can be opened: {failure.strerror}") from failure
    through = f"the proxy {target.authority}: " if proxy else ""
    raise ServerNotRunningError.at(endpoint.text).advise(f"{through}{failure.strerror}") from failure


def _addresses(target: Endpoint) -> List[Tuple[int, Any]]:
    if target.socket_path is not None:
        return [(socket.AF_UNIX, target.socket_path)]
    # As bytes: for a str the codec idna is loaded, which takes milliseconds, and an endpoint's host is ASCII.
    addresses = socket.getaddrinfo(target.host.encode("ascii"), target.port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in addresses]


def _connect(sock: socket.socket, address: Any, call: Call) -> int:
    """Connect a socket under the limits of a call. Returns 0, or the errno of what went wrong."""
    sock.setblocking(False)
    call.attach(sock)
    began = time.monotonic()
    while (code := sock.connect_ex(address)) == errno.EAGAIN:  # the queue of a UNIX socket is full
        call.check(began)
        call.pause(_FULL_PAUSE)
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        if not call.wait(sock, began, writing=True, most=call.connect_timeout):
            return errno.ETIMEDOUT
        call.check()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return code


def _proxy_for(endpoint: Endpoint) -> Optional[Proxy]:
    from .proxy import proxy_for  # takes 20 ms, with urllib.request, and a local endpoint does not need it

    return proxy_for(endpoint)


def _default_context() -> ssl.SSLContext:
    try:
        import ssl
    except ImportError:
        raise ConfigError("https needs the module ssl, which this Python was built without") from None
    return ssl.create_default_context()
