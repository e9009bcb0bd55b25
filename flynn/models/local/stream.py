"""Streams: iterators of typed events that any thread can end at any time.

    ServerStream     what the caller iterates and closes
    StreamedAnswer   the lines of one answer: opened, read, resumed and ended here

A stream has one state, a `State`. The position in it is the number of bytes of all whole lines received. A cut drops
the incomplete line; a new request asks for the bytes from the position on, so the reader of the lines notices nothing.
"""

from __future__ import annotations

import enum
import threading
import time
from typing import Any, Generator, Generic, Iterator, List, Mapping, Optional, Protocol, TypeVar

from ...errors import ConnectionLostError, FlynnError, ServerError, ServerNotRunningError, StreamInterruptedError
from ...http.checks import check_headers
from ...http.limits import CallAborted
from ...http.response import Response
from ..types import ChatResponse, StreamEvent
from .kept import KeptAnswer
from .sse import read_events
from .transport import EVENT_STREAM, OWN, Routes, Transport

Self = TypeVar("Self", bound="ServerStream[Any, Any]")
Event = TypeVar("Event")
Answer = TypeVar("Answer")

# Seconds between two attempts to resume; doubled each time.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
# Seconds during which 404 is not final: a cut may be seen before the server begins to handle the request.
_UNKNOWN_FOR = 1.0


class State(enum.Enum):
    """The life of a stream. It moves from a state to a later one, never back."""

    NEW = "the request was not sent yet"
    OPEN = "the answer is being read"
    DONE = "the answer is complete"
    ABORTED = "ended early; the server was not told yet"
    CLOSED = "ended early, and the server was told"


