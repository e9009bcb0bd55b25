"""One connection to an endpoint: opening it, a request, its response. `http.client` does the talking."""

from __future__ import annotations

import http.client
import io
import socket

from ..errors import ConnectionLostError, FlynnError, ProtocolError, RequestTimeoutError, ServerNotRunningError
from .call import CallAborted
from .framing import body_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any, Callable, List, Mapping, NoReturn, Optional

    from .call import Call
    from .endpoint import Endpoint
    from .framing import Body
    from .proxy import Proxy

# A status line and headers; http.client's own limits add up to 6.5 MB, and to no limit for "100 Continue" and CONNECT.
MAX_HEAD = 1024 * 1024
_BLOCK = 64 * 1024


class _Wire:
    """A socket as http.client sees it, each operation under the limits of the call that has the connection."""

    def __init__(self, sock: socket.socket, call: Call) -> None:
        self.sock = sock
        self._limit: Optional[float] = -1.0
        self._unsent = b""
        self.begin(call)

    def begin(self, call: Call) -> None:
        """The next response is this call's."""
        self.call = call
        self.received = 0
        self.ended = False
        self.in_head = True

    def readinto(self, buffer: Any) -> Optional[int]:
        """For http.client, which reads the head; None after that: it is to give what it has read beyond."""
        if not self.in_head:
            return None
        self.flush()
        try:
            self._keep_limit()
            count = self.sock.recv_into(buffer)
        except socket.timeout as error:
            raise _timed_out(error) from None
        self.received += count
        self.ended = not count
        if self.received > MAX_HEAD:
            raise ProtocolError(f"expected a response, got headers of more than {MAX_HEAD} bytes")
        return count

    def receive(self) -> bytes:
        """The next bytes of the body, as soon as some have come; empty at the end of the connection."""
        try:
            self._keep_limit()
            data = self.sock.recv(_BLOCK)
        except socket.timeout as error:
            raise _timed_out(error) from None
        self.ended = not data
        return data

    def sendall(self, data: bytes) -> None:
        """For http.client, which gives the head and the body of a request one after the other.

        Sent together they wake the server once: that saves a quarter of the time of a short call.
        """
        if len(data) > _BLOCK:
            self.flush()
            self._send(data)
        else:
            self._unsent += data

    def flush(self) -> None:
        data, self._unsent = self._unsent, b""
        if data:
            self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            self._keep_limit()
            self.sock.sendall(data)
        except socket.timeout as error:
            raise _timed_out(error) from None

    def look(self) -> None:
        """Take what has come, if anything has. Raises BlockingIOError, or for TLS SSLWantReadError, if nothing has."""
        self._limit = 0.0
        self.sock.settimeout(0)
        self.sock.recv(1)

    def _keep_limit(self) -> None:
        limit = self.call.limit()
        if limit != self._limit:  # a system call, and the limit of a stream stays the same
            self._limit = limit
            self.sock.settimeout(limit)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Nothing: http.client lets go of a connection before the body was read, `Connection.close` closes it."""


class _Reader(io.RawIOBase):
    """What a response is read from. Closing it leaves the connection open."""

    def __init__(self, wire: _Wire) -> None:
        self.readinto = wire.readinto  # type: ignore[method-assign]

    def readable(self) -> bool:
        return True


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
        self._wire: _Wire
        self._http = http.client.HTTPConnection(endpoint.host, endpoint.port)
        self._http.auto_open = 0
        if endpoint.scheme == "https":
            self._http.default_port = 443
            if proxy:
                self._http.set_tunnel(endpoint.host, endpoint.port, proxy.headers)

    def open(self, call: Call) -> None:
        """Connect, through the proxy and TLS if there are any.

        Raises:
            ServerNotRunningError: nothing answers at the endpoint.
            RequestTimeoutError: the call's limit has passed.
            ProtocolError: the TLS handshake failed, or the proxy refused.
        """
        endpoint = self._endpoint
        try:
            sock = _connect(self._proxy.endpoint if self._proxy else endpoint, call)
        except FlynnError:
            raise
        except socket.timeout:
            raise RequestTimeoutError from None
        except (OSError, UnicodeError) as error:  # UnicodeError: the name is no host name (idna)
            if call.aborted:
                raise CallAborted from None
            raise ServerNotRunningError.at(endpoint.text) from error
        self._use(sock, call)
        if endpoint.scheme == "https":
            try:
                if self._proxy:
                    self._http._tunnel()  # type: ignore[attr-defined]
                self._start_tls(call)
            except Exception as error:
                self._fail(error, f"expected a TLS server at {endpoint.text}")
            except BaseException:
                self.close()
                raise

    def _use(self, sock: socket.socket, call: Call) -> None:
        self._wire = _Wire(sock, call)
        self._http.sock = self._wire
        try:
            call.attach(sock)
        except CallAborted:
            self.close()
            raise

    def _start_tls(self, call: Call) -> None:
        context = self._ssl_context
        if context is None:
            import ssl

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
                self._http.request(method, path, body, headers)
                self._wire.flush()
            except (BrokenPipeError, ConnectionResetError):
                pass  # The server may have answered without reading all of the request: 401, 413.
            head = self._http.getresponse()
            if self._wire.ended:  # http.client takes the end of the connection for the end of the headers
                raise ConnectionLostError("the connection was closed in the middle of the headers of a response")
            self._wire.in_head = False
            if head.headers.get_payload():  # email.parser takes what follows a malformed line for a body
                raise ProtocolError("expected headers, got a line that is none")
            if head.status < 200:
                raise ProtocolError(f"expected a final response, got HTTP {head.status}")
            return Response(self, head, body_of(head.status, head.headers))
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
        if isinstance(error, FlynnError):
            raise error
        if isinstance(error, socket.timeout) and not error.errno:
            raise RequestTimeoutError from None
        if wire.ended or _is_end(error):
            how = "in the middle of it" if wire.received else "before any of it came"
            raise ConnectionLostError(f"{expected}, but the connection was closed {how}") from error
        raise ProtocolError(f"{expected}, got {error or type(error).__name__}") from error

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
        self._http.close()
        self._wire.sock.close()


class Response:
    """A response whose head has come. Its body is read in blocks, as they arrive.

    Attributes:
        status: e.g. 200.
        reason: the words after the status, as the server wrote them.
        content_type: without parameters, in lower case; empty if there is none.
    """

    def __init__(self, connection: Connection, head: http.client.HTTPResponse, body: Body) -> None:
        self.status = head.status
        self.reason = head.reason
        self.content_type = head.headers.get("Content-Type", "").split(";")[0].strip().lower()
        self._connection: Optional[Connection] = connection
        self._head = head
        self._body = body
        self._rest = head.fp.read1(_BLOCK)  # what came together with the head
        if body.complete:
            self._finish(connection)

    def read_block(self) -> bytes:
        """The next bytes of the body, as soon as some have come; empty at its end.

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
        if not self._head.will_close:
            try:
                self.read(_BLOCK)
            except FlynnError:
                pass
        self.close()

    def close(self) -> None:
        """Close the connection, unless the body is complete: then the connection is no longer this response's."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._head.close()
            connection.close()

    def _finish(self, connection: Connection) -> None:
        """The body is complete: the connection is free for the next call, or closed if the server wants it so."""
        if self._body.surplus or self._head.will_close:
            self.close()
            return
        self._connection = None
        self._head.close()
        connection._wire.call.detach()
        connection.release(connection)


def _timed_out(error: OSError) -> Exception:
    """The call's limit, or ETIMEDOUT, by which the network says that the peer is gone, and which is the same class."""
    return ConnectionLostError(f"the connection was lost: {error}") if error.errno else RequestTimeoutError()


