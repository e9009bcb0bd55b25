"""A response whose body is read by lines, or whole up to a limit.

`http.client` reads the head. Of the body it would take what no grammar allows (`-1`, `0x1f` and `1_0` for the size of a
chunk, any coding) and set no limit to a line or a trailer, so the framing of RFC 9112 sections 6 and 7 is read here.
"""

from __future__ import annotations

import http.client
from typing import Callable, List, Optional

from ..errors import ConnectionLostError, ProtocolError

MAX_LINE = 64 * 1024 * 1024  # bytes of a line of the body
MAX_CHUNK_LINE = 4096  # bytes of the line with the size of a chunk, extensions included
MAX_TRAILER = 64 * 1024  # bytes
_BLOCK = 64 * 1024  # bytes
_HEX_DIGITS = b"0123456789abcdefABCDEF"


class Response(http.client.HTTPResponse):
    """A response, as `http.client.HTTPConnection.getresponse` returns it, its head read and checked.

    Attributes:
        status, reason, headers: as `http.client` has them.
        on_end: called once: with True when the body is complete and the connection free for another request, with False
            when the connection is of no use any more.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.on_end: Optional[Callable[[bool], None]] = None
        self._left: Optional[int] = 0  # bytes of the body, or of its current chunk; None until the connection ends
        self._size = ""  # of the body, for errors
        self._in_chunks = False  # whether a chunk was read, whose end comes next

    def begin(self) -> None:
        """Read the head.

        Raises:
            ConnectionLostError: the connection ended in the middle of it.
            ProtocolError, http.client.HTTPException: the bytes are not a head, or a head without a certain meaning.
        """
        super().begin()
        connection = self._connection = self.fp.raw.limited  # type: ignore[attr-defined]
        if connection.ended:  # http.client takes the end of the connection for the end of the headers
            raise ConnectionLostError("expected an HTTP response, but the connection was closed in the middle of it")
        connection.in_head = False
        if self.headers.get_payload():  # email.parser takes what follows a malformed line for a body
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
        if not self.chunked or self.length == 0:  # of a 204, a 304 and the answer to a HEAD, whatever they announce
            self.chunked = False
            self._left, self._size = self.length, f" of {self.length}"

    @property
    def content_type(self) -> str:
        """The media type, without parameters, in lower case; empty if there is none."""
        return (self.headers.get("content-type") or "").split(";")[0].strip().lower()

    def readline(self, limit: int = MAX_LINE) -> bytes:  # type: ignore[override]
        """Read the next line of the body as soon as all of it has come; b"" at the end of the body.

        Raises:
            ConnectionLostError: the connection ended before the body did.
            RequestTimeoutError: the limit of the call has passed.
            ProtocolError: the line is longer than `limit` bytes, or what came is not the body of a response.
        """
        pieces: List[bytes] = []
        size = 0
        try:
            while self._has_more():
                most = limit + 1 - size
                piece = self._took(self.fp.readline(most if self._left is None else min(self._left, most)))
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise ProtocolError(f"expected a line of at most {limit} bytes, got a longer one")
                if piece.endswith(b"\n"):
                    break
        except BaseException:
            self.close()
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_all(self, limit: int) -> bytes:
        """Read all of the body. Raises what `readline` raises, a ProtocolError if it has more than `limit` bytes."""
        pieces: List[bytes] = []
        size = 0
        try:
            while self._has_more():
                pieces.append(self._took(self.fp.read(_BLOCK if self._left is None else min(self._left, _BLOCK))))
                size += len(pieces[-1])
                if size > limit:
                    raise ProtocolError(f"expected a response of at most {limit} bytes, got more")
        except BaseException:
            self.close()
            raise
        return b"".join(pieces)

    def close(self) -> None:
        """Close the response, and its connection unless the body is complete."""
        self._end(reusable=False)

    # --- framing ------------------------------------------------------------------------------------------------------

    def _has_more(self) -> bool:
        """Whether more of the body is to come. Reads on to the next chunk; at the end frees the connection."""
        if self.fp is None:
            return False
        if self.chunked and self._left == 0:
            self._next_chunk()
        if self._left == 0:
            self._complete()
        return self.fp is not None

    def _took(self, piece: bytes) -> bytes:
        """Count a piece of the body."""
        if self._left is not None:
            if not piece:
                what = "the last chunk is" if self.chunked else f"{self._left}{self._size} bytes are"
                raise ConnectionLostError(f"expected a whole response, but it was cut: {what} missing")
            self._left -= len(piece)
        elif not piece:
            self._complete()
        return piece

    def _next_chunk(self) -> None:
        """chunk-size [ chunk-ext ] CRLF (RFC 9112 section 7.1). A bare LF is taken as well (section 2.2)."""
        if self._in_chunks and (end := self._framing_line(MAX_CHUNK_LINE)) not in (b"\r\n", b"\n"):
            raise ProtocolError(f"expected the end of a chunk, got {end[:40]!r}")
        self._in_chunks = True
        line = self._framing_line(MAX_CHUNK_LINE)
        digits, _, extension = line.rstrip(b"\r\n").partition(b";")
        digits = digits.rstrip(b" \t")
        if not 0 < len(digits) < 16 or digits.translate(None, _HEX_DIGITS):
            raise ProtocolError(f"expected the size of a chunk, got {line[:40]!r}")
        self._left = int(digits, 16)
        trailer = 0
        while not self._left and (line := self._framing_line(MAX_TRAILER)) not in (b"\r\n", b"\n"):
            trailer += len(line)
            if trailer > MAX_TRAILER:
                raise ProtocolError(f"expected the end of the response, got a trailer of more than {MAX_TRAILER} bytes")

    def _framing_line(self, limit: int) -> bytes:
        line: bytes = self.fp.readline(limit + 1)
        if len(line) > limit:
            raise ProtocolError(f"expected the size of a chunk, got a line of more than {limit} bytes")
        if not line.endswith(b"\n"):
            raise ConnectionLostError("expected a whole response, but it was cut: the last chunk is missing")
        return line

    def _complete(self) -> None:
        """The body is complete. Bytes after it make the connection useless: they would be the next call's answer."""
        self._connection.draining = True
        self._end(reusable=not self.will_close and not self.fp.peek(1))

    def _end(self, *, reusable: bool) -> None:
        super().close()
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(reusable)
