"""A streamed answer that joins its conversation."""

from __future__ import annotations

from typing import Any, Callable, Generator, List, Tuple

from ..http.limits import CallAborted, CancelScope
from ..models.local.stream import ChatStream
from ..models.types import ChatResponse, Choice, Message
from .fitting import Turn


class ConversationStream(ChatStream):
    """`ChatStream` in a conversation, with the same methods. Returned by `Conversation.chat_stream`.

    The conversation is shortened to fit, and the request sent, when iteration or the `with` block begins. Prompt and
    answer join the conversation when the stream ends or is closed. An answer that was cut short joins without its tool
    calls, which may be incomplete; without any text, neither the prompt nor the answer joins.

    Raises, while iterating: what `Conversation.chat` and `ChatStream` raise.
    """

    def __init__(self, begin: Callable[[], Tuple[Turn, ChatStream]], end: Callable[[Turn, ChatResponse], None]) -> None:
        # Not as `ServerStream` does it: there is no answer yet.
        self._scope = CancelScope()  # of the stream, and of the requests before it
        self._streams: List[ChatStream] = []  # the one that was begun
        self._events = _events(begin, end, self._scope, self._streams)

    @property
    def response(self) -> ChatResponse:
        """The response assembled so far; complete once the stream is exhausted."""
        return self._streams[0].response if self._streams else ChatResponse([Choice(Message("assistant", ""))])

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._streams[0].resumes if self._streams else 0

    def __enter__(self) -> ConversationStream:
        if not self._streams:
            next(self._events, None)
        return self

    def abort(self) -> None:
        """End the stream without blocking, from any thread. Call `close` afterwards: it tells the server."""
        self._scope.abort()

    def close(self) -> None:
        """End the stream, from any thread and at any time. Closing twice is fine."""
        self.abort()
        for stream in self._streams:
            stream.close()
        try:
            self._events.close()
        except ValueError:
            pass  # another thread reads: the aborted call wakes it, and it leaves the generator


def _events(
    begin: Callable[[], Tuple[Turn, ChatStream]],
    end: Callable[[Turn, ChatResponse], None],
    scope: CancelScope,
    streams: List[ChatStream],
) -> Generator[Any, None, None]:
    """Send the request and yield None, then yield the events of the answer, which joins when this ends."""
    try:
        with scope:
            turn, stream = begin()
    except CallAborted:
        return
    streams.append(stream)
    try:
        yield None
        yield from stream
    finally:
        stream.close()
        end(turn, stream.response)
