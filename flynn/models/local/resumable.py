"""The lines of a streamed answer. After a cut they go on from another connection, if the answer is resumable.

The header `X-Conversation-Id` makes llama-server keep the bytes of its answer under that name. It then replays them
from any byte on. It no longer stops generating when its client disconnects, only when the answer is deleted by name
(`tools/server/server-stream.cpp` in ggml-org/llama.cpp). A server that is too old for this ignores the header.

The position in a stream is the number of bytes of all whole lines received. A cut drops the incomplete line; a new
request asks for the bytes from the position on, so the reader of the lines notices nothing.
"""

from __future__ import annotations

import enum
import os
import threading
import time
from typing import Iterator, Mapping, Optional
from urllib.parse import quote

from ...errors import ConnectionLostError, FlynnError, ServerError, ServerNotRunningError
from ...http.checks import check_headers
from ...http.limits import Call
from ...http.response import Response
from .transport import MAX_ERROR, OWN, Routes, Transport

_EVENT_STREAM = "text/event-stream"
# Seconds between two attempts to resume; doubled each time.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
# Seconds during which 404 is not final: a cut may be seen before the server begins to handle the request.
_UNKNOWN_FOR = 1.0
# Seconds that the server may take to begin with a request, and to answer the request to delete its answer.
_END_TIMEOUT = 3.0


class State(enum.Enum):
    """The life of a stream. It moves from a state to a later one, never back."""

    NEW = "the request was not sent yet"
    OPEN = "the answer is being read"
    DONE = "the answer is complete"
    ABORTED = "ended early; the server was not told yet"
    CLOSED = "ended early, and the server was told"


