"""One connection to an endpoint: opening it, a request, its response."""

from __future__ import annotations

import errno
import socket

from ..errors import (
    ConfigError,
    ConnectionLostError,
    FlynnError,
    ProtocolError,
    RequestTimeoutError,
    ServerNotRunningError,
)
from .call import CallAborted
from .framing import body_of
from .head import read_head
from .request import encode_head
from .wire import BLOCK, Wire, connect, is_from_handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Callable, List, Mapping, NoReturn, Optional

    from .call import Call
    from .endpoint import Endpoint
    from .framing import Body
    from .head import Head
    from .proxy import Proxy

_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # what this machine may have no more of


class Connection:
    """A connection to one endpoint, used by one call at a time.

    Args:
        release: is given the connection when a response was read to its end and the connection may be used again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        ssl_context: Optional[ssl.SSLContext],
        proxy: Optional[Proxy],
        release: Callable[[Connection], None],
    ) -> None:
        self.release = release
        self._endpoint = endpoint
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._wire: Wire

    def open(self, call: Call) -> None:
        """Connect, through the proxy and TLS if there are any.

        Raises:
            ServerNotRunningError: nothing answers at the endpoint.
            RequestTimeoutError: the call's limit has passed.
            ProtocolError: the TLS handshake failed, or the proxy refused.
        """
        endpoint = self._endpoint
        try:
            sock = connect(self._proxy.endpoint if self._proxy else endpoint, call)
        except FlynnError:
            raise
        except (OSError, UnicodeError) as error:  # UnicodeError: the name is no host name (idna)
            if is_from_handler(error):
                raise
            if isinstance(error, socket.timeout) and not error.errno:
                raise RequestTimeoutError from None
            if call.aborted:
                raise CallAborted from None
            if type(error) is OSError and error.errno in _OUT_OF:  # by class: that of a name's resolver has numbers too
                raise FlynnError(f"no connection to {endpoint.text} can be opened: {error.strerror}") from error
            raise ServerNotRunningError.at(endpoint.text) from error
        self._use(sock, call)
        if endpoint.scheme == "https":
            try:
                if self._proxy:
                    self._tunnel(self._proxy)
                self._start_tls(call)
            except Exception as error:
                self._fail(error, f"expected a TLS server at {endpoint.text}")
            except BaseException:
                self.close()
                raise

    def _use(self, sock: socket.socket, call: Call) -> None:
        self._wire = Wire(sock, call)
        try:
            call.attach(sock)
        except CallAborted:
            self.close()
            raise

    def _tunnel(self, proxy: Proxy) -> None:
        """Have the proxy connect to the endpoint (RFC 9110 section 9.3.6)."""
        target = self._endpoint.authority
        self._wire.send(encode_head("CONNECT", target, {"Host": target, **proxy.headers}))
        head, _ = read_head(self._wire, "CONNECT")
        if head.status != 200:
            raise ProtocolError(f"the proxy refused a tunnel: HTTP {head.status} {head.reason}")

    def _start_tls(self, call: Call) -> None:
        context = self._ssl_context
        if context is None:
            try:
                import ssl
            except ImportError:
                raise ConfigError("https needs the module ssl, which this Python was built without") from None
            context = ssl.create_default_context()
        plain = self._wire.sock
        wrapped = context.wrap_socket(plain, server_hostname=self._endpoint.host, do_handshake_on_connect=False)
        self._use(wrapped, call)
        wrapped.settimeout(call.limit())  # for the handshake as a whole, not for each of its messages
        wrapped.do_handshake()

    def exchange(
        self, call: Call, method: str, path: str, body: Optional[bytes], headers: Mapping[str, str]
    ) -> Response:
        """Send a request and read the head of its response.

        Raises:
            ConnectionLostError: the connection ended before the whole head had come; `answered` tells if any had.
            RequestTimeoutError, ProtocolError: as their names say.
        """
        self._wire.begin(call)
        if self._proxy and self._endpoint.scheme == "http":
            path = f"http://{self._endpoint.authority}{path}"
            headers = {**headers, **self._proxy.headers}
        try:
            call.attach(self._wire.sock)
            try:
                self._wire.send(encode_head(method, path, {"Host": self._endpoint.host_header, **headers}, body), body)
            except (BrokenPipeError, ConnectionResetError) as error:
                if is_from_handler(error):
                    raise
                # The server may have answered without reading all of the request: 401, 413.
            head, rest = read_head(self._wire, method)
            return Response(self, head, body_of(head), rest)
        except Exception as error:
            self._fail(error, "expected an HTTP response")
        except BaseException:
            self.close()
            raise

    def _fail(self, error: Exception, expected: str) -> NoReturn:
        """Close the connection after an error, and raise what the library raises for it."""
        wire = self._wire
        self.close()
        if wire.call.aborted:
            raise CallAborted from None
        if isinstance(error, FlynnError) or is_from_handler(error):
            raise error
        if isinstance(error, socket.timeout) and not error.errno:
            raise RequestTimeoutError from None
        if wire.ended or _is_end(error):
            how = "in the middle of it" if wire.received else "before any of it came"
            raise ConnectionLostError(f"{expected}, but the connection was closed {how}") from error
        advice = "; $SSL_CERT_FILE may name the certificates to trust" if _is_untrusted(error) else ""
        raise ProtocolError(f"{expected}, got {error or type(error).__name__}{advice}") from error

    def fileno(self) -> int:
        """The socket's descriptor, -1 if that does not tell what there is to read, as for TLS."""
        sock = self._wire.sock
        return sock.fileno() if type(sock) is socket.socket else -1

    def receive_ready(self) -> bytes:
        """What has come. Raises BlockingIOError if nothing has."""
        return self._wire.receive_ready()

    @property
    def answered(self) -> bool:
        """Whether any of the response to the last request has come."""
        return self._wire.received > 0

    @property
    def dropped(self) -> bool:
        """Whether the server has closed this idle connection (or sent what nobody asked for)."""
        try:
            self._wire.look()
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            return type(error).__name__ != "SSLWantReadError"  # by name: a Python may lack ssl

    def close(self) -> None:
        """Close the connection; the call that had it is done with it."""
        self._wire.call.detach()
        self._wire.sock.close()


