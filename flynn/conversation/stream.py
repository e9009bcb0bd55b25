"""A chat answer as it is generated, which becomes part of a conversation."""

from __future__ import annotations

import threading
from typing import Callable, Iterator, Optional, Tuple

from ..http.limits import CallAborted, CancelScope
from ..models.local.stream import ChatStream
from ..models.types import ChatResponse, Choice, Message, StreamEvent
from .fitting import Turn


class ConversationStream:
    """`ChatStream` within a conversation, with the same methods. Made by `Conversation.chat_stream`.

    The conversation is made to fit, and the request sent, when iteration or the `with` block begins. Prompt and answer
    join the conversation when the stream ends or is closed: an answer that was cut short as it is, but without calls of
    tools, which may not be whole, and a prompt only if it got a word of an answer.

    Raises, while iterating: what `Conversation.chat` and `ChatStream` raise.
    """

    def __init__(self, begin: Callable[[], Tuple[Turn, ChatStream]], end: Callable[[Turn, ChatResponse], None]) -> None:
        self._begin = begin
        self._end = end
        self._turn: Optional[Turn] = None
        self._stream: Optional[ChatStream] = None
        self._scope = CancelScope()  # of what is sent before there is a stream
        self._closed = False
        self._ending = threading.Lock()  # taken once and for all

    @property
    def response(self) -> ChatResponse:
        """The response assembled from what has come so far: all of it once the stream is exhausted."""
        return self._stream.response if self._stream else ChatResponse([Choice(Message("assistant", ""))])

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._stream.resumes if self._stream else 0

    def text(self) -> Iterator[str]:
        """Only the text of the first choice, piece by piece."""
        with self:
            for event in self:
                if event.type == "content" and event.choice == 0:
                    yield event.text

    def __iter__(self) -> ConversationStream:
        return self

    def __next__(self) -> StreamEvent:
        stream = self._open()
        try:
            if stream is not None:
                return next(stream)
        except BaseException:  # StopIteration is one of them
            self._join()
            raise
        raise StopIteration

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
        """End the stream without waiting for anything; `close` has to follow, and tells the server."""
        self._closed = True
        if self._stream is None:
            self._scope.abort()
        if self._stream is not None:
            self._stream.abort()

    def _open(self) -> Optional[ChatStream]:
        """The answer; None if it was not wanted any more before it began."""
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
        if self._turn is not None and self._ending.acquire(blocking=False):
            self._end(self._turn, self.response)