class ResumableBody:
    """The body of a streamed answer.

    One thread reads (`open`, `lines`, `finish`); any thread may `abort` and `close`.

    Args:
        transport: sends requests.
        path, body: the request: a POST, or a GET if there is no body.
        timeout: longest silence, in seconds.
        headers: sent with each request, besides the client's.
        name: the name under which the server keeps the answer; empty if a cut is final.
        resume_for: seconds to try to resume after a cut.

    Attributes:
        state: where in its life the stream is.
        position: bytes of all whole lines received.
        resumes: how often the connection was cut and replaced.
        lost: why the last connection was lost, without its traceback, which would refer to this object; None if a body
            ended too early.
        call: the limits of the stream.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        body: Optional[bytes] = None,
        *,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
        name: str = "",
        resume_for: float = 0.0,
    ) -> None:
        self.state = State.NEW
        self.position = 0
        self.resumes = 0
        self.lost: Optional[FlynnError] = None
        self._transport = transport
        self._path = path
        self._body = body
        self._headers = check_headers(headers)
        self._name = name
        self._resume_for = resume_for
        self.call = transport.call(timeout, whole=False)
        self._response: Optional[Response] = None
        self._kept = False  # whether the server may keep the answer
        self._resumed_from = 0  # the position where the current response begins
        self._cut_at = 0.0  # when the last bytes were received (`time.monotonic`)
        self._pause = 0.0  # seconds before the next attempt to resume
        self._changing = threading.RLock()  # reentrant: a signal handler may close the stream that it interrupts

    def open(self) -> None:
        """Send the request. Raises what `Transport.send` raises, except for a lost connection: `lines` resumes it."""
        if not self._change(State.OPEN, State.NEW):
            return
        self._kept = bool(self._name)
        session = {"X-Conversation-Id": self._name} if self._name else {}
        try:
            self._response = self._transport.send(
                self.call,
                "GET" if self._body is None else "POST",
                self._path,
                self._body,
                kind=_EVENT_STREAM,
                headers={**self._headers, **session},
                streamed=True,
            )
        except ConnectionLostError as error:
            self.lost = error.with_traceback(None)
        except (ServerNotRunningError, ServerError):
            self._kept = False
            raise

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, each with its line feed. Ends when the stream cannot go on; `lost` then says why."""
        response = self._response
        while response is not None or (response := self._resume()):
            self.lost = None
            try:
                for line in response.lines():
                    self.position += len(line)
                    yield line
            except ConnectionLostError as error:
                self.lost = error.with_traceback(None)
            response = None
            why, resume_for = self.lost or "the body ended too early", self._resume_for if self._name else 0.0
            self.call.report("cut", position=self.position, error=why, resume_for=resume_for)

    def finish(self) -> None:
        """The answer is complete: delete what the server keeps of it."""
        if self._change(State.DONE, State.OPEN):
            self._delete()

    def disconnect(self) -> None:
        """Close the connection. Never while another thread reads: the descriptor could be reused under it."""
        if self._response is not None:
            self._response.close()

    def abort(self) -> None:
        """End the stream without blocking, from any thread. Call `close` afterwards: it tells the server."""
        if self._change(State.ABORTED, State.NEW, State.OPEN):
            self.call.abort()

    def close(self) -> None:
        """End the stream and make the server stop generating, from any thread. Closing twice is fine.

        In a forked child nothing is sent: the stream belongs to the parent.
        """
        self.abort()
        if self._change(State.CLOSED, State.ABORTED) and self.call.is_ours:
            self._delete()

    def _change(self, state: State, *before: State) -> bool:
        """Move to a state if the stream is in one of those `before`. Returns whether it was."""
        with self._changing:
            if self.state not in before:
                return False
            self.state = state
            return True

    # --- resuming -----------------------------------------------------------------------------------------------------

    def _resume(self) -> Optional[Response]:
        """Request the rest of the answer on a new connection. Returns None if that is impossible."""
        if not self._cut_at or self.position > self._resumed_from:
            self._cut_at, self._pause = time.monotonic(), 0.0
        elif self.lost is None:
            return None  # the replay ended at once: the server has no more bytes
        while self._name:
            self.call.pause(self._pause)
            self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            if time.monotonic() >= self._cut_at + self._resume_for:
                break
            try:
                self._response = self._replay(self.call, self.position)
                self.resumes += 1
                self._resumed_from = self.position
                self.call.report("resume", position=self.position)
                return self._response
            except (ServerNotRunningError, ConnectionLostError) as error:
                self.lost = error.with_traceback(None)
            except ServerError as error:
                self.lost = error.with_traceback(None)
                unknown_yet = error.status == 404 and not self.position
                if unknown_yet and time.monotonic() < self._cut_at + _UNKNOWN_FOR:
                    continue
                if error.status is not None and error.status < 500:
                    break
        return None

    @property
    def _kept_at(self) -> str:
        return f"/v1/stream?conv_id={quote(self._name, safe='')}"

    def _replay(self, call: Call, position: int) -> Response:
        """Request the answer from a byte on."""
        path = f"{self._kept_at}&from={position}"
        return self._transport.send(
            call, "GET", path, kind=_EVENT_STREAM, headers=self._headers, patient=False, streamed=True
        )

    def _delete(self) -> None:
        """Make the server stop generating and forget the answer, if it may keep one."""
        if self._kept:
            self._kept = False
            if self._response is None:
                self._wait_until_begun()
            self._ask_to_delete()

    def _ask_to_delete(self) -> None:
        """Send the request to delete the answer. A failure is not an error: the server is gone, or too old.

        llama-server answers 204 whether it has the stream or not, so 404 means that the route is missing, as behind a
        proxy that does not pass it on. From then on no stream of this client gets a name, and closing its connection
        stops it.
        """
        if self._transport.resumable:
            call = Call(_END_TIMEOUT, whole=True, scoped=False)
            try:
                response = self._transport.send(call, "DELETE", self._kept_at, headers=self._headers, patient=False)
                response.read_all(MAX_ERROR)
            except ServerError as error:
                self._transport.resumable = error.status != 404
            except FlynnError:
                pass

    def _wait_until_begun(self) -> None:
        """Wait until the server handles the request: if the answer was deleted earlier, it would begin afterwards."""
        call = Call(_END_TIMEOUT, whole=True, scoped=False)
        deleted = False
        while self._transport.resumable:
            try:
                return self._replay(call, 0).close()
            except ServerError as error:
                if error.status != 404:
                    return None
                if not deleted:
                    deleted = True
                    self._ask_to_delete()  # shows whether the server has the route at all
            except FlynnError:
                return None
            time.sleep(_FIRST_PAUSE)

    @property
    def why_lost(self) -> str:
        """Why the stream could not go on, in words; empty if the reason is unknown."""
        if isinstance(self.lost, ServerError) and self.lost.status == 404:
            return "the server has no such stream any more: it was restarted, or it cannot resume streams"
        return str(self.lost or "")


class StreamRoutes(Routes):
    """Routes whose answers are streamed, with the client's defaults for `resume` and `resume_for`."""

    _resume: bool
    _resume_for: float

    def _stream(
        self,
        path: str,
        body: bytes,
        model: Optional[str],
        timeout: Optional[float],
        headers: Optional[Mapping[str, str]],
        resume: Optional[bool],
        resume_for: Optional[float],
    ) -> ResumableBody:
        """Return the body of a streamed answer. `resume` and `resume_for` are the client's where they are None."""
        name = ""
        if self.transport.resumable and (self._resume if resume is None else resume):
            name = os.urandom(18).hex()  # unguessable: nothing else protects the answer from other clients
            if model and model.isascii() and model.isprintable():
                name += f"::{model}"  # a server with several models takes it from this one
        resume_for = self._resume_for if resume_for is None else resume_for
        return ResumableBody(
            self.transport, path, body, timeout=timeout, headers=headers, name=name, resume_for=resume_for
        )