class StreamedAnswer:
    """The lines of a streamed answer. After a cut they go on from another connection, if the server keeps the answer.

    One thread reads (`open`, `lines`, `finish`); any thread may `abort` and `close`.

    Args:
        transport: sends requests.
        path, body: the request: a POST, or a GET if there is no body.
        timeout: longest silence, in seconds.
        headers: sent with each request, besides the client's.
        kept: the copy that the server keeps of the answer; None if a cut is final.
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
        kept: Optional[KeptAnswer] = None,
        resume_for: float = 0.0,
    ) -> None:
        self.state = State.NEW
        self.position = 0
        self.resumes = 0
        self.lost: Optional[FlynnError] = None
        self.call = transport.call(timeout, whole=False)
        self._transport = transport
        self._path = path
        self._body = body
        self._headers = check_headers(headers) if headers else {}
        self._kept = kept
        self._to_delete: Optional[KeptAnswer] = None  # `kept`, once the server may have it
        self._resume_for = resume_for
        self._response: Optional[Response] = None
        self._resumed_from = 0  # the position where the current response begins
        self._cut_at = 0.0  # when the last bytes were received (`time.monotonic`)
        self._pause = 0.0  # seconds before the next attempt to resume
        self._changing = threading.RLock()  # reentrant: a signal handler may close the stream that it interrupts

    def open(self) -> None:
        """Send the request. Raises what `Transport.send` raises, except for a lost connection: `lines` resumes it."""
        if not self._change(State.OPEN, State.NEW):
            return
        headers = {**self._headers, **self._kept.header} if self._kept else self._headers
        method = "GET" if self._body is None else "POST"
        self._to_delete = self._kept
        try:
            self._response = self._transport.send(
                self.call, method, self._path, self._body, kind=EVENT_STREAM, headers=headers, streamed=True
            )
        except ConnectionLostError as error:
            self.lost = error.with_traceback(None)
        except (ServerNotRunningError, ServerError):
            self._to_delete = None
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
            why = self.lost or "the body ended too early"
            self.call.report("cut", position=self.position, error=why, resume_for=self._resume_for)

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

    def _delete(self) -> None:
        if self._to_delete:
            self._to_delete.delete(begun=self._response is not None)

    def _resume(self) -> Optional[Response]:
        """Request the rest of the answer on a new connection. Returns None if that is impossible."""
        if not self._cut_at or self.position > self._resumed_from:
            self._cut_at, self._pause = time.monotonic(), 0.0
        elif self.lost is None:
            return None  # the replay ended at once: the server has no more bytes
        while self._kept:
            self.call.pause(self._pause)
            self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            if time.monotonic() >= self._cut_at + self._resume_for:
                break
            try:
                self._response = self._kept.replay(self.call, self.position)
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
    def why_lost(self) -> str:
        """Why the stream could not go on, in words; empty if the reason is unknown."""
        if isinstance(self.lost, ServerError) and self.lost.status == 404:
            return "the server has no such stream any more: it was restarted, or it cannot resume streams"
        return str(self.lost or "")


class Decoder(Protocol):
    """Turns the data of server-sent events into typed events, and assembles the response. No I/O."""

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""

    def feed(self, data: bytes) -> List[Any]:
        """Return the typed events in the data of one server-sent event. Raises the ServerError that it may hold."""

    def response(self) -> Any:
        """Return the response so far."""


class ServerStream(Generic[Event, Answer]):
    """An iterator of events, and a context manager.

    The request is sent when iteration, or the `with` block, begins. The server stops generating as soon as the stream
    is closed: by `close`, at the end of the `with` block, by an exception, or when the last reference to it is gone.

    One thread iterates; any thread may close.

    Args:
        answer: its lines.
        decoder: turns them into events.

    Raises, while iterating:
        StreamInterruptedError: the stream was cut and could not be resumed.
        ServerError: the server answered with an error, or sent one in the stream.
        RequestTimeoutError: the server sent nothing for `timeout` seconds.
        ServerNotRunningError: nothing listens at the endpoint.
        ProtocolError: the answer is not a stream of events.
    """

    def __init__(self, answer: StreamedAnswer, decoder: Decoder) -> None:
        self._answer = answer
        self._decoder = decoder
        self._events = _events(answer, decoder)

    @property
    def response(self) -> Answer:
        """The response assembled so far; complete once the stream is exhausted."""
        return self._decoder.response()  # type: ignore[no-any-return]

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._answer.resumes

    def __iter__(self: Self) -> Self:
        return self

    def __next__(self) -> Event:
        # The first item is None: the request was sent.
        return next(self._events) or next(self._events)  # type: ignore[no-any-return]

    def __enter__(self: Self) -> Self:
        if self._answer.state is State.NEW:
            next(self._events, None)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def abort(self) -> None:
        """End the stream without blocking, from any thread. Call `close` afterwards: it tells the server."""
        self._answer.abort()

    def close(self) -> None:
        """End the stream, from any thread and at any time. Closing twice is fine."""
        self._answer.close()
        try:
            self._events.close()
        except ValueError:
            pass  # another thread reads: the aborted call wakes it, and it leaves the generator

    def __del__(self) -> None:
        if hasattr(self, "_events"):
            self.close()


def _events(answer: StreamedAnswer, decoder: Decoder) -> Generator[Any, None, None]:
    """Send the request and yield None, then yield the events of the answer.

    All reading happens in this generator, because Python lets only one thread into a generator, and none while it is
    being closed. It does not refer to the stream: a cycle of references would keep a dropped stream open. However it
    ends, it ends the answer.
    """
    try:
        answer.open()
        yield None
        for data in read_events(answer.lines()):
            if data:
                events = decoder.feed(data)
                if decoder.done:
                    answer.finish()
                    answer.call.report("answer", bytes=answer.position, response=decoder.response())
                    yield from events
                    return
                yield from events
        partial = decoder.response()
        message = f"the stream was cut after {answer.position} bytes"
        if partial is not None:
            message += f", {len(partial.content)} characters of text"
        why = f" ({answer.why_lost})" if answer.lost else ""
        raise StreamInterruptedError(message + why, partial) from answer.lost
    except CallAborted as error:
        answer.call.ended(error)
    except BaseException as error:  # GeneratorExit too: the stream was closed
        answer.call.ended(error)
        raise
    finally:
        answer.disconnect()
        answer.close()


class TextStream(ServerStream[Event, Answer]):
    """A stream of text."""

    def text(self) -> Iterator[str]:
        """Yield only the text of the first choice, piece by piece."""
        event: Any
        with self:
            for event in self:
                if event.type == "content" and event.choice == 0:
                    yield event.text


class ChatStream(TextStream[StreamEvent, ChatResponse]):
    """A chat answer while it is generated. Returned by `LlamaCppClient.chat_stream`; see `ServerStream`."""


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
    ) -> StreamedAnswer:
        """Return the lines of a streamed answer. `resume` and `resume_for` are the client's where they are None."""
        kept = None
        if self.transport.resumable and (self._resume if resume is None else resume):
            kept = KeptAnswer(self.transport, model, headers)
        resume_for = (self._resume_for if resume_for is None else resume_for) if kept else 0.0
        return StreamedAnswer(
            self.transport, path, body, timeout=timeout, headers=headers, kept=kept, resume_for=resume_for
        )
