"""The head of a response: its status and headers (RFC 9112 sections 4 and 5).

What a head means is for `http.client` to say, but it reads one through the package email, and imports ssl: half of the
time that a new process takes to its first token. So a head in the plain form that servers send is taken apart here.
"""

from __future__ import annotations

from ..errors import ConnectionLostError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, List, Optional, Tuple

    from .wire import Wire

# http.client's own limits. They add up to 6.5 MB, and to no limit for "100 Continue" and CONNECT; hence the last one.
_MAX_LINE = 65536
_MAX_HEADERS = 100
_MAX_HEAD = 1024 * 1024


class Head:
    """A status line and headers.

    Attributes:
        status: e.g. 200.
        reason: the words after the status.
        will_close: whether the connection ends with this response (RFC 9112 section 9.3).
    """

    def __init__(self, version: int, status: int, reason: str, headers: Iterable[Tuple[str, str]]) -> None:
        self.status = status
        self.reason = reason
        self._headers = [(name.lower(), value) for name, value in headers]
        connection = ",".join(self.all("connection")).lower()
        self.will_close = "close" in connection or (version == 10 and "keep-alive" not in connection)

    def all(self, name: str) -> List[str]:
        """The values of a header, which is named in lower case."""
        return [value for other, value in self._headers if other == name]


def read_head(wire: Wire, method: str) -> Tuple[Head, bytes]:
    """The head of the response to a `method`, and what came together with it.

    Raises:
        ConnectionLostError: the connection was closed in the middle of it.
        ProtocolError, http.client.HTTPException: it is none.
    """
    data = b""
    while len(data) <= _MAX_LINE and data.startswith(b"HTTP/1."[: len(data)]):
        block = wire.receive()
        seen = max(len(data) - 2, 0)
        data += block
        end = data.find(b"\n\r\n", seen) + 1
        if end:
            head = plain_head(data[:end])
            if head is None:
                break
            return head, data[end + 2 :]
        if not block or data.find(b"\n\n", seen) >= 0:
            break
    return _other_head(_Lines(wire, data), method)


def plain_head(data: bytes) -> Optional[Head]:
    """A head up to its empty line, as `http.client` reads it; None if it is not of the plain form.

    That is: HTTP/1.0 or 1.1, a final status, printable ASCII, CRLF after each line, names of letters, digits, hyphens.

    Example:
        >>> plain_head(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n").all("content-length")
        ['2']
    """
    lines = data.decode("latin-1").split("\r\n")
    text = "".join(lines)
    if not (text.isascii() and text.isprintable()) or len(text) > _MAX_LINE or len(lines) > _MAX_HEADERS:
        return None
    version, _, rest = lines[0].partition(" ")
    status, _, reason = rest.partition(" ")
    if version not in ("HTTP/1.0", "HTTP/1.1") or not (len(status) == 3 and status.isdigit() and status >= "200"):
        return None
    headers = []
    for line in lines[1:-1]:
        name, colon, value = line.partition(":")
        if not colon or not name.replace("-", "x").isalnum():
            return None
        headers.append((name, value.lstrip()))
    return Head(10 if version == "HTTP/1.0" else 11, int(status), reason.strip(), headers)


class _Lines:
    """The connection as `http.client` reads a head from it; `data` is what was received and not read yet."""

    def __init__(self, wire: Wire, data: bytes) -> None:
        self.wire = wire
        self.data = data

    def makefile(self, mode: str) -> _Lines:
        return self

    def readline(self, limit: int) -> bytes:
        """The next line. `http.client` refuses one of more than `limit` bytes."""
        while b"\n" not in self.data and len(self.data) < limit:
            block = self.wire.receive()
            if not block:
                break
            self.data += block
            if self.wire.received > _MAX_HEAD:
                raise ProtocolError(f"expected a response, got headers of more than {_MAX_HEAD} bytes")
        line, newline, self.data = self.data.partition(b"\n")
        return line + newline

    def close(self) -> None:
        """Nothing: `http.client` lets go of a connection before the body was read."""

    flush = close


def _other_head(lines: Any, method: str) -> Tuple[Head, bytes]:
    from http.client import HTTPResponse

    response = HTTPResponse(lines, method=method)
    response.begin()
    if lines.wire.ended:  # http.client takes the end of the connection for the end of the headers
        raise ConnectionLostError("the connection was closed in the middle of the headers of a response")
    if response.headers.get_payload():  # email.parser takes what follows a malformed line for a body
        raise ProtocolError("expected headers, got a line that is none")
    if response.status < 200:
        raise ProtocolError(f"expected a final response, got HTTP {response.status}")
    return Head(response.version, response.status, response.reason, response.headers.items()), lines.data
