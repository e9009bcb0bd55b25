"""What a server sends piece by piece: an iterator of typed events that can be ended at any time, from any thread.

The position in a stream is the number of bytes of the whole lines that were read. A cut drops the line that had begun;
a stream that can be resumed goes on from the position, and whoever iterates notices nothing.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Iterator, List, Optional, Protocol, TypeVar

from ...errors import (
    ConnectionLostError,
    FlynnError,
    ServerError,
    ServerNotRunningError,
    StreamInterruptedError,
)
from ...http.limits import CallAborted
from ...http.response import Response
from ..types import ChatResponse, StreamEvent
from .session import EVENT_STREAM, Session
from .sse import SSEDecoder
from .transport import Transport

Self = TypeVar("Self", bound="ServerStream")

# Seconds between two attempts to resume; doubled each time.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
# Seconds for which 404 is no answer: a cut may be seen before the server has begun to handle the request.
_UNKNOWN_FOR = 1.0


class Decoder(Protocol):
    """Makes typed events of the data of server-sent events, and assembles the response on the way. Does no I/O."""

    @property
    def done(self) -> bool:
        """Whether nothing more is to come."""

    def feed(self, data: bytes) -> List[Any]:
        """Return the events in the data of one server-sent event. Raises the ServerError that it may be."""

    def response(self) -> Any:
        """Return the response so far."""


class State(enum.Enum):
    """The life of a stream. It goes on from each state to a later one, and never back."""

    NEW = "the request was not sent yet"
    OPEN = "the answer is coming"
    DONE = "the answer is complete, and the server has forgotten it"
    ABORTED = "ended before its end; the server does not know it yet"
    CLOSED = "ended before its end, and the server knows"


class ServerStream:
    """An iterator of events, and a context manager.

    The request is sent when iteration, or the `with` block, begins. The server stops generating as soon as the stream
    is closed: by `close`, by leaving the `with` block, by an exception, or because nobody refers to it any more.

    One thread iterates; any thread may close.

    Args:
        transport: sends the request.
        decoder: makes events of what comes.
        path, body: of the request: a POST, or a GET if there is no body.
        timeout: seconds of silence.
        session: the name under which the server keeps the stream; None if a cut is final.

    Attributes:
        resumes: how often the stream was cut and went on.

    Raises, while iterating:
        StreamInterruptedError: the stream was cut and could not be resumed.
        ServerError: the server answered with an error, or sent one in the stream.
        RequestTimeoutError: nothing came for `timeout` seconds.
        ServerNotRunningError: nothing answers at the endpoint.
        ProtocolError: what came is not a stream of events.
    """

    def __init__(
        self,
        transport: Transport,
        decoder: Decoder,
        path: str,
        body: Optional[bytes] = None,
        *,
        timeout: Optional[float],
        session: Optional[Session] = None,
    ) -> None:
        self.resumes = 0
        self._transport = transport
        self._decoder = decoder
        self._path = path
        self._body = body
        self._session = session
        self._call = transport.call(timeout, whole=False)
        self._sse = SSEDecoder()
        self._events: Deque[Any] = deque()
        self._response: Optional[Response] = None
        self._position = 0  # bytes of the whole lines that came
        self._resumed_from = 0  # the position at which the current response began
        self._cut_at = 0.0  # when bytes stopped coming, by `time.monotonic`
        self._pause = 0.0  # seconds before the next attempt to resume
        self._state = State.NEW
        # Reentrant: a signal's handler may close the stream that it interrupts.
        self._changing = threading.RLock()
        self._reading = threading.Lock()

    @property
    def response(self) -> Any:
        """The response assembled from what has come so far: all of it once the stream is exhausted."""
        return self._decoder.response()

    # --- iterating ----------------------------------------------------------------------------------------------------

    def __iter__(self: Self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                return self._events.popleft()
            except IndexError:
                if self._state not in (State.NEW, State.OPEN):
                    raise StopIteration from None
            self._run(self._read)

    def __enter__(self: Self) -> Self:
        self._run(self._open)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, step: Callable[[], None]) -> None:
        """Run `step` holding the read lock. Whatever it raises ends the stream."""
        try:
            with self._reading:
                step()
        except CallAborted:
            self.close()
        except BaseException:
            self.close()
            raise
        if self._state in (State.ABORTED, State.CLOSED):
            self._events.clear()
            self._close_response()

    def _open(self) -> None:
        """Send the request, if that was not done yet."""
        if not self._change(State.OPEN, State.NEW):
            return
        session, headers = self._session, {}
        if session:
            session.kept, headers = True, session.headers
        try:
            self._response = self._transport.send(
                self._call,
                "GET" if self._body is None else "POST",
                self._path,
                self._body,
                kind=EVENT_STREAM,
                headers=headers,
                streamed=True,
            )
        except ConnectionLostError as error:
            self._resume(error)
        except (ServerNotRunningError, ServerError):
            if session:
                session.kept = False
            raise

    def _read(self) -> None:
        """Read lines until they complete an event, and decode it."""
        self._open()
        while self._state is State.OPEN and not self._events:
            for data in self._sse.feed(self._next_line()):
                if data:
                    self._events.extend(self._decoder.feed(data))
                if self._decoder.done:
                    self._finish()
                    break

    def _next_line(self) -> bytes:
        """Return the next whole line, from whatever connection it comes."""
        while True:
            lost: Optional[FlynnError] = None
            try:
                line = self._response.readline() if self._response else b""
                if line.endswith((b"\n", b"\r")):  # the latter at the end of a stream that has no LF
                    self._position += len(line)
                    return line
            except ConnectionLostError as error:
                lost = error
            self._resume(lost)

    def _finish(self) -> None:
        """The answer is complete. The server closes the connection of a stream, so it is not kept."""
        if self._change(State.DONE, State.OPEN):
            if self._response is not None:
                self._response.close()
            if self._session:
                self._session.end(began=True)

    def _resume(self, lost: Optional[FlynnError]) -> None:
        """Go on behind the last whole line, on another connection.

        Args:
            lost: how the connection was lost; None if the body ended where it should not.

        Raises:
            StreamInterruptedError: that cannot be done, or not within the session's time.
        """
        if not self._cut_at or self._position > self._resumed_from:
            self._cut_at, self._pause = time.monotonic(), 0.0
        elif lost is None:
            raise self._interrupted(None)  # the server has no more of it
        while self._session:
            self._call.pause(self._pause)
            self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            if time.monotonic() >= self._cut_at + self._session.resume_for:
                break
            try:
                self._response = self._session.replay(self._call, self._position)
            except (ServerNotRunningError, ConnectionLostError) as error:
                lost = error
            except ServerError as error:
                lost = error
                unknown_yet = error.status == 404 and not self._position
                if unknown_yet and time.monotonic() < self._cut_at + _UNKNOWN_FOR:
                    continue
                if error.status is not None and error.status < 500:
                    break
            else:
                self.resumes += 1
                self._resumed_from = self._position
                return
        raise self._interrupted(lost) from lost

    def _interrupted(self, lost: Optional[FlynnError]) -> StreamInterruptedError:
        partial = self._decoder.response()
        message = f"the stream was cut after {self._position} bytes"
        if partial is not None:
            message += f", {len(partial.content)} characters of text"
        return StreamInterruptedError(f"{message} ({lost})" if lost else message, partial)

    # --- ending -------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End the stream without waiting for anything, from any thread; `close` has to follow, and tells the server."""
        if self._change(State.ABORTED, State.NEW, State.OPEN):
            self._events.clear()
            self._call.abort()

    def close(self) -> None:
        """End the stream, from any thread and at any time. Closing twice is fine.

        In a process that was forked off it only lets go of the connection: the stream is its parent's.
        """
        self.abort()
        if self._change(State.CLOSED, State.ABORTED) and self._session and self._call.is_ours:
            self._session.end(began=self._response is not None)
        self._close_response()

    def _change(self, state: State, *before: State) -> bool:
        """Go on to another state, if the stream is in one of those before it; return whether it was."""
        with self._changing:
            changes = self._state in before
            if changes:
                self._state = state
            return changes

    def _close_response(self) -> None:
        """Close the connection, unless a thread reads from it: a descriptor that is closed under a reader may be
        another connection's by the time it reads on. That thread comes here itself when it wakes."""
        if self._reading.acquire(blocking=False):
            try:
                if self._response is not None:
                    self._response.close()
            finally:
                self._reading.release()

    def __del__(self) -> None:
        if hasattr(self, "_reading"):
            self.close()


class TextStream(ServerStream):
    """A stream with text in it."""

    def text(self) -> Iterator[str]:
        """Yield only the text of the first choice, piece by piece."""
        with self:
            for event in self:
                if event.type == "content" and event.choice == 0:
                    yield event.text


class ChatStream(TextStream):
    """A chat answer as it is generated. Made by `LlamaCppClient.chat_stream`; see `ServerStream`."""

    if TYPE_CHECKING:

        @property
        def response(self) -> ChatResponse: ...

        def __next__(self) -> StreamEvent: ...
