"""The lines of a streamed answer: from one connection or, if it can be resumed, after cuts from as many as it takes.

A request with the header `X-Conversation-Id` makes llama-server keep the bytes of its answer under that name. It then
replays them from any byte on, and no longer stops when its client goes away, only when the answer is deleted by name
(`tools/server/server-stream.cpp` in ggml-org/llama.cpp). A server that is too old for it ignores the header.

The position in a stream is the number of bytes of the whole lines that came. A cut drops the line that had begun, and
costs a request for the bytes from the position on; whoever reads the lines notices nothing.
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
# Seconds for which 404 is no answer: a cut may be seen before the server has begun to handle the request.
_UNKNOWN_FOR = 1.0
# Seconds that the server may take to begin with a request, and to be told that its answer is not wanted any more.
_END_TIMEOUT = 3.0


class State(enum.Enum):
    """The life of a stream. It goes on from each state to a later one, and never back."""

    NEW = "the request was not sent yet"
    OPEN = "the answer is coming"
    DONE = "the answer is complete"
    ABORTED = "ended before its end; the server does not know it yet"
    CLOSED = "ended before its end, and the server knows"


class ResumableBody:
    """The body of a streamed answer.

    One thread reads (`open`, `lines`, `finish`); any thread may `abort` and `close`.

    Args:
        transport: sends requests.
        timeout: seconds of silence.
        path, body: of the request: a POST, or a GET if there is no body.
        headers: sent with each request, besides the client's.
        name: under which the server keeps the answer; empty if a cut is final.
        resume_for: seconds for which reaching the server again is tried after a cut.

    Attributes:
        state: what was done and what comes next.
        position: bytes of the whole lines that came.
        resumes: how often the connection was cut and replaced.
        lost: why the last connection was lost, without its traceback, which would refer to this object; None if a body
            ended where it should not.
        report: tells what happens to logs and traces.
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
        self._call = transport.call(timeout, whole=False)
        self.report = self._call.report
        self._response: Optional[Response] = None
        self._kept = False  # whether the server may keep the answer
        self._resumed_from = 0  # the position at which the current response began
        self._cut_at = 0.0  # when bytes stopped coming, by `time.monotonic`
        self._pause = 0.0  # seconds before the next attempt to resume
        self._changing = threading.RLock()  # reentrant: a signal's handler may close the stream that it interrupts

    def open(self) -> None:
        """Send the request. Raises what `Transport.send` raises, but for a lost connection that can be resumed."""
        if not self._change(State.OPEN, State.NEW):
            return
        self._kept = bool(self._name)
        session = {"X-Conversation-Id": self._name} if self._name else {}
        try:
            self._response = self._transport.send(
                self._call,
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
        """Yield the lines, each with its line feed. Ends when no more can be had; `lost` then says why."""
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
            self.report("cut", position=self.position, error=self.lost or "the body ended too early")

    def finish(self) -> None:
        """The answer is complete: let go of the connection, which llama-server closes too, and of what it keeps."""
        if self._change(State.DONE, State.OPEN):
            self._delete()

    def disconnect(self) -> None:
        """Close the connection. Not while a thread reads: its descriptor might be another connection's by then."""
        if self._response is not None:
            self._response.close()

    def abort(self) -> None:
        """End the stream without waiting for anything, from any thread; `close` has to follow, and tells the server."""
        if self._change(State.ABORTED, State.NEW, State.OPEN):
            self._call.abort()

    def close(self) -> None:
        """End the stream and make the server stop generating, from any thread. Closing twice is fine.

        In a process that was forked off nothing is sent: the stream is its parent's.
        """
        self.abort()
        if self._change(State.CLOSED, State.ABORTED) and self._call.is_ours:
            self._delete()

    def _change(self, state: State, *before: State) -> bool:
        """Go on to another state, if the stream is in one of those before it; return whether it was."""
        with self._changing:
            changes = self.state in before
            if changes:
                self.state = state
            return changes

    # --- resuming -----------------------------------------------------------------------------------------------------

    def _resume(self) -> Optional[Response]:
        """Go on from the position, on another connection. Returns None if that cannot be done."""
        if not self._cut_at or self.position > self._resumed_from:
            self._cut_at, self._pause = time.monotonic(), 0.0
        elif self.lost is None:
            return None  # a replay that ends at once: the server has no more of it
        while self._name:
            self._call.pause(self._pause)
            self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            if time.monotonic() >= self._cut_at + self._resume_for:
                break
            try:
                self._response = self._replay(self._call, self.position)
                self.resumes += 1
                self._resumed_from = self.position
                self.report("resume", position=self.position)
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
        """Ask for the answer from a byte on."""
        path = f"{self._kept_at}&from={position}"
        return self._transport.send(
            call, "GET", path, kind=_EVENT_STREAM, headers=self._headers, patient=False, streamed=True
        )

    def _delete(self) -> None:
        """Make the server stop generating and forget the answer. Nothing else does."""
        if self._kept:
            self._kept = False
            if self._response is None:
                self._wait_until_begun()
            self._ask_to_delete()

    def _ask_to_delete(self) -> None:
        """Send the request to delete the answer. Failing to is not an error: the server is gone, or too old.

        llama-server answers 204 whether it has the stream or not, so 404 means that the route is missing. A proxy that
        lacks it does not pass on that a stream is to be stopped. So no stream is named any more, and closing its
        connection stops it.
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
        """Wait until the server handles the request. An answer that was deleted before would be begun afterwards."""
        call = Call(_END_TIMEOUT, whole=True, scoped=False)
        asked = False
        while self._transport.resumable:
            try:
                return self._replay(call, 0).close()
            except ServerError as error:
                if error.status != 404:
                    return None
                if not asked:
                    asked = True
                    self._ask_to_delete()  # shows whether there is any use in waiting
            except FlynnError:
                return None
            time.sleep(_FIRST_PAUSE)

    @property
    def why_lost(self) -> str:
        """Why the stream could not go on, in words; empty if nobody knows."""
        if isinstance(self.lost, ServerError) and self.lost.status == 404:
            return "the server has no such stream any more: it was restarted, or it cannot resume streams"
        return str(self.lost or "")


class StreamRoutes(Routes):
    """Routes whose answers are streamed. How they are resumed is the client's default, unless a call says otherwise."""

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
        """Return the body of a streamed answer; None stands for the client's own setting."""
        name = ""
        if self.transport.resumable and (self._resume if resume is None else resume):
            name = os.urandom(18).hex()  # unguessable: it is all that protects the answer from other clients
            if model and model.isascii() and model.isprintable():
                name += f"::{model}"  # a server with several models asks this one for it
        resume_for = self._resume_for if resume_for is None else resume_for
        return ResumableBody(
            self.transport, path, body, timeout=timeout, headers=headers, name=name, resume_for=resume_for
        )
