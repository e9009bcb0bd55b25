"""Streams: iterators of typed events that any thread can end at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generator, Iterator, List, Protocol, TypeVar

from ...errors import StreamInterruptedError
from ...http.limits import CallAborted
from ..types import ChatResponse, StreamEvent
from .resumable import ResumableBody, State
from .sse import read_events

Self = TypeVar("Self", bound="ServerStream")


class Decoder(Protocol):
    """Turns the data of server-sent events into typed events, and assembles the response. No I/O."""

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""

    def feed(self, data: bytes) -> List[Any]:
        """Return the typed events in the data of one server-sent event. Raises the ServerError that it may hold."""

    def response(self) -> Any:
        """Return the response so far."""


class ServerStream:
    """An iterator of events, and a context manager.

    The request is sent when iteration, or the `with` block, begins. The server stops generating as soon as the stream
    is closed: by `close`, at the end of the `with` block, by an exception, or when the last reference to it is gone.

    One thread iterates; any thread may close.

    Args:
        body: the lines of the answer.
        decoder: turns them into events.

    Raises, while iterating:
        StreamInterruptedError: the stream was cut and could not be resumed.
        ServerError: the server answered with an error, or sent one in the stream.
        RequestTimeoutError: the server sent nothing for `timeout` seconds.
        ServerNotRunningError: nothing listens at the endpoint.
        ProtocolError: the answer is not a stream of events.
    """

    def __init__(self, body: ResumableBody, decoder: Decoder) -> None:
        self._body = body
        self._decoder = decoder
        self._events = _events(body, decoder)

    @property
    def response(self) -> Any:
        """The response assembled so far; complete once the stream is exhausted."""
        return self._decoder.response()

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._body.resumes

    def __iter__(self: Self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._events) or next(self._events)  # the first item is None: the request was sent
        except StopIteration:
            raise
        except CallAborted:
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    def __enter__(self: Self) -> Self:
        if self._body.state is State.NEW:
            try:
                next(self._events)
            except CallAborted:
                self.close()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def abort(self) -> None:
        """End the stream without blocking, from any thread. Call `close` afterwards: it tells the server."""
        self._body.abort()

    def close(self) -> None:
        """End the stream, from any thread and at any time. Closing twice is fine."""
        self._body.close()
        try:
            self._events.close()
        except ValueError:
            pass  # another thread reads: the aborted call wakes it, and it leaves the generator

    def __del__(self) -> None:
        if hasattr(self, "_events"):
            self.close()


def _events(body: ResumableBody, decoder: Decoder) -> Generator[Any, None, None]:
    """Send the request and yield None, then yield the events of the answer.

    All reading happens in this generator, because Python lets only one thread into a generator, and none while it is
    being closed. It does not refer to the stream: a cycle of references would keep a dropped stream open.
    """
    try:
        body.open()
        yield None
        for data in read_events(body.lines()):
            if data:
                events = decoder.feed(data)
                if decoder.done:
                    body.finish()
                    body.call.report("answer", bytes=body.position, response=decoder.response())
                    yield from events
                    return
                yield from events
        partial = decoder.response()
        message = f"the stream was cut after {body.position} bytes"
        if partial is not None:
            message += f", {len(partial.content)} characters of text"
        why = f" ({body.why_lost})" if body.lost else ""
        raise StreamInterruptedError(message + why, partial) from body.lost
    except BaseException as error:  # GeneratorExit too: the stream was closed
        body.call.ended(error)
        raise
    finally:
        body.disconnect()


class TextStream(ServerStream):
    """A stream of text."""

    def text(self) -> Iterator[str]:
        """Yield only the text of the first choice, piece by piece."""
        with self:
            for event in self:
                if event.type == "content" and event.choice == 0:
                    yield event.text


class ChatStream(TextStream):
    """A chat answer while it is generated. Returned by `LlamaCppClient.chat_stream`; see `ServerStream`."""

    if TYPE_CHECKING:

        @property
        def response(self) -> ChatResponse: ...

        def __next__(self) -> StreamEvent: ...
