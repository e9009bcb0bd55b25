"""A response whose body is read by lines, or whole up to a limit.

`http.client` reads the head. For the body it accepts what the grammar does not (`-1`, `0x1f` and `1_0` as the size of a
chunk, any transfer coding) and limits neither lines nor trailers. So the framing of RFC 9112 sections 6 and 7 is read
here, with `readline` and `read` of the same buffered file.
"""

from __future__ import annotations

import functools
import http.client
from typing import Callable, Iterator, List, Optional

from ..errors import ConnectionLostError, ProtocolError

MAX_LINE = 64 * 1024 * 1024  # bytes of a line of the body
MAX_CHUNK_LINE = 4096  # bytes of the line with the size of a chunk, extensions included
MAX_TRAILER = 64 * 1024  # bytes
_BLOCK = 64 * 1024  # bytes
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_LINE_ENDS = (b"\r\n", b"\n")


class Response(http.client.HTTPResponse):
    """A response, as `http.client.HTTPConnection.getresponse` returns it, its head read and checked.

    Attributes:
        status, reason, headers: as `http.client` has them.
        on_end: called once: with True when the body is complete and the connection can be reused, with False when it
            cannot.
    """

    on_end: Optional[Callable[[bool], None]] = None

    def begin(self) -> None:
        """Read the head.

        Raises:
            ConnectionLostError: the connection ended in the middle of it.
            ProtocolError, http.client.HTTPException: the bytes are not a response head, or an ambiguous one.
        """
        super().begin()
        self._connection = self.fp.raw.limited  # type: ignore[attr-defined]
        if self._connection.ended:  # http.client takes the end of the connection for the end of the headers
            raise ConnectionLostError("expected an HTTP response, but the connection was closed in the middle of it")
        self._connection.in_head = False
        # email.parser takes what follows a malformed line for a body. A NUL is invalid: RFC 9110 section 5.5.
        if self.headers.defects or any("\0" in value for value in self.headers.values()):
            raise ProtocolError("expected headers, got a line that is not one")
        if self.status < 200:
            raise ProtocolError(f"expected a final response, got HTTP {self.status}")
        coding = self.headers.get_all("transfer-encoding", [])
        if coding and [value.strip().lower() for value in coding] != ["chunked"]:
            raise ProtocolError(f"expected the transfer coding 'chunked', got {', '.join(coding)!r}")
        lengths = self.headers.get_all("content-length", [])
        values = {value.strip() for line in lengths for value in line.split(",")}
        if len(values) > 1 or not all(value.isascii() and value.isdigit() and len(value) < 19 for value in values):
            raise ProtocolError(f"expected one number as Content-Length, got {', '.join(lengths)!r}")
        if values and self.length is None and not self.chunked:  # http.client does not read "5, 5" as a number
            self.length = int(values.pop())
        # http.client reads only the first header, and would close the connection before the body is read.
        closes = "close" in ",".join(self.headers.get_all("connection", [])).lower()
        self._is_last, self.will_close = self.will_close or closes, False
        if self.length == 0:  # also for a 204, a 304 and the answer to a HEAD, whatever their headers say
            self.chunked = False

    @property
    def content_type(self) -> str:
        """The media type, without parameters, in lower case; empty if there is none."""
        return (self.headers.get("content-type") or "").split(";")[0].strip().lower()

    def lines(self, limit: int = MAX_LINE) -> Iterator[bytes]:
        """Yield the lines of the body, each with its line feed, as soon as it is complete.

        Of the bytes after the last line feed, those up to the last CR are yielded, as in a text without line feeds: a
        CR may end a line too. Closing the iterator early closes the connection.

        Args:
            limit: longest line, in bytes.

        Raises:
            ConnectionLostError: the connection ended before the body did.
            RequestTimeoutError: the limit of the call has passed.
            ProtocolError: a line is longer than `limit`, or the framing is invalid.
        """
        begun: List[bytes] = []  # the pieces of a line that spans several chunks
        size = 0
        try:
            for piece in self._pieces(self.fp.readline, limit + 1):
                if not begun and piece.endswith(b"\n"):
                    yield piece
                    continue
                begun.append(piece)
                size += len(piece)
                if size > limit:
                    raise ProtocolError(f"expected a line of at most {limit} bytes, got a longer one")
                if piece.endswith(b"\n"):
                    yield b"".join(begun)
                    begun, size = [], 0
            rest = b"".join(begun)
            if end := rest.rfind(b"\r") + 1:
                yield rest[:end]
        finally:
            self.close()

    def read_all(self, limit: int) -> bytes:
        """Read all of the body. Raises what `lines` raises, a ProtocolError if it has more than `limit` bytes."""
        pieces: List[bytes] = []
        size = 0
        try:
            for piece in self._pieces(self.fp.read, _BLOCK) if self.fp else ():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise ProtocolError(f"expected a response of at most {limit} bytes, got more")
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Close the response, and its connection unless the body is complete."""
        self._end(reusable=False)

    # --- framing ------------------------------------------------------------------------------------------------------

    def _pieces(self, read: Callable[[int], bytes], most: int) -> Iterator[bytes]:
        """Yield the body in pieces, then end the response.

        Args:
            read: `read` or `readline` of the connection's file.
            most: largest piece, in bytes.
        """
        readline = self.fp.readline
        if self.chunked:
            while left := _chunk_size(readline(MAX_CHUNK_LINE)):
                while left:
                    piece = read(left if left < most else most)
                    if not piece:
                        raise _cut("the last chunk is")
                    left -= len(piece)
                    yield piece
                if (end := readline(2)) not in _LINE_ENDS:
                    raise ProtocolError(f"expected the end of a chunk, got {end!r}") if end[1:] else _cut("its end is")
            self._read_trailer()
        elif self.length is not None:
            left = self.length
            while left:
                piece = read(min(left, most))
                if not piece:
                    raise _cut(f"{left} of {self.length} bytes are")
                left -= len(piece)
                yield piece
        else:  # the body ends where the connection ends
            while piece := read(most):
                yield piece
        # With bytes after the body, the connection is closed: the next call would take them for its answer.
        self._connection.draining = True
        self._end(reusable=not self._is_last and not self.fp.peek(1))

    def _read_trailer(self) -> None:
        left = MAX_TRAILER
        while (line := self.fp.readline(left)) not in _LINE_ENDS:
            left -= len(line)
            if left <= 0:
                raise ProtocolError(f"expected the end of the response, got a trailer of {MAX_TRAILER} bytes and more")
            if not line.endswith(b"\n"):
                raise _cut("the end of the trailer is")

    def _end(self, *, reusable: bool) -> None:
        super().close()
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(reusable)


@functools.lru_cache(maxsize=256)  # the chunks of a stream have few different sizes
def _chunk_size(line: bytes) -> int:
    """Return the size in chunk-size [ chunk-ext ] CRLF (RFC 9112 section 7.1). A bare LF is fine too (section 2.2)."""
    digits = line.partition(b";")[0].rstrip()
    if not line.endswith(b"\n"):
        if len(line) < MAX_CHUNK_LINE:
            raise _cut("the last chunk is")
        raise ProtocolError(f"expected the size of a chunk, got a line of {MAX_CHUNK_LINE} bytes and more")
    if not 0 < len(digits) < 16 or digits.translate(None, _HEX_DIGITS):
        raise ProtocolError(f"expected the size of a chunk, got {line[:40]!r}")
    return int(digits, 16)


def _cut(missing: str) -> ConnectionLostError:
    return ConnectionLostError(f"expected a whole response, but it was cut: {missing} missing")