class Response:
    """A response whose head has come. Its body is read in blocks, as they arrive.

    Attributes:
        status: e.g. 200.
        reason: the words after the status, as the server wrote them.
        content_type: without parameters, in lower case; empty if there is none.
    """

    def __init__(self, connection: Connection, head: Head, body: Body, rest: bytes) -> None:
        self.status = head.status
        self.reason = head.reason
        self.content_type = "".join(head.all("content-type")[:1]).split(";")[0].strip().lower()
        self._connection: Optional[Connection] = connection
        self._will_close = head.will_close
        self._body = body
        self._rest = rest  # what came together with the head
        self._stalled = False
        if body.complete:
            self._finish(connection)

    def fileno(self) -> int:
        """The descriptor that tells when `read_ready` has something; -1 if that takes `read_block`."""
        if self._connection is None or self._rest or self._stalled:
            return -1
        return self._connection.fileno()

    def read_ready(self) -> bytes:
        """The next bytes of the body, if they are there. At the end, or after an error, `fileno` is -1."""
        if self._connection is None:
            return b""
        try:
            self._rest = self._connection.receive_ready()
        except BlockingIOError:
            return b""
        except OSError:
            pass
        self._stalled = not self._rest
        return self.read_block(wait=False) if self._rest else b""

    def read_block(self, *, wait: bool = True) -> bytes:
        """The next bytes of the body, as soon as some have come; empty at its end, and if it is not to `wait` for more.

        Raises:
            ConnectionLostError: the connection ended before the body did.
            RequestTimeoutError, ProtocolError: as their names say.
        """
        connection = self._connection
        if connection is None:
            return b""
        try:
            block = b""
            while not block and not self._body.complete:
                data = self._rest or connection._wire.receive()
                self._rest = b""
                if not data:
                    missing = self._body.missing()
                    if missing:
                        raise ConnectionLostError(f"expected a whole response, but it was cut: {missing}")
                    self.close()
                    return b""
                block = self._body.feed(data)
                if not wait:
                    break
            if self._body.complete:
                self._finish(connection)
            return block
        except Exception as error:
            self._connection = None
            connection._fail(error, "expected a whole response")
        except BaseException:
            self.close()
            raise

    def read(self, limit: int) -> bytes:
        """All of the body.

        Raises:
            ProtocolError: it has more than `limit` bytes.
            ConnectionLostError, RequestTimeoutError: as for `read_block`.
        """
        blocks: List[bytes] = []
        size = 0
        while size <= limit:
            block = self.read_block()
            if not block:
                return b"".join(blocks)
            blocks.append(block)
            size += len(block)
        self.close()
        raise ProtocolError(f"expected a response of at most {limit} bytes, got more")

    def drain(self) -> None:
        """Read what little is left of the body, so that the connection can be used again, or close it.

        For a body whose reader knows that it has all it wanted. Waits as long as the call's limit allows.
        """
        if not self._will_close:
            try:
                self.read(BLOCK)
            except FlynnError:
                pass
        self.close()

    def close(self) -> None:
        """Close the connection, unless the body is complete: then the connection is no longer this response's."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _finish(self, connection: Connection) -> None:
        """The body is complete: the connection is free for the next call, or closed if the server wants it so."""
        if self._body.surplus or self._will_close:
            self.close()
            return
        self._connection = None
        connection._wire.call.detach()
        connection.release(connection)


def _is_end(error: Exception) -> bool:
    """Whether an error means that the connection has ended, by the peer or the network. Not by the class alone: TLS has
    its errors among those of the system (and a Python may lack ssl), and http.client raises a bare OSError for a proxy
    that refuses."""
    if type(error).__module__ == "ssl":
        return type(error).__name__ in ("SSLEOFError", "SSLZeroReturnError")
    return isinstance(error, ConnectionError) or (isinstance(error, OSError) and error.errno is not None)


def _is_untrusted(error: Exception) -> bool:
    return type(error).__name__ == "SSLCertVerificationError"
