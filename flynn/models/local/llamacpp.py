"""`LlamaCppClient`: the client of a llama.cpp server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, Optional, Type, TypeVar, Union, overload

from ...errors import ProtocolError
from ...http.checks import DEFAULT_TIMEOUT
from ...http.endpoint import DEFAULT_ENDPOINT
from ...trace import Tracer
from ..types import ChatRequest, ChatResponse, Prompt
from .decode import ChatStreamDecoder, decode_chat, expect_object, get
from .encode import chat_request, encode_chat, encode_prompt, with_defaults
from .models import ModelRoutes
from .retrieval import RetrievalRoutes
from .server import ServerRoutes
from .stream import ChatStream
from .text import TextRoutes
from .tokens import TokenRoutes
from .transport import OWN, Transport

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Unpack

    from ...structured.answer import JSONStream
    from ...tools import Tool
    from ...tools.run import ToolRun
    from ..options import ChatOptions

T = TypeVar("T")

DEFAULT_RESUME_FOR = 60.0
DEFAULT_ROUNDS = 10
DEFAULT_RESULT = 20_000  # characters
_CHAT = "/v1/chat/completions"


class LlamaCppClient(TextRoutes, TokenRoutes, RetrievalRoutes, ModelRoutes, ServerRoutes):
    """A client of one llama-server. Threads may share it; it keeps connections alive between calls.

    Every method takes `timeout` in seconds for the whole call, None for no limit; the default is the client's. Every
    failure of a call is raised as one of `flynn.errors`.

    Args:
        endpoint: `http://HOST:PORT`, `https://HOST:PORT` (a path after it is a prefix of every route), or
            `unix:///path/to.sock`.
        auth_token: sent as `Authorization: Bearer`, for a server with `--api-key`.
        timeout: seconds that a one-shot call may take, and that a stream may be silent; 60 by default, None for no
            limit.
        model: the model of requests that name none, on a server with several models.
        defaults: request options (fields of `ChatRequest`, `resume`, `resume_for`) for calls that do not set them.
        connect_timeout: seconds for each attempt to connect to an address, to notice an address that drops packets
            before a long `timeout` has passed; None by default: only `timeout` limits it.
        retries: how often to send a call again after a temporary failure: a refused connection, a connection lost
            before the answer began, HTTP 429, 502, 503, 504. Pauses are random, grow, and honour Retry-After;
            `timeout` bounds the whole. 0 by default.
        headers: sent with every request, such as the login of a proxy. No log and no error shows their values.
        trace: called with a `TraceEvent` for each step of a call; see `flynn.trace`.
        ssl_context: for `https:`; by default that of `ssl.create_default_context`.

    Attributes:
        transport: sends the requests of all methods.

    Raises:
        ConfigError: the endpoint is not a URL, or the token has characters that a header cannot carry.

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
        connect_timeout: Optional[float] = None,
        retries: int = 0,
        headers: Optional[Mapping[str, str]] = None,
        trace: Optional[Tracer] = None,
        model: Optional[str] = None,
        defaults: Optional[Mapping[str, Any]] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        self.endpoint = endpoint
        self.transport = Transport(
            endpoint,
            auth_token=auth_token,
            timeout=timeout,
            connect_timeout=connect_timeout,
            retries=retries,
            headers=headers,
            trace=trace,
            ssl_context=ssl_context,
        )
        self.defaults = dict(defaults or {})
        if model is not None:
            self.defaults.setdefault("model", model)
        self._resume = self.defaults.pop("resume", False)
        self._resume_for = self.defaults.pop("resume_for", DEFAULT_RESUME_FOR)
        if self.defaults:
            chat_request("", self.defaults)  # raises for unknown names now, not at the first call

    @property
    def timeout(self) -> Optional[float]:
        """The client's timeout in seconds, None for no limit."""
        return self.transport.timeout

    def chat(
        self,
        /,
        request: Prompt,
        *,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatResponse:
        """Return the answer to a request, in one piece.

        llama-server checks for a disconnected client only once a second, and only when idle. Prefer `chat_stream` for
        calls that you may cancel.

        Args:
            request: a prompt, a sequence of `Message` or mappings, or a `ChatRequest`.
            headers: sent with this request besides the client's.
            options: fields of `ChatRequest`.

        Raises:
            TypeError: an option is not a field of `ChatRequest`.

        Example:
            >>> client.chat([Message("user", "Hi")], temperature=0).content
            'Hello! How can I help you today?'
        """
        body = encode_chat(self._request(request, options), stream=False)
        response: ChatResponse = self.transport.fetch(
            "POST", _CHAT, body, timeout, headers=headers, decode=decode_chat
        )
        return response

    def chat_stream(
        self,
        request: Prompt,
        *,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
        resume: Optional[bool] = None,
        resume_for: Optional[float] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream:
        """Stream the answer to a request while it is generated. The request is sent when iteration begins.

        Args:
            request, headers, options: as for `chat`.
            timeout: longest silence, in seconds.
            resume: after a cut connection, go on where the stream stopped; False by default. The server then keeps the
                last 4 MiB that it sent until the stream ends or is closed. If this process is killed, the server
                generates to the end and forgets the stream 300 seconds later.
            resume_for: seconds to try to resume after a cut, 60 by default.

        Returns:
            An iterator of events; see `ServerStream` for what it raises.

        Example:
            >>> with client.chat_stream("Hi") as stream:
            ...     for event in stream:
            ...         if event.type == "content":
            ...             print(event.text, end="")
        """
        request = self._request(request, options)
        body = encode_chat(request, stream=True)
        streamed = self._stream(_CHAT, body, request.model, timeout, headers, resume, resume_for)
        return ChatStream(streamed, ChatStreamDecoder(progress=bool(request.return_progress)))

    @overload
    def chat_json(
        self, request: Prompt, schema: Type[T], *, timeout: Optional[float] = OWN, **options: Any
    ) -> T: ...
    @overload
    def chat_json(
        self, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any
    ) -> Any: ...

    def chat_json(self, request: Prompt, schema: object, *, timeout: Optional[float] = OWN, **options: Any) -> Any:
        """Answer a request with an instance of a type. The server lets the model write nothing but JSON that fits it.

        The model itself does not see the type: say in the request what is wanted.

        Args:
            request: as for `chat`.
            schema: a dataclass, a TypedDict, a class with `model_json_schema` and `model_validate` (pydantic's), any
                other annotation that JSON can express, such as `List[Person]` or an Enum; or a JSON schema, as a
                mapping. Fields with a default may be missing from the answer. Annotated adds limits:
                `Annotated[str, Limits(maxLength=80)]`.
            options: fields of `ChatRequest`; `max_tokens` has to suffice for all of the JSON.

        Returns:
            An instance of `schema`; for a mapping, what `json.loads` returns.

        Raises:
            StructuredOutputError: the model ran out of tokens before the end, or what it wrote does not fit.
            TypeError: JSON cannot express the type. Nothing was sent.

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
        return answer.read(self.chat(request, timeout=timeout, **answer.options(request, options)))

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
        """`chat_json`, with what there is of the answer as it grows.

        Args:
            request, schema, options: as for `chat_json`.
            timeout: seconds of silence.

        Returns:
            An iterator of partial values; see `JSONStream` for what it raises. Its `result` is the instance.
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

        What a function raises, and a call that does not fit, is told to the model as the result.

        Args:
            request: as for `chat`.
            tools: functions, with docstrings and annotations; or `Tool`s.
            max_rounds: requests that may be sent, 10 by default.
            max_result: characters of a result that the model is told, 20,000 by default; what is cut is said.
            stream: give the events of `chat_stream` too, while a reply is generated.
            timeout: for each request. Functions take what time they need.
            options: fields of `ChatRequest`. A `tool_choice` that forces a call holds for the first request only.

        Returns:
            An iterator of steps; see `ToolRun` for what it raises. `answer()` runs to the end.

        Raises:
            TypeError: a function, or a parameter of it, cannot be expressed as a tool, or it is asynchronous.

        Example:
            >>> client.run_tools("Do I need a coat in Oslo?", [get_weather]).answer().content
            'Yes, it is 2 °C.'
        """
        from ...tools.loop import ToolLoop
        from ...tools.run import ToolRun

        rounds = ToolLoop(self._request(request, options), tools, max_rounds, max_result)
        return ToolRun(self, rounds, stream, timeout)

    def count_tokens(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> int:
        """Return the number of prompt tokens of a `chat` request, chat template included."""
        body = encode_prompt(self._request(request, options))
        reply = expect_object(self.transport.json("POST", f"{_CHAT}/input_tokens", body, timeout))
        count = get(reply, "input_tokens", -1)
        if count < 0:
            raise ProtocolError("expected a number of tokens as 'input_tokens', got none")
        return count

    def apply_template(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> str:
        """Return the prompt that the chat template makes of a request. `complete` takes it, changed or not.

        Example:
            >>> client.apply_template("Hi")
            '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
        """
        body = encode_prompt(self._request(request, options))
        return get(expect_object(self.transport.json("POST", "/apply-template", body, timeout)), "prompt", "")

    def end_reasoning(self, id: str, *, timeout: Optional[float] = OWN) -> bool:
        """Make a reasoning model stop thinking and answer. Its request needs `reasoning_control=True`.

        Args:
            id: the ID of the answer: `stream.response.id`, set after the first event.

        Returns:
            False if no answer with this ID and `reasoning_control` is being generated.

        Example:
            >>> stream = client.chat_stream("Why?", reasoning_control=True)
            >>> for event in stream:
            ...     if event.type == "reasoning" and time.monotonic() > limit:
            ...         client.end_reasoning(stream.response.id)
        """
        reply = self._post(f"{_CHAT}/control", timeout, {"id": id, "action": "reasoning_end"})
        return get(expect_object(reply), "success", False)

    def request(
        self,
        method: str,
        path: str,
        body: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Any:
        """Call any route of the server, such as one that has no method here.

        Args:
            method: e.g. `"POST"`.
            path: below the endpoint's prefix, with its query.
            body: sent as JSON; None for no body.
            headers: sent with this request besides the client's.

        Returns:
            The JSON of the reply, decoded; None if it has no body (204).

        Example:
            >>> client.request("GET", "/props")["total_slots"]
            4
        """
        return self.transport.json(method, path, body, timeout, headers)

    def close(self) -> None:
        """Close the idle connections. Streams under way go on."""
        self.transport.close()

    def __enter__(self) -> LlamaCppClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LlamaCppClient({self.endpoint!r})"

    def _request(self, prompt: Prompt, options: Mapping[str, Any]) -> ChatRequest:
        return with_defaults(chat_request(prompt, options), self.defaults)
