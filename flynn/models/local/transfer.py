"""The bytes of one streamed answer, over one connection or, if it is to be resumed, over as many as it takes.

llama-server keeps a stream whose request has the header `X-Conversation-Id` under that name: it replays it from any
byte of its body, and no longer stops when its client goes away, only when it is deleted by name
(`tools/server/server-stream.cpp` in ggml-org/llama.cpp). So what a cut costs is a request for byte N, N being the
number of bytes that came; whoever reads the stream notices nothing. A server that is too old for it ignores the header.
"""

from __future__ import annotations

import time
from urllib.parse import quote  # here: a stream left open ends with the interpreter, when nothing can be imported

from ...errors import ConnectionLostError, FlynnError, RequestTimeoutError, ServerError, ServerNotRunningError
from ...http.call import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

    from ...http.connection import Response
    from .transport import Transport

# Seconds.
_FIRST_PAUSE = 0.05  # doubled after each fruitless attempt
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
        transport: sends requests.
        call: the limits.
        path, body: of the request: POST, or GET if there is no body.
        session: the name under which the stream can be resumed, unguessable, as it is all that protects the stream from
            the server's other clients; empty if a cut is final.
        resume_for: seconds for which reaching the server again is tried after a cut.
    """

    def __init__(
        self, transport: Transport, call: Call, path: str, body: Optional[bytes], session: str, resume_for: float
    ) -> None:
        self.position = 0  # bytes of the body that came
        self.resumes = 0
        self.cut: Optional[FlynnError] = None  # what ended the stream, where it was not the server
        self._transport = transport
        self._call = call
        self._path = path
        self._body = body
        self._session = session
        self._resume_for = resume_for
        self._response: Optional[Response] = None
        self._response_start = 0  # the position at which the current response began
        self._cut_at = 0.0  # when the bytes stopped coming
        self._pause = 0.0  # before the next attempt to go on
        self._sent = False
        self._hung = False

    def open(self) -> None:
        """Send the request; raises a ConnectionLostError if the answer could not be resumed before it began."""
        headers = {"X-Conversation-Id": self._session} if self._session else {}
        self._sent = True
        try:
            self._send("GET" if self._body is None else "POST", self._path, self._body, headers=headers)
        except ConnectionLostError:
            if not self._reconnect():
                raise
        except (ServerNotRunningError, ServerError):
            self._sent = False  # or refused: then the server keeps nothing
            raise
        except RequestTimeoutError:
            self._hung = True
            raise

    def read(self) -> bytes:
        """The next bytes; empty when no more are to be had."""
        while self._response is not None:
            lost = None
            try:
                block = self._response.read_block()
                if block:
                    self.position += len(block)
                    return block
            except RequestTimeoutError:
                self._hung = True
                raise
            except ConnectionLostError as error:
                lost = self.cut = error
            if lost is None and self.position == self._response_start and self.resumes:
                break  # the server has no more than what came
            if not self._reconnect():
                break
        return b""

    def read_ready(self) -> bytes:
        """The next bytes, if they are there; empty if they are not, or `read` has to see to what is."""
        block = self._response.read_ready() if self._response is not None else b""
        self.position += len(block)
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

    def _send(self, method: str, path: str, body: Optional[bytes] = None, **how: Any) -> None:
        self._response = self._transport.send(self._call, method, path, body, kind="text/event-stream", **how)
        self._response_start = self.position

    def _reconnect(self) -> bool:
        """Go on from the byte after the last one that came; False if that cannot be done."""
        if not self._session:
            return False
        if not self._cut_at or self.position > self._response_start:
            self._cut_at, self._pause = time.monotonic(), 0.0
        while True:
            self._call.pause(self._pause)
            self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            if time.monotonic() >= self._cut_at + self._resume_for:
                return False
            try:
                self._send("GET", f"{self.kept_at}&from={self.position}", wait_for_model=False)
                self.resumes += 1
                return True
            except ServerError as error:
                self.cut = error
                may_begin = error.status == 404 and not self.position and time.monotonic() < self._cut_at + _UNKNOWN_FOR
                if error.status is not None and error.status < 500 and not may_begin:
                    return False
            except (ServerNotRunningError, ConnectionLostError) as error:
                self.cut = error

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
        if self._response is None and self._sent and self._session:
            # What the server has not begun to handle, it cannot forget: it would begin after that.
            timeout = _HUNG_TIMEOUT if self._hung else _BEGIN_TIMEOUT
            give_up = time.monotonic() + timeout
            while time.monotonic() < give_up and self._is_unknown(timeout):
                time.sleep(_FIRST_PAUSE)
        self._delete()

    def dispose(self) -> None:
        """Close the connection of a stream that has ended. Not while a thread reads."""
        if self._response is not None:
            self._response.close()

    @property
    def kept_at(self) -> str:
        """Where the stream is replayed and deleted."""
        return f"/v1/stream?conv_id={quote(self._session, safe='')}"

    def _is_unknown(self, timeout: float) -> bool:
        """Whether the server says that it has no such stream, as long as it has not begun."""
        try:
            self._ask("GET", f"{self.kept_at}&from=0", timeout)
        except ServerError as error:
            return error.status == 404 and str(error) != "File Not Found"  # so says one that is too old to have any
        except FlynnError:
            pass
        return False

    def _delete(self) -> None:
        """Stop the generation and free what the server keeps of it; nothing else does.

        Failing to is no error of the generation's: the server is gone, or too old to know its name.
        """
        if self._session and self._sent:
            try:
                self._ask("DELETE", self.kept_at, _HUNG_TIMEOUT if self._hung else _DELETE_TIMEOUT)
            except FlynnError:
                pass

    def _ask(self, method: str, path: str, timeout: float) -> None:
        call = Call(timeout, whole=True, scoped=False)
        self._transport.send(call, method, path, wait_for_model=False).close()
