"""What a server sends piece by piece: an iterator of typed events that can be closed at any time, from any thread."""

from __future__ import annotations

from _thread import RLock, allocate_lock
from operator import length_hint

from ...errors import ConnectionLostError, FlynnError, StreamInterruptedError
from ...http.call import CallAborted
from .sse import SSEDecoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List, Optional, Protocol

    from typing_extensions import Self

    from ..types import ChatResponse, StreamEvent
    from .completion import CompletionEvent, CompletionResponse
    from .server import ModelEvent
    from .transfer import Transfer

    class Decoder(Protocol):
        """Makes typed events of the data of server-sent events, and assembles the response on the way. Does no I/O."""

        @property
        def done(self) -> bool:
            """Whether nothing more is to come."""

        def feed(self, data: bytes) -> List[Any]:
            """The events in the data of one server-sent event; raises the ServerError that it is."""

        def response(self) -> Any:
            """What came so far."""


class ServerStream:
    """An iterator of events, and a context manager.

    The request is sent when iteration, or the `with` block, begins. The server stops generating as soon as the stream
    is closed: by `close`, by leaving the `with` block, by an exception, or because nobody refers to it any more.

    One thread iterates; any thread may close.

    Raises, while iterating:
        StreamInterruptedError: the stream was cut and could not be resumed.
        ServerError: the server answered with an error, or sent one in the stream.
        RequestTimeoutError: nothing came for `timeout` seconds.
        ServerNotRunningError, ProtocolError: as their names say.
    """

    def __init__(self, transfer: Transfer, decoder: Decoder) -> None:
        self._transfer = transfer
        self._decoder = decoder
        self._sse = SSEDecoder()
        self._batch: Iterator[Any] = iter(())
        self._failure: Optional[FlynnError] = None  # raised once the events before it are consumed
        self._opened = False
        self._ended = False  # no more events
        self._closed = False  # and the server knows
        self._closing = RLock()  # a signal handler may close what it interrupts
        self._reading = allocate_lock()

    @property
    def response(self) -> Any:
        """The response assembled from what has come so far: all of it once the stream is exhausted."""
        return self._decoder.response()

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._transfer.resumes

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        for event in self._batch:
            return event
        while not self._ended and self._alone(self._read):
            for event in self._batch:
                return event
        raise StopIteration

    def _alone(self, step: Callable[[], None]) -> bool:
        """Take a step that reads, while nobody else does; False if the call was ended meanwhile."""
        aborted = False
        try:
            with self._reading:
                step()
        except CallAborted:
            aborted = True
        except BaseException:
            self.close()
            raise
        if self._ended:
            self._dispose()
        return not aborted

    def _read(self) -> None:
        """Make the events of the next block of bytes the next ones."""
        if self._failure is not None:
            raise self._failure
        events: List[Any] = []
        if not self._decoder.done:
            self._open()
            block = self._transfer.read()
            if not block:
                cut = self._transfer.cut
                raise self._interrupted(cut) from cut
            events = self._decode(block)
        if self._decoder.done:
            self._transfer.finish()
            self._ended = self._closed = True
        self._batch = iter(events)

    def _decode(self, block: bytes) -> List[Any]:
        events: List[Any] = []
        try:
            for data in self._sse.feed(block):
                if data:
                    events += self._decoder.feed(data)
                if self._decoder.done:
                    break
        except FlynnError as error:
            if not events:
                raise
            self._failure = error
        return events

    # --- read by another's thread, without blocking: a `flynn.pump.Source` --------------------------------------------

    @property
    def waits(self) -> bool:
        if self._ended or self._failure is not None or self._decoder.done or length_hint(self._batch):
            return False
        return self._transfer.fileno() >= 0

    @property
    def timeout(self) -> Optional[float]:
        """Seconds that it may be silent."""
        return self._transfer.timeout

    def lend(self) -> int:
        self._reading.acquire()
        if self.waits:
            return self._transfer.fileno()
        self.give_back()
        return -1

    def take_ready(self) -> List[Any]:
        try:
            return [] if self._ended else self._decode(self._transfer.read_ready())
        except FlynnError as error:
            self._failure = error
            return []

    def expire(self) -> None:
        self._transfer.expire()

    def give_back(self) -> None:
        self._reading.release()
        if self._ended:
            self._dispose()

    def _open(self) -> None:
        if not self._opened:
            self._opened = True
            try:
                self._transfer.open()
            except ConnectionLostError as error:
                raise self._interrupted(error) from error

    def _interrupted(self, cut: Optional[FlynnError]) -> StreamInterruptedError:
        partial = self._decoder.response()
        message = f"the stream was cut after {self._transfer.position} bytes"
        if partial is not None:
            message += f", {len(partial.content)} characters of text"
        return StreamInterruptedError(f"{message} ({cut})" if cut else message, partial)

    def __enter__(self) -> Self:
        self._alone(self._open)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream, from any thread and at any time. Closing twice is fine."""
        self.interrupt()
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._transfer.close()
        self._dispose()

    def interrupt(self) -> None:
        """End the stream without waiting for anything; `close` has to follow, and tells the server."""
        if not self._ended:
            self._ended = True
            self._batch = iter(())
            self._transfer.interrupt()

    def _dispose(self) -> None:
        """Close the connection, unless a thread reads from it: a descriptor that is closed under a reader may be
        another connection's by the time it reads on. That thread comes here itself when it wakes."""
        if self._reading.acquire(blocking=False):
            try:
                self._transfer.dispose()
            finally:
                self._reading.release()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


class TextStream(ServerStream):
    """A stream with text in it."""

    def text(self) -> Iterator[str]:
        """Only the text of the first choice, piece by piece."""
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


class CompletionStream(TextStream):
    """Completions as they are generated. Made by `LlamaCppClient.complete_stream`; see `ServerStream`."""

    if TYPE_CHECKING:

        @property
        def response(self) -> CompletionResponse: ...

        def __next__(self) -> CompletionEvent: ...


class ModelEvents(ServerStream):
    """What happens to the models of a server. Made by `LlamaCppClient.model_events`; see `ServerStream`."""

    if TYPE_CHECKING:

        def __next__(self) -> ModelEvent: ...
