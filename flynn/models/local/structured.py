"""What `LlamaCppClient` does with answers of a type; all of it is in `flynn.structured`, loaded when it is used."""

from __future__ import annotations

from .transport import OWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Coroutine, Optional, Protocol, Type, TypeVar, overload

    from ...structured.stream import JSONStream
    from ..types import ChatResponse, Prompt
    from .stream import ChatStream

    T = TypeVar("T")

    class Chats(Protocol):
        def chat(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> ChatResponse: ...

        def chat_stream(self, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> ChatStream: ...

    class AwaitedChatJSON(Protocol):
        """`Structured.chat_json`, awaited."""

        @overload
        def __call__(
            self, request: Prompt, schema: Type[T], *, timeout: Optional[float] = OWN, **options: Any
        ) -> Coroutine[Any, Any, T]: ...
        @overload
        def __call__(
            self, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
        ) -> Coroutine[Any, Any, Any]: ...


class Structured:
    """`chat` and `chat_stream` with a type for the answer."""

    if TYPE_CHECKING:

        @overload
        def chat_json(
            self: Chats, request: Prompt, schema: Type[T], *, timeout: Optional[float] = OWN, **options: Any
        ) -> T: ...
        @overload
        def chat_json(
            self: Chats, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
        ) -> Any: ...

    def chat_json(
        self: Chats, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
    ) -> Any:
        """Answer a request with an instance of a type. The server lets the model write nothing but JSON that fits it.

        The model itself does not see the type: say in the request what is wanted.

        Args:
            request: as for `chat`.
            schema: a dataclass, a TypedDict, a class with `model_json_schema` and `model_validate` (pydantic's), any
                other annotation that JSON can express, such as `List[Person]` or an Enum; or a JSON schema, as a
                mapping. Fields with a default may be missing from the answer. Annotated adds limits:
                `Annotated[str, Limits(maxLength=80)]`.
            timeout: as for `chat`.
            options: fields of `ChatRequest`; `max_tokens` has to suffice for all of the JSON.

        Returns:
            An instance of `schema`; for a mapping, what `json.loads` returns.

        Raises:
            StructuredOutputError: the model ran out of tokens before the end, or what it wrote does not fit.
            TypeError: JSON cannot express the type. Nothing was sent.
            FlynnError: as for `chat`.

        Example:
            >>> @dataclass                                                                   # doctest: +SKIP
            ... class City:
            ...     name: str
            ...     population: int
            >>> client.chat_json("What is the largest city of Japan?", City)                 # doctest: +SKIP
            City(name='Tokyo', population=13960000)
        """
        from ...structured.answer import Answer

        answer: Answer[Any] = Answer(schema)
        return answer.read(self.chat(request, timeout=timeout, **answer.options(request, options)))

    if TYPE_CHECKING:

        @overload
        def chat_json_stream(
            self: Chats, request: Prompt, schema: Type[T], *, timeout: Optional[float] = OWN, **options: Any
        ) -> JSONStream[T]: ...
        @overload
        def chat_json_stream(
            self: Chats, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
        ) -> JSONStream[Any]: ...

    def chat_json_stream(
        self: Chats, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
    ) -> JSONStream[Any]:
        """`chat_json`, with what there is of the answer as it grows.

        Args:
            request, schema: as for `chat_json`.
            timeout, options: as for `chat_stream`.

        Returns:
            An iterator of partial values; see `JSONStream` for what it raises. Its `result` is the instance.

        Raises:
            TypeError: JSON cannot express the type.
        """
        from ...structured.answer import Answer
        from ...structured.stream import JSONStream

        answer: Answer[Any] = Answer(schema)
        return JSONStream(self.chat_stream(request, timeout=timeout, **answer.options(request, options)), answer)
