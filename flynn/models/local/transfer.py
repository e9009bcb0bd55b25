"""The bytes of one streamed answer, over one connection or, if it is to be resumed, over as many as it takes.

llama-server replays a stream from any byte of its body (see `session`). So what a cut costs is a request for byte
N, N being the number of bytes that came; whoever reads the stream notices nothing.
"""

from __future__ import annotations

import time

from ...errors import (
    ConnectionLostError,
    FlynnError,
    ProtocolError,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from ...http.call import Call
    from ...http.connection import Response
    from .session import Send, Session

_FIRST_PAUSE = 0.05  # seconds; doubled after each fruitless attempt
_LONGEST_PAUSE = 2.0
_DELETE_TIMEOUT = 5.0
_BEGIN_TIMEOUT = 3.0
_HUNG_TIMEOUT = 0.5  # where the stream has used up its timeout already
_DRAIN_TIMEOUT = 1.0
# A cut may be seen before the server has begun to handle the request; until then it answers 404 for its stream.
_UNKNOWN_FOR = 1.0


class Transfer:
    """One streamed answer, as bytes.

    Args:
        send: sends a request.
        call: its limits.
        path, body: of the request: POST, or GET if there is no body.
        session: the name under which the stream can be resumed; None if a cut is final.
        resume_for: seconds for which reaching the server again is tried after a cut.
    """

    def __init__(
        self,
        send: Send,
        call: Call,
        path: str,
        body: Optional[bytes] = None,
        session: Optional[Session] = None,
        resume_for: float = 0.0,
    ) -> None:
        self.position = 0  # bytes of the body that came
        self.resumes = 0
        self.cut: Optional[FlynnError] = None  # what ended the stream, where it was not the server
        self._send = send
        self._call = call
        self._path = path
        self._body = body
        self._session = session
        self._resume_for = resume_for
        self._response: Optional[Response] = None
        self._response_start = 0  # the position at which the current response began
        self._cut_at = 0.0  # when the bytes stopped coming; 0 while they come
        self._pause = _FIRST_PAUSE
        self._sent = False
        self._hung = False

    def open(self) -> None:
        """Send the request.

        Raises:
            ConnectionLostError: the connection was cut before the answer began and the stream could not be resumed.
            FlynnError: as `send` does.
        """
        headers = {"Accept": "text/event-stream"}
        if self._session is not None:
            headers.update(self._session.headers)
        self._sent = True
        try:
            method = "GET" if self._body is None else "POST"
            self._take(self._send(self._call, method, self._path, self._body, headers))
        except ConnectionLostError as error:
            if not self._reconnect(error):
                raise
        except (ServerNotRunningError, ServerError):
            self._sent = False  # or refused: then the server keeps nothing
            raise
        except RequestTimeoutError:
            self._hung = True
            raise

    def read(self) -> bytes:
        """The next bytes; empty when no more are to be had."""
        while True:
            if self._response is None:
                return b""
            try:
                block = self._response.read_block()
                lost = None
            except RequestTimeoutError:
                self._hung = True
                raise
            except ConnectionLostError as error:
                block = b""
                lost = self.cut = error
            if block:
                self.position += len(block)
                self._cut_at = 0.0
                self._pause = _FIRST_PAUSE
                return block
            if lost is None and self.position == self._response_start and self.resumes:
                return b""  # the server has no more than what came
            if not self._reconnect(lost):
                return b""

    def read_ready(self) -> bytes:
        """The next bytes, if they are there; empty if they are not, or `read` has to see to what is."""
        block = self._response.read_ready() if self._response is not None else b""
        if block:
            self.position += len(block)
            self._cut_at = 0.0
            self._pause = _FIRST_PAUSE
        return block

    def fileno(self) -> int:
        """The descriptor that tells when `read_ready` has something; -1 if that takes `read`."""
        return self._response.fileno() if self._response is not None else -1

    @property
    def timeout(self) -> Optional[float]:
        """Seconds that the wire may be silent."""
        return self._call.timeout

    def expire(self) -> None:
        """The wire was silent for too long: `read` is to say so."""
        self._call.end_within(0)

    def _take(self, response: Response) -> None:
        if response.content_type != "text/event-stream":
            response.close()
            raise ProtocolError(f"expected an event stream, got {response.content_type or 'no content type'!r}")
        self._response = response
        self._response_start = self.position

    def _reconnect(self, cut: Optional[FlynnError]) -> bool:
        """Go on from the byte after the last one that came; False if that cannot be done."""
        session = self._session
        if session is None:
            return False
        now = time.monotonic()
        if self._cut_at:
            self._call.pause(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._cut_at = self._cut_at or now
        while time.monotonic() < self._cut_at + self._resume_for:
            path = f"{session.path}&from={self.position}"
            try:
                self._take(self._send(self._call, "GET", path, wait_for_model=False))
                self.resumes += 1
                return True
            except ServerError as error:
                self.cut = error
                may_begin = error.status == 404 and not self.position and time.monotonic() < self._cut_at + _UNKNOWN_FOR
                if error.status is not None and error.status < 500 and not may_begin:
                    return False
            except (ServerNotRunningError, ConnectionLostError) as error:
                self.cut = error
            self._call.pause(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return False

    def finish(self) -> None:
        """All that matters has come: free the connection for others, and what the server keeps."""
        self._call.end_within(_DRAIN_TIMEOUT)
        if self._response is not None:
            self._response.drain()
        self._delete()

    def interrupt(self) -> None:
        """End the connection, from any thread, without waiting: a thread that reads the stream comes back."""
        self._call.abort()

    def close(self) -> None:
        """Make the server stop generating, after `interrupt`."""
        if self._response is None and self._sent and self._session is not None:
            # What the server has not begun to handle, it cannot forget: it would begin after that.
            timeout = _HUNG_TIMEOUT if self._hung else _BEGIN_TIMEOUT
            give_up = time.monotonic() + timeout
            while time.monotonic() < give_up and self._session.is_unknown(self._send, timeout):
                time.sleep(_FIRST_PAUSE)
        self._delete()

    def dispose(self) -> None:
        """Close the connection of a stream that has ended. Not while a thread reads."""
        if self._response is not None:
            self._response.close()

    def _delete(self) -> None:
        if self._session is not None and self._sent:
            self._session.delete(self._send, _HUNG_TIMEOUT if self._hung else _DELETE_TIMEOUT)
