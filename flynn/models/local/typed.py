"""Typed answers and tools: the methods of the client. What they do is in flynn/structured and flynn/tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, Type, TypeVar, Union, overload

from ..types import Prompt
from .chat import ChatRoutes
from .transport import OWN, Headers, Timeout

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ...structured.answer import JSONStream
    from ...tools import Tool
    from ...tools.run import ToolRun
    from ..options import CallOptions, RunOptions, StreamOptions

T = TypeVar("T")

DEFAULT_ROUNDS = 10
DEFAULT_RESULT = 20_000  # characters


class TypedRoutes(ChatRoutes):
    """The part of `LlamaCppClient` for typed answers and tools."""

    @overload
    def chat_json(self, request: Prompt, schema: Type[T], *, retries: int = 0, **options: Unpack[CallOptions]) -> T: ...
    @overload
    def chat_json(
        self, request: Prompt, schema: object, *, retries: int = 0, **options: Unpack[CallOptions]
    ) -> Any: ...

    def chat_json(self, request: Prompt, schema: object, *, retries: int = 0, **options: Unpack[CallOptions]) -> Any:
        """Answer a request with an instance of a type. The server lets the model write only JSON that matches it.

        The model does not see the type: say in the request what you want. `chat(..., response_format=schema)` returns
        the whole response, with usage, timings and reasoning, and has the instance as `parsed`.

        Args:
            request: as for `chat`.
            schema: a dataclass, a TypedDict, a NamedTuple, a class of pydantic, msgspec or attrs, or any annotation
                made of these, such as `List[Person]`; or a JSON schema, as a mapping, for what `json.loads` returns.
                Fields with a default may be missing from the answer. Annotated adds limits:
                `Annotated[str, Limits(maxLength=80)]`.
            retries: how often to ask again, with the reason, after an answer that does not fit; 0 by default.
            options: as for `chat`; `timeout` is for each request. `max_tokens` must be enough for all of the JSON.

        Raises:
            StructuredOutputError: the model ran out of tokens before the end, or the answer does not fit.
            TypeError: JSON cannot express the type, or llama.cpp's grammar a limit. Nothing was sent.

        Example:
            >>> @dataclass
            ... class City:
            ...     name: str
            ...     population: int
            >>> client.chat_json("What is the largest city of Japan?", City)
            City(name='Tokyo', population=13960000)
        """
        from ...structured.answer import TypedAnswer

        answer: TypedAnswer[Any] = TypedAnswer(schema)
        with_schema = answer.options(request, options)
        return answer.ask(lambda again: self.chat(again, **with_schema), request, retries)

    @overload
    def chat_json_stream(self, request: Prompt, schema: Type[T], **options: Unpack[StreamOptions]) -> JSONStream[T]: ...
    @overload
    def chat_json_stream(
        self, request: Prompt, schema: object, **options: Unpack[StreamOptions]
    ) -> JSONStream[Any]: ...

    def chat_json_stream(self, request: Prompt, schema: object, **options: Unpack[StreamOptions]) -> JSONStream[Any]:
        """`chat_json`, streamed: an iterator of partial values. Its `result` is the instance; see `JSONStream`.

        `request`, `schema` and TypeError as for `chat_json`, options as for `chat_stream`.

        Example:
            >>> with client.chat_json_stream("Invent a person.", Person) as stream:
            ...     for value in stream:
            ...         print(value)
            >>> stream.result
            Person(name='Ada', age=36)
        """
        from ...structured.answer import JSONStream, TypedAnswer

        answer: TypedAnswer[Any] = TypedAnswer(schema)
        return JSONStream(self.chat_stream(request, **answer.options(request, options)), answer)

    def run_tools(
        self,
        request: Prompt,
        tools: Iterable[Union[Callable[..., Any], Tool]],
        *,
        max_rounds: int = DEFAULT_ROUNDS,
        max_result: int = DEFAULT_RESULT,
        stream: bool = False,
        timeout: Timeout = OWN,
        headers: Headers = None,
        **options: Unpack[RunOptions],
    ) -> ToolRun:
        """Answer a request with the help of Python functions: the model calls them until it can answer.

        If a function raises, or a call does not match it, the model gets the reason as the result, in one line.

        Args:
            request: as for `chat`.
            tools: functions, with docstrings and annotations; or `Tool`s.
            max_rounds: upper bound on requests, 10 by default.
            max_result: characters of a result that are sent to the model, 20,000 by default. A note says what was cut.
            stream: yield the events of `chat_stream` too.
            timeout, headers: of each request. Functions take as long as they need.
            options: fields of `ChatRequest`. A `tool_choice` that forces a call holds for the first request only.

        Returns an iterator of steps; its `answer()` runs to the end, see `ToolRun` for what it raises. Raises TypeError
        if JSON cannot express a parameter of a function, or a function is asynchronous.

        Example:
            >>> client.run_tools("Do I need a coat in Oslo?", [get_weather]).answer().content
            'Yes, it is 2 °C.'
        """
        from ...tools.loop import ToolLoop
        from ...tools.run import ToolRun

        loop = ToolLoop(self._given(request, options), tools, max_rounds, max_result)
        return ToolRun(self, loop, stream, timeout=timeout, headers=headers)
