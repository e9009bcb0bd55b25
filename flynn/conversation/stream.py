"""A streamed answer that joins its conversation."""

from __future__ import annotations

import threading
from typing import Callable, Iterator, Optional, Tuple

from ..http.limits import CallAborted, CancelScope
from ..models.local.stream import ChatStream
from ..models.types import ChatResponse, Choice, Message, StreamEvent
from .fitting import Turn


class ConversationStream:
    """`ChatStream` in a conversation, with the same methods. Returned by `Conversation.chat_stream`.

    The conversation is shortened to fit, and the request sent, when iteration or the `with` block begins. Prompt and
    answer join the conversation when the stream ends or is closed. An answer that was cut short joins without its tool
    calls, which may be incomplete; without any text, neither the prompt nor the answer joins.

    Raises, while iterating: what `Conversation.chat` and `ChatStream` raise.
    """

    def __init__(self, begin: Callable[[], Tuple[Turn, ChatStream]], end: Callable[[Turn, ChatResponse], None]) -> None:
        self._begin = begin
        self._end = end
        self._turn: Optional[Turn] = None
        self._stream: Optional[ChatStream] = None
        self._scope = CancelScope()  # of the requests before the stream
        self._closed = False
        self._joined = threading.Lock()  # acquired once, never released

    @property
    def response(self) -> ChatResponse:
        """The response assembled so far; complete once the stream is exhausted."""
        return self._stream.response if self._stream else ChatResponse([Choice(Message("assistant", ""))])

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._stream.resumes if self._stream else 0

    def text(self) -> Iterator[str]:
        """Yield only the text of the first choice, piece by piece."""
        with self:
            for event in self:
                if event.type == "content" and event.choice == 0:
                    yield event.text

    def __iter__(self) -> ConversationStream:
        return self

    def __next__(self) -> StreamEvent:
        stream = self._open()
        if stream is None:
            raise StopIteration
        try:
            return next(stream)
        except BaseException:  # StopIteration is one of them
            self._join()
            raise

    def __enter__(self) -> ConversationStream:
        self._open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream, from any thread and at any time. Closing twice is fine."""
        self.abort()
        if self._stream is not None:
            self._stream.close()
            self._join()

    def abort(self) -> None:
        """End the stream without blocking, from any thread. Call `close` afterwards: it tells the server."""
        self._closed = True
        self._scope.abort()
        if self._stream is not None:
            self._stream.abort()

    def _open(self) -> Optional[ChatStream]:
        """Send the request if it was not sent. Returns the stream, None if it was closed before that."""
        if self._stream is None and not self._closed:
            try:
                with self._scope:
                    self._turn, self._stream = self._begin()
            except CallAborted:
                pass
            if self._closed:
                self.close()
        return self._stream

    def _join(self) -> None:
        if self._turn is not None and self._joined.acquire(blocking=False):
            self._end(self._turn, self.response)
