"""Answers of a type: what is sent for one, how a reply becomes one, and what there is of it as it grows."""

from __future__ import annotations

import collections.abc
import json
from typing import Any, Dict, Generic, List, Mapping, TypeVar

from ..errors import StructuredOutputError
from ..files import refuse_constant
from ..models.local.stream import ChatStream
from ..models.types import ChatResponse, Prompt, StreamEvent
from .annotations import node_of
from .mismatch import Mismatch, key_path
from .nodes import Anything, Node, build
from .partial import PartialJSON
from .schema import schema_of

T = TypeVar("T")
S = TypeVar("S")


class TypedAnswer(Generic[T]):
    """An answer of a type, or of a JSON schema as a mapping; raises TypeError if JSON cannot express the type."""

    def __init__(self, wanted: object) -> None:
        if isinstance(wanted, collections.abc.Mapping):
            self.schema: Mapping[str, Any] = wanted
            self._node: Node = Anything()
        else:
            self._node = node_of(wanted)
            self.schema = schema_of(self._node)

    def options(self, request: Prompt, options: Mapping[str, Any]) -> Dict[str, Any]:
        """The options of a chat request, with the schema; TypeError if it has a constraint of its own already."""
        for name in ("response_format", "json_schema", "grammar"):
            if options.get(name, getattr(request, name, None)) is not None:
                raise TypeError(f"the schema is all that may constrain the answer: leave out {name}")
        # Not json_schema, since servers that are not llama.cpp's, and proxies, know this one.
        named = {"name": "answer", "schema": self.schema}
        return {**options, "response_format": {"type": "json_schema", "json_schema": named}}

    def read(self, response: ChatResponse) -> T:
        """The instance that a response holds; StructuredOutputError if it holds none."""
        try:
            value = json.loads(response.content, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _unreadable(response, error) from error
        if response.finish_reason == "length" and type(value) in (int, float):  # more digits might have come
            raise _ran_out(response)
        try:
            return build(self._node, value)  # type: ignore[no-any-return]
        except Mismatch as mismatch:
            raise StructuredOutputError(f"the answer does not fit: {mismatch}", response) from mismatch


def _unreadable(response: ChatResponse, error: Exception) -> StructuredOutputError:
    """Why the text of a response is not JSON, or not all of it."""
    partial = PartialJSON()
    problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    try:
        partial.feed(response.content)
        partial.end()
    except ValueError as found:
        problem = str(found)
    place = f" at {path}" if (path := key_path(partial.keys)) else ""
    if response.finish_reason == "length":
        return _ran_out(response, place)
    if response.tool_calls:
        return StructuredOutputError("the model calls tools instead of answering", response)
    if not response.content.strip():
        return StructuredOutputError("the answer is empty", response)
    return StructuredOutputError(f"the answer is not JSON{place}: {problem}", response)


def _ran_out(response: ChatResponse, place: str = "") -> StructuredOutputError:
    spent = f", after {response.usage.completion_tokens} of them" if response.usage else ""
    message = f"the model ran out of tokens{place}{spent}: raise max_tokens, or bound what the schema allows"
    return StructuredOutputError(message, response)


class _Growing(Generic[S, T]):
    def __init__(self, stream: S, answer: TypedAnswer[T]) -> None:
        self._stream: Any = stream
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
        response: ChatResponse = self._stream.response
        return response

    @property
    def resumes(self) -> int:
        """How often the stream was cut and went on."""
        resumes: int = self._stream.resumes
        return resumes

    def _grow(self, event: StreamEvent) -> bool:
        """Take an event; whether `value` has changed."""
        if event.type == "done":
            self._results.append(self._answer.read(event.response))
        if event.type != "content" or event.choice != 0:
            return False
        try:
            return self._partial.feed(event.text)
        except ValueError as error:
            raise _unreadable(self.response, error) from error


class JSONStream(_Growing[ChatStream, T]):
    """An iterator of what there is of a JSON value as it grows, and a context manager. Made by `chat_json_stream`.

    Each time the value has grown it is given out as plain lists, dicts, strings and so on, whatever it will become in
    the end. They are the same lists and dicts each time: copy what is to be kept as it is now, and change nothing. What
    is incomplete is left out, but for strings, which come as far as they are there.

    It is closed, resumed and interrupted as a `ChatStream` is, and raises the same, and:
        StructuredOutputError: what came is no JSON, or, at the end, does not fit or is not complete.

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


class AsyncJSONStream(_Growing[Any, T]):
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
