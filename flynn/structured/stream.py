"""Answers that grow: a chat stream whose text is JSON, as partial values and in the end as an instance."""

from __future__ import annotations

from typing import Any, Generic, List, TypeVar

from ..errors import StructuredOutputError
from .answer import unreadable
from .partial import PartialJSON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from ..aio import AsyncChatStream
    from ..models.local.stream import ChatStream
    from ..models.types import ChatResponse, StreamEvent
    from .answer import Answer

T = TypeVar("T")
S = TypeVar("S", bound="Union[ChatStream, AsyncChatStream]")


class _Growing(Generic[S, T]):
    def __init__(self, stream: S, answer: Answer[T]) -> None:
        self._stream = stream
        self._answer = answer
        self._partial = PartialJSON()
        self._results: List[T] = []

    @property
    def value(self) -> Any:
        """What there is so far; None before it begins."""
        return self._partial.value

    @property
    def result(self) -> T:
        """The instance, once the stream is exhausted.

        Raises:
            StructuredOutputError: there is none.
        """
        if not self._results:
            message = "there is no result: the stream was not read to its end, or what it holds does not fit"
            raise StructuredOutputError(message, self.response)
        return self._results[0]

    @property
    def response(self) -> ChatResponse:
        """The response assembled from what has come so far: all of it once the stream is exhausted."""
        return self._stream.response

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        return self._stream.resumes

    def _grow(self, event: StreamEvent) -> bool:
        """Take an event; whether `value` has changed."""
        if event.type == "done":
            self._results.append(self._answer.read(event.response))
        if event.type != "content" or event.choice != 0:
            return False
        try:
            return self._partial.feed(event.text)
        except ValueError as error:
            raise unreadable(self.response, error) from error


class JSONStream(_Growing["ChatStream", T]):
    """An iterator of what there is of a JSON value as it grows, and a context manager. Made by `chat_json_stream`.

    Each time the value has grown it is given out as plain lists, dicts, strings and so on, whatever it will become in
    the end. They are the same lists and dicts each time: copy what is to be kept as it is now, and change nothing. What
    is incomplete is left out, but for strings, which come as far as they are there.

    It is closed, resumed and interrupted as a `ChatStream` is, and raises the same, and:
        StructuredOutputError: what came is no JSON, or, at the end, does not fit or is not complete.

    Attributes:
        value: what there is so far.
        result: the instance, once the stream is exhausted.
        response: the ChatResponse, assembled from what has come so far.

    Example:
        >>> with client.chat_json_stream("Invent a person", Person) as stream:              # doctest: +SKIP
        ...     for value in stream:
        ...         print(value)
        {'name': ''}
        {'name': 'Ada'}
        {'name': 'Ada', 'age': 36}
        >>> stream.result                                                                   # doctest: +SKIP
        Person(name='Ada', age=36)
    """

    def __iter__(self) -> JSONStream[T]:
        return self

    def __next__(self) -> Any:
        try:
            for event in self._stream:
                if self._grow(event):
                    return self.value
        except StructuredOutputError:
            self.close()
            raise
        raise StopIteration

    def __enter__(self) -> JSONStream[T]:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream, from any thread and at any time. Closing twice is fine."""
        self._stream.close()


class AsyncJSONStream(_Growing["AsyncChatStream", T]):
    """`JSONStream` for asyncio: an asynchronous iterator, and an asynchronous context manager."""

    def __aiter__(self) -> AsyncJSONStream[T]:
        return self

    async def __anext__(self) -> Any:
        try:
            async for event in self._stream:
                if self._grow(event):
                    return self.value
        except StructuredOutputError:
            await self.close()
            raise
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncJSONStream[T]:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the stream. Closing twice is fine."""
        await self._stream.close()
