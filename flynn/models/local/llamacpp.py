"""`LlamaCppClient`: the client of a llama.cpp server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, Optional, Tuple, Type, TypeVar, Union, overload

from ...errors import ProtocolError
from ...http.checks import DEFAULT_TIMEOUT
from ...http.endpoint import DEFAULT_ENDPOINT
from ..types import ChatRequest, ChatResponse, Prompt
from .decode import ChatStreamDecoder, decode_chat, expect_object, get
from .encode import chat_request, encode_chat, encode_prompt, with_defaults
from .models import ModelRoutes
from .retrieval import RetrievalRoutes
from .server import ServerRoutes
from .stream import ChatStream
from .text import TextRoutes
from .transport import OWN, Transport

if TYPE_CHECKING:
    import ssl

    from ...structured.answer import JSONStream
    from ...tools import Tool
    from ...tools.run import ToolRun
    from ...tools.typed import TypedRequest

T = TypeVar("T")

DEFAULT_RESUME_FOR = 60.0
DEFAULT_ROUNDS = 10
DEFAULT_RESULT = 20_000  # characters
_CHAT = "/v1/chat/completions"


class LlamaCppClient(TextRoutes, RetrievalRoutes, ModelRoutes, ServerRoutes):
    """A client of one llama-server. It may be shared by threads, and keeps connections alive between calls.

    The `timeout` of a method is in seconds, for all of the call, None for no limit; by default it is the client's. What
    goes wrong in a call is raised as one of `flynn.errors`.

    Args:
        endpoint: `http://HOST:PORT`, `https://HOST:PORT` (a path after it is a prefix of every route), or
            `unix:///path/to.sock`.
        auth_token: sent as `Authorization: Bearer`, for a server with `--api-key`.
        timeout: seconds that a call may take, and that a stream may be silent; 60 by default, None for no limit.
        model: of every request that names none; for a server with several models.
        defaults: request options (fields of `ChatRequest`, `resume`, `resume_for`) for calls that do not set them.
        ssl_context: for `https:`; by default what `ssl.create_default_context` returns.

    Attributes:
        transport: sends any request; what the methods here are made of.

    Raises:
        ConfigError: the endpoint is no URL, or the token has characters that no header may have.

    Example:
        >>> client = LlamaCppClient("http://localhost:8080")
        >>> client.chat("Why is the sky blue?", max_tokens=200).content
        'The sky appears blue because of ...'
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        auth_token: Optional[str] = None,
        timeout: Optional[float] = DEFAULT_TIMEOUT,
        model: Optional[str] = None,
        defaults: Optional[Mapping[str, Any]] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        self.endpoint = endpoint
        self.transport = Transport(endpoint, auth_token, timeout, ssl_context)
        self.defaults = dict(defaults or {})
        if model is not None:
            self.defaults.setdefault("model", model)
        self._resume = self.defaults.pop("resume", False)
        self._resume_for = self.defaults.pop("resume_for", DEFAULT_RESUME_FOR)
        if self.defaults:
            chat_request("", self.defaults)  # refuses unknown names now rather than at the first call

    @property
    def timeout(self) -> Optional[float]:
        """The client's own."""
        return self.transport.timeout

    def chat(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> ChatResponse:
        """Answer a request, in one piece.

        Args:
            request: a prompt, a sequence of `Message` or mappings, or a `ChatRequest`.
            options: fields of `ChatRequest`. `tools` may hold functions: `reply.tool_calls[0].parsed` has the arguments
                for one. `response_format` may be a type, as for `chat_json`: `reply.parsed` is the instance.

        A server that answers in one piece looks only once a second, and only while it has nothing to send to anybody,
        whether its client has gone. A call that may have to be cancelled is better streamed.

        Raises:
            TypeError: an option is no field of `ChatRequest`, or JSON cannot express a function or a type.
            StructuredOutputError: an answer or the arguments of a call do not fit, or a call was forced and is missing.

        Example:
            >>> client.chat([Message("user", "Hi")], temperature=0).content
            'Hello! How can I help you today?'
        """
        asked, typed = self._typed(request, options)
        response = decode_chat(self.transport.fetch("POST", _CHAT, encode_chat(asked, stream=False), timeout))
        return typed.read(response) if typed else response

    def chat_stream(
        self,
        request: Prompt,
        *,
        timeout: Optional[float] = OWN,
        resume: Optional[bool] = None,
        resume_for: Optional[float] = None,
        **options: Any,
    ) -> ChatStream:
        """Answer a request, piece by piece as it is generated. The request is sent when iteration begins.

        Args:
            request, options: as for `chat`.
            timeout: seconds of silence.
            resume: go on where the stream was when its connection is cut. The server then keeps what it sent (4 MiB of
                it) until the stream ends or is closed. If this process is killed, the server generates to the end
                and forgets the stream 300 seconds later.
            resume_for: seconds for which to try, 60 by default.

        Returns:
            An iterator of events; see `ServerStream` for what it raises.

        Example:
            >>> with client.chat_stream("Hi") as stream:
            ...     for event in stream:
            ...         if event.type == "content":
            ...             print(event.text, end="")
        """
        asked, typed = self._typed(request, options)
        body = self._stream(_CHAT, encode_chat(asked, stream=True), asked.model, timeout, resume, resume_for)
        progress = bool(asked.return_progress)
        return ChatStream(body, typed.decoder(progress) if typed else ChatStreamDecoder(progress=progress))

    @overload
    def chat_json(
        self, request: Prompt, schema: Type[T], *, retries: int = 0, timeout: Optional[float] = OWN, **options: Any
    ) -> T: ...
    @overload
    def chat_json(
        self, request: Prompt, schema: object, *, retries: int = 0, timeout: Optional[float] = OWN, **options: Any
    ) -> Any: ...

    def chat_json(
        self, request: Prompt, schema: object, *, retries: int = 0, timeout: Optional[float] = OWN, **options: Any
    ) -> Any:
        """Answer a request with an instance of a type. The server lets the model write only JSON that matches it.

        The model does not see the type: say in the request what you want. `chat(..., response_format=schema)` returns
        the whole response, with usage, timings and reasoning, and has the instance as `parsed`.

        Args:
            request: as for `chat`.
            schema: a dataclass, a TypedDict, a NamedTuple, a class of pydantic, msgspec or attrs, or any annotation
                made of these, such as `List[Person]`; or a JSON schema, as a mapping. Fields with a default may be
                missing from the answer. Annotated adds limits: `Annotated[str, Limits(maxLength=80)]`.
            retries: how often to ask again, with the reason, after an answer that does not fit; 0 by default.
            timeout: seconds for each request.
            options: fields of `ChatRequest`; `max_tokens` must be enough for all of the JSON.

        Returns:
            An instance of `schema`; for a mapping, what `json.loads` returns.

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
        options = answer.options(request, options)
        return answer.ask(lambda asked: self.chat(asked, timeout=timeout, **options), request, retries)

    @overload
    def chat_json_stream(
        self, request: Prompt, schema: Type[T], *, timeout: Optional[float] = OWN, **options: Any
    ) -> JSONStream[T]: ...
    @overload
    def chat_json_stream(
        self, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
    ) -> JSONStream[Any]: ...

    def chat_json_stream(
        self, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
    ) -> JSONStream[Any]:
        """`chat_json`, streamed: the answer as it grows.

        Args:
            request, schema, options: as for `chat_json`.
            timeout: seconds of silence.

        Returns:
            An iterator of partial values; see `JSONStream` for what it raises. Its `result` is the instance.

        Raises:
            TypeError: as for `chat_json`.

        Example:
            >>> with client.chat_json_stream("What is the largest city of Japan?", City) as stream:
            ...     for value in stream:
            ...         print(value)
            >>> stream.result
            City(name='Tokyo', population=13960000)
        """
        from ...structured.answer import JSONStream, TypedAnswer

        answer: TypedAnswer[Any] = TypedAnswer(schema)
        return JSONStream(self.chat_stream(request, timeout=timeout, **answer.options(request, options)), answer)

    def run_tools(
        self,
        /,
        request: Prompt,
        tools: Iterable[Union[Callable[..., Any], Tool]],
        *,
        max_rounds: int = DEFAULT_ROUNDS,
        max_result: int = DEFAULT_RESULT,
        stream: bool = False,
        timeout: Optional[float] = OWN,
        **options: Any,
    ) -> ToolRun:
        """Answer a request with the help of Python functions: the model calls them until it can answer.

        If a function raises, or a call does not match it, the model gets the reason as the result, in one line.

        Args:
            request: as for `chat`.
            tools: functions, with docstrings and annotations; or `Tool`s.
            max_rounds: upper bound on requests, 10 by default.
            max_result: characters of a result that are sent to the model, 20,000 by default. A note says what was cut.
            stream: yield the events of `chat_stream` too.
            timeout: seconds for each request. Functions take as long as they need.
            options: fields of `ChatRequest`. A `tool_choice` that forces a call holds for the first request only.

        Returns:
            An iterator of steps; see `ToolRun` for what it raises. `answer()` runs to the end.

        Raises:
            TypeError: JSON cannot express a parameter of a function, or a function is asynchronous.

        Example:
            >>> client.run_tools("Do I need a coat in Oslo?", [get_weather]).answer().content
            'Yes, it is 2 °C.'
        """
        from ...tools.loop import ToolLoop
        from ...tools.run import ToolRun

        loop = ToolLoop(self._given(request, options), tools, max_rounds, max_result)
        return ToolRun(self, loop, stream, timeout)

    def count_tokens(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> int:
        """The number of prompt tokens that `chat` would send to the model, chat template included."""
        body = encode_prompt(self._request(request, options))
        reply = expect_object(self.transport.json("POST", f"{_CHAT}/input_tokens", body, timeout))
        count = get(reply, "input_tokens", -1)
        if count < 0:
            raise ProtocolError("expected a number of tokens as 'input_tokens', got none")
        return count

    def apply_template(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> str:
        """The prompt that the chat template makes of a request; it could be altered and given to `complete`.

        Example:
            >>> client.apply_template("Hi")
            '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
        """
        body = encode_prompt(self._request(request, options))
        return get(expect_object(self.transport.json("POST", "/apply-template", body, timeout)), "prompt", "")

    def end_reasoning(self, id: str, *, timeout: Optional[float] = OWN) -> bool:
        """Make a model that thinks in a stream stop that and answer. Wants `reasoning_control=True` in its request.

        Args:
            id: of the answer: `stream.response.id`, once something of it has come.

        Returns:
            False if no such answer is being generated, or not with `reasoning_control`.

        Example:
            >>> stream = client.chat_stream("Why?", reasoning_control=True)
            >>> for event in stream:
            ...     if event.type == "reasoning" and time.monotonic() > limit:
            ...         client.end_reasoning(stream.response.id)
        """
        reply = self._post(f"{_CHAT}/control", timeout, {"id": id, "action": "reasoning_end"})
        return get(expect_object(reply), "success", False)

    def request(
        self, method: str, path: str, body: Optional[Mapping[str, Any]] = None, *, timeout: Optional[float] = OWN
    ) -> Any:
        """Call any route of the server, for what has no method here.

        Args:
            method: e.g. `"POST"`.
            path: from the endpoint's prefix on, with a query if the route wants one.
            body: sent as JSON; None for no body.

        Returns:
            The JSON of the reply, decoded.

        Example:
            >>> client.request("GET", "/props")["total_slots"]
            4
        """
        return self.transport.json(method, path, body, timeout)

    def close(self) -> None:
        """Close the idle connections. Streams under way go on."""
        self.transport.close()

    def __enter__(self) -> LlamaCppClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LlamaCppClient({self.endpoint!r})"

    def _given(self, prompt: Prompt, options: Mapping[str, Any]) -> ChatRequest:
        """The request with the client's defaults, and perhaps with functions and types in it."""
        return with_defaults(chat_request(prompt, options), self.defaults)

    def _request(self, prompt: Prompt, options: Mapping[str, Any]) -> ChatRequest:
        """The request as JSON."""
        return self._typed(prompt, options)[0]

    def _typed(self, prompt: Prompt, options: Mapping[str, Any]) -> Tuple[ChatRequest, Optional[TypedRequest]]:
        """The request as JSON, and what reads its reply if it holds functions or types, or forces a call."""
        request = self._given(prompt, options)
        tools = request.tools if isinstance(request.tools, (list, tuple)) else [request.tools]
        values = [request.response_format, request.json_schema, *tools]
        if request.tool_choice in (None, "auto", "none") and all(v is None or isinstance(v, Mapping) for v in values):
            return request, None
        from ...tools.typed import TypedRequest

        typed = TypedRequest(request)
        return typed.request, typed
