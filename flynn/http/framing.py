"""Where a response's body ends (RFC 9112 section 6): bytes of the connection in, bytes of the body out. No I/O.

`http.client` reads chunks with a call for each line and each piece, and takes `-1`, `0x1f` and `1_0` for chunk sizes;
this decoder takes whole blocks as they come from the socket, and only what the grammar allows.
"""

from __future__ import annotations

from ..errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Union

    from .head import Head

    Body = Union["SizedBody", "ChunkedBody", "OpenBody"]

MAX_CHUNK_LINE = 4096
MAX_TRAILER = 65536

_MANY = 1000
_HEX_DIGITS = b"0123456789abcdefABCDEF"


def body_of(head: Head) -> Body:
    """The decoder for the body of a response.

    Raises:
        ProtocolError: Content-Length or Transfer-Encoding is not what RFC 9112 section 6.3 allows.
    """
    if head.status in (204, 304):
        return SizedBody(0)
    coding = head.all("transfer-encoding")
    if coding:
        if [value.strip().lower() for value in coding] != ["chunked"]:
            raise ProtocolError(f"expected the transfer coding 'chunked', got {', '.join(coding)!r}")
        return ChunkedBody()
    lengths = head.all("content-length")
    if not lengths:
        return OpenBody()
    values = {value.strip() for line in lengths for value in line.split(",")}
    value = values.pop()
    if values or not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise ProtocolError(f"expected one number as Content-Length, got {', '.join(lengths)!r}")
    return SizedBody(int(value))


class SizedBody:
    """A body of Content-Length bytes."""

    def __init__(self, size: int) -> None:
        self.size = self._left = size
        self.complete = size == 0
        self.surplus = False

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in the next bytes of the connection."""
        if len(data) > self._left:
            self.surplus = True
            data = data[: self._left]
        self._left -= len(data)
        self.complete = not self._left
        return data

    def missing(self) -> Optional[str]:
        """What is missing if the connection ends here; None if the body may end."""
        return None if self.complete else f"{self._left} of {self.size} bytes are missing"


class OpenBody:
    """A body that ends with the connection. Whether it was cut nobody can tell."""

    complete = False
    surplus = False

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        return data

    def missing(self) -> Optional[str]:
        """Nothing: the end of the connection is the end of the body."""
        return None


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self.complete = False
        self.surplus = False
        self._left = 0  # bytes of the current chunk that are still to come
        self._rest = b""  # the beginning of a line whose end has not come yet
        self._ends = False  # whether the line that comes next is the one that ends a chunk
        self._sizes: Dict[bytes, int] = {}  # of chunks, by their lines
        self._trailer: Optional[int] = None  # bytes of the trailer section so far, once it has begun

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in the next bytes of the connection.

        Raises:
            ProtocolError: they are not chunks.
        """
        if not self._rest and 0 < len(data) < self._left:  # all of it inside one large chunk
            self._left -= len(data)
            return data
        pieces: List[bytes] = []
        data = self._rest + data
        self._rest = b""
        position = 0
        while position < len(data) and not self.complete:
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                self._ends = not self._left
                continue
            if not self._ends and self._trailer is None:
                position = self._whole_chunks(data, position, pieces)
            end = data.find(b"\n", position) + 1
            if not end:
                self._rest = data[position:]
                break
            self._line(data[position:end])
            position = end
        if len(self._rest) > MAX_CHUNK_LINE:
            raise ProtocolError(f"expected the size of a chunk, got a line of more than {MAX_CHUNK_LINE} bytes")
        self.surplus = self.complete and position < len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _whole_chunks(self, data: bytes, position: int, pieces: List[bytes]) -> int:
        """Take the chunks that are there whole and of a size that came before, as nearly all of a stream's are.

        Without these few lines the decoding of chunks takes three times as long.
        """
        while True:
            start = data.find(b"\n", position) + 1
            size = self._sizes.get(data[position:start])
            if not size or not data.startswith(b"\r\n", start + size):
                return position
            pieces.append(data[start : start + size])
            position = start + size + 2

    def _line(self, line: bytes) -> None:
        if self._ends:
            if line not in (b"\r\n", b"\n"):
                raise ProtocolError(f"expected the end of a chunk, got {line[:40]!r}")
            self._ends = False
        elif self._trailer is not None:
            self._trailer += len(line)
            if self._trailer > MAX_TRAILER:
                raise ProtocolError(f"expected the end of the response, got a trailer of more than {MAX_TRAILER} bytes")
            self.complete = line in (b"\r\n", b"\n")
        else:
            self._left = _chunk_size(line)
            if not self._left:
                self._trailer = 0
            elif len(self._sizes) < _MANY and len(line) < 8:
                self._sizes[line] = self._left

    def missing(self) -> Optional[str]:
        """What is missing if the connection ends here; None if the body may end."""
        return None if self.complete else "the last chunk is missing"


def _chunk_size(line: bytes) -> int:
    """chunk-size [ chunk-ext ] CRLF (section 7.1). A bare LF is taken as well, as section 2.2 allows."""
    digits, _, extension = line[: -2 if line.endswith(b"\r\n") else -1].partition(b";")
    digits = digits.rstrip(b" \t")
    if not 0 < len(digits) < 16 or digits.translate(None, _HEX_DIGITS) or b"\r" in extension:
        raise ProtocolError(f"expected the size of a chunk, got {line[:40]!r}")
    if len(line) > MAX_CHUNK_LINE:
        raise ProtocolError(f"expected the size of a chunk, got a line of more than {MAX_CHUNK_LINE} bytes")
    return int(digits, 16)