def _is_end(error: Exception) -> bool:
    """Whether an error means that the connection has ended, by the peer or the network. Not by the class alone: TLS has
    its errors among those of the system (and a Python may lack ssl), and http.client raises a bare OSError for a proxy
    that refuses."""
    if type(error).__module__ == "ssl":
        return type(error).__name__ in ("SSLEOFError", "SSLZeroReturnError")
    return isinstance(error, ConnectionError) or (isinstance(error, OSError) and error.errno is not None)


def _connect(target: Endpoint, call: Call) -> socket.socket:
    """A connected socket; the addresses of a name are tried in turn."""
    addresses: Any
    if target.socket_path is not None:
        addresses = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", target.socket_path)]
    else:
        # As bytes: for a str the codec idna is loaded, which takes two milliseconds, and an endpoint's host is ASCII.
        addresses = socket.getaddrinfo(target.host.encode("ascii"), target.port, type=socket.SOCK_STREAM)
    failure: Optional[OSError] = None
    for family, kind, protocol, _, address in addresses:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a kernel without IPv6
            failure = error
            continue
        try:
            call.attach(sock)
            sock.settimeout(call.limit())
            sock.connect(address)
            if target.socket_path is None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        except BaseException as error:
            call.detach()
            sock.close()
            if not isinstance(error, OSError) or isinstance(error, (FlynnError, socket.timeout)):
                raise
            failure = error
    raise failure or OSError("the name has no address")
