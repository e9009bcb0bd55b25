"""Answers of a type: what is sent for one, and how a reply becomes an instance, at once or as it grows."""

from __future__ import annotations

import collections.abc
import json
from dataclasses import replace
from typing import Any, AsyncIterator, Callable, Dict, Generic, Iterator, List, Mapping, TypeVar

from ..errors import StructuredOutputError
from ..files import refuse_constant
from ..models.local.encode import chat_request
from ..models.types import ChatRequest, ChatResponse, Message, Prompt, StreamEvent
from .annotations import node_of
from .grammar import narrow
from .mismatch import Mismatch, key_path
from .nodes import ANYTHING, Node, build
from .partial import PartialJSON
from .schema import schema_of

T = TypeVar("T")


class TypedAnswer(Generic[T]):
    """An answer of a type, or of a JSON schema given as a mapping.

    Raises:
        TypeError: JSON cannot express the type, or llama.cpp's grammar cannot express a limit.
    """

    def __init__(self, answer_type: object) -> None:
        if isinstance(answer_type, collections.abc.Mapping):
            self.schema: Mapping[str, Any] = narrow(answer_type)
            self._node: Node = ANYTHING
        else:
            self._node = node_of(answer_type)
            self.schema = schema_of(self._node)

    def options(self, request: Prompt, options: Mapping[str, Any]) -> Dict[str, Any]:
        """Add the schema to the options of a chat request. Raises TypeError if that has a constraint already."""
        for name in ("response_format", "json_schema", "grammar"):
            if options.get(name, getattr(request, name, None)) is not None:
                raise TypeError(f"the schema must be the only constraint of the answer: leave out {name}")
        # Not json_schema: servers other than llama.cpp's, and proxies, know this one.
        named = {"name": "answer", "schema": self.schema}
        return {**options, "response_format": {"type": "json_schema", "json_schema": named}}

    def read(self, response: ChatResponse, choice: int = 0) -> T:
        """Return the instance that a choice of a response holds. Raises StructuredOutputError."""
        chosen = replace(response, choices=response.choices[choice : choice + 1])
        try:
            value = json.loads(chosen.content, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _unreadable(chosen, error) from error
        if chosen.finish_reason == "length" and type(value) in (int, float):  # more digits might have followed
            raise _out_of_tokens(chosen)
        try:
            return build(self._node, value)  # type: ignore[no-any-return]
        except Mismatch as mismatch:
            raise StructuredOutputError(f"the answer does not fit: {mismatch}", chosen) from mismatch

    def ask(self, chat: Callable[[ChatRequest], ChatResponse], request: Prompt, retries: int) -> T:
        """Ask for the answer, and up to `retries` times again, with what was wrong."""
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries must be a whole number, 0 or more, not {retries!r:.60}")
        attempt = chat_request(request, {})
        while True:
            response = chat(attempt)
            try:
                return self.read(response)
            except StructuredOutputError as error:
                if not retries:
                    raise
                retries -= 1
                problem = "it is too long" if response.finish_reason == "length" else str(error)
                again = f"Your last answer cannot be used: {problem}. Answer once more, with JSON only."
                messages = [*attempt.messages, Message("assistant", response.content), Message("user", again)]
                attempt = replace(attempt, messages=messages)


def _unreadable(response: ChatResponse, error: Exception) -> StructuredOutputError:
    """Return why the text of a response is not JSON, or not all of it."""
    partial = PartialJSON()
    problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    try:
        partial.feed(response.content)
        partial.end()
    except ValueError as incomplete:
        problem = str(incomplete)
    place = f" at {path}" if (path := key_path(partial.keys)) else ""
    if response.finish_reason == "length":
        return _out_of_tokens(response, place)
    if response.tool_calls:
        return StructuredOutputError("the model calls tools instead of answering", response)
    if not response.content.strip():
        return StructuredOutputError("the answer is empty", response)
    return StructuredOutputError(f"the answer is not JSON{place}: {problem}", response)


def _out_of_tokens(response: ChatResponse, place: str = "") -> StructuredOutputError:
    spent = f", after {response.usage.completion_tokens} of them" if response.usage else ""
    message = f"the model ran out of tokens{place}{spent}: raise max_tokens, or bound what the schema allows"
    return StructuredOutputError(message, response)


class _JSONStream(Generic[T]):
    def __init__(self, stream: Any, answer: TypedAnswer[T]) -> None:
        self._stream = stream  # a ChatStream or an AsyncChatStream
        self._answer = answer
        self._partial = PartialJSON()
        self._results: List[T] = []

    @property
    def value(self) -> Any:
        """The value so far, as plain lists, dicts and so on; None before it begins."""
        return self._partial.value

    @property
    def result(self) -> T:
        """The instance, once the stream is exhausted.

        Raises:
            StructuredOutputError: the stream was not read to its end, or its answer does not fit.
        """
        if not self._results:
            message = "there is no result: the stream was not read to its end, or its answer does not fit"
            raise StructuredOutputError(message, self.response)
        return self._results[0]

    @property
    def response(self) -> ChatResponse:
        """The response so far; complete once the stream is exhausted."""
        return self._stream.response  # type: ignore[no-any-return]

    @property
    def resumes(self) -> int:
        """How often the stream was cut and resumed."""
        return self._stream.resumes  # type: ignore[no-any-return]

    def _grow(self, event: StreamEvent) -> bool:
        """Add an event. Returns whether `value` has changed."""
        if event.type == "done":
            self._results.append(self._answer.read(event.response))
        if event.type != "content" or event.choice != 0:
            return False
        try:
            return self._partial.feed(event.text)
        except ValueError as error:
            raise _unreadable(self.response, error) from error


class JSONStream(_JSONStream[T], Iterator[Any]):
    """A JSON value as it grows: an iterator, and a context manager. `LlamaCppClient.chat_json_stream` returns it.

    Each item is the value so far, as plain lists, dicts, strings and so on. The lists and dicts are the same objects
    each time: copy what you keep, and change nothing. Strings grow; numbers, literals and keys appear once complete.

    It is closed, resumed and interrupted as a `ChatStream` is. Raises, while iterating, what `ChatStream` raises, and:
        StructuredOutputError: the text is not JSON or, at its end, incomplete or not of the type.

    Example:
        >>> with client.chat_json_stream("Invent a person.", Person) as stream:
        ...     for value in stream:
        ...         print(value)
        {}
        {'name': ''}
        {'name': 'Ada'}
        {'name': 'Ada', 'age': 36}
        >>> stream.result
        Person(name='Ada', age=36)
    """

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


class AsyncJSONStream(_JSONStream[T], AsyncIterator[Any]):
    """`JSONStream` for asyncio: an asynchronous iterator, and an asynchronous context manager."""

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
