"""`LlamaCppClient`: the client of a llama.cpp server."""

from __future__ import annotations

from ...errors import ConnectionLostError, FlynnError, ModelLoadingError, RequestTimeoutError, ServerNotRunningError
from ...http.call import DEFAULT_TIMEOUT
from . import server
from .decode import decode_chat, decode_json
from .decode_stream import ChatStreamDecoder
from .encode import chat_request, encode_chat, encode_prompt, with_defaults
from .session import Session
from .stream import ChatStream
from .transfer import Transfer
from .transport import LOADING_PAUSE, MAX_ERROR, OWN, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any, Callable, Iterable, List, Mapping, Optional, Sequence, Union

    from ...tools.run import ToolRun
    from ...tools.signature import Tool
    from ..types import ChatRequest, ChatResponse, Prompt

DEFAULT_RESUME_FOR = 60.0
DEFAULT_ROUNDS = 10
DEFAULT_RESULT = 20_000  # characters
_CHAT = "/v1/chat/completions"


class LlamaCppClient:
    """A client of one llama-server. It may be shared by threads, and keeps connections alive between calls.

    Args:
        endpoint: `http://HOST:PORT`, `https://HOST:PORT` (a path after it is a prefix of every route), or
            `unix:///path/to.sock`.
        auth_token: sent as `Authorization: Bearer`, for a server with `--api-key`.
        timeout: seconds that a call may take, and that a stream may be silent; 60 by default, None for no limit.
        model: of every request that names none; for a server with several models.
        defaults: request options (fields of `ChatRequest`, `resume`, `resume_for`) for calls that do not set them.
        ssl_context: for `https:`; by default what `ssl.create_default_context` returns.

    Attributes:
        endpoint: as it was given.
        defaults: the fields of `ChatRequest` that are added to requests without them.
        transport: sends any request; what the methods here are made of.

    Raises:
        ConfigError: the endpoint is no URL, or the token has characters that no header may have.

    Example:
        >>> client = LlamaCppClient("http://localhost:8080")
        >>> client.chat("Why is the sky blue?", max_tokens=200).content                      # doctest: +SKIP
        'The sky appears blue because of ...'
    """

    def __init__(
        self,
        endpoint: str,
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
        chat_request("", self.defaults)  # refuses unknown names now rather than at the first call

    @property
    def timeout(self) -> Optional[float]:
        """Seconds, None for no limit, of calls that do not say otherwise."""
        return self.transport.timeout

    def chat(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> ChatResponse:
        """Answer a request, in one piece.

        Args:
            request: a prompt, a sequence of `Message` or mappings, or a `ChatRequest`.
            timeout: seconds for all of the call, None for no limit; by default the client's.
            options: fields of `ChatRequest`.

        A server that answers in one piece looks only once a second, and only while it has nothing to send to anybody,
        whether its client has gone. A call that may have to be cancelled is better streamed.

        Raises:
            ServerNotRunningError, RequestTimeoutError, ServerError, ProtocolError: see `flynn.errors`.
            TypeError: an option is no field of `ChatRequest`.

        Example:
            >>> client.chat([Message("user", "Hi")], temperature=0).content                  # doctest: +SKIP
            'Hello! How can I help you today?'
        """
        body = encode_chat(self._request(request, options), stream=False)
        return decode_chat(self.transport.fetch("POST", _CHAT, body, timeout))

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
            request: as for `chat`.
            timeout: seconds of silence, None for no limit; by default the client's.
            resume: go on where the stream was when its connection is cut. The server then keeps what it sent (4 MiB of
                it) until the stream ends or is closed. If this process is killed, the server generates to the end
                and forgets the stream 300 seconds later.
            resume_for: seconds for which to try, 60 by default.
            options: fields of `ChatRequest`.

        Returns:
            An iterator of events; see `ChatStream` for what it raises.
        """
        made = self._request(request, options)
        resuming = self._resume if resume is None else resume
        transfer = Transfer(
            self.transport.send,
            self.transport.call(timeout, whole=False),
            _CHAT,
            encode_chat(made, stream=True),
            Session(made.model) if resuming else None,
            self._resume_for if resume_for is None else resume_for,
        )
        return ChatStream(transfer, ChatStreamDecoder(progress=bool(made.return_progress)))

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
            timeout: for each request, as for `chat` or `chat_stream`. Functions take what time they need.
            options: fields of `ChatRequest`. A `tool_choice` that forces a call holds for the first request only.

        Returns:
            An iterator of steps; see `ToolRun` for what it raises. `answer()` runs to the end.

        Raises:
            TypeError: a function, or a parameter of it, cannot be expressed as a tool, or it is asynchronous.

        Example:
            >>> client.run_tools("Do I need a coat in Oslo?", [get_weather]).answer().content    # doctest: +SKIP
            'Yes, it is 2 °C.'
        """
        from ...tools.rounds import Rounds
        from ...tools.run import ToolRun

        rounds = Rounds(self._request(request, options), tools, max_rounds, max_result)
        return ToolRun(self, rounds, stream, timeout)

    def count_tokens(self, /, request: Prompt, *, timeout: Optional[float] = OWN, **options: Any) -> int:
        """The number of prompt tokens that `chat` would send to the model, chat template included.

        Raises:
            FlynnError: as for `chat`.
        """
        body = encode_prompt(self._request(request, options))
        return server.decode_count(self.transport.json("POST", f"{_CHAT}/input_tokens", body, timeout))

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, timeout: Optional[float] = OWN
    ) -> List[int]:
        """The tokens of a text.

        Args:
            text: any text; no chat template is applied.
            add_special: add what the model wants at the beginning, such as BOS.
            parse_special: take `<|im_start|>` and the like for the tokens that they name.
        """
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return server.decode_tokens(self.transport.json("POST", "/tokenize", body, timeout))

    def detokenize(self, tokens: Sequence[int], *, timeout: Optional[float] = OWN) -> str:
        """The text of tokens."""
        return server.decode_text(self.transport.json("POST", "/detokenize", {"tokens": list(tokens)}, timeout))

    def health(self, *, timeout: Optional[float] = OWN) -> server.Health:
        """Whether the server is ready, without waiting for it.

        Returns:
            Health: true if it is ready, false while its model loads.

        Raises:
            ServerNotRunningError: it is not up.
        """
        call = self.transport.call(timeout)
        try:
            reply = self.transport.send(call, "GET", "/health", wait_for_model=False).read(MAX_ERROR)
        except ModelLoadingError:
            return server.Health("loading")
        return server.decode_health(decode_json(reply))

    def wait_until_ready(self, timeout: Optional[float] = OWN) -> None:
        """Wait until the server is up and its model is loaded.

        Raises:
            ServerNotRunningError: it is not up after `timeout` seconds.
            ModelLoadingError: it still loads the model then.
        """
        call = self.transport.call(timeout)
        down: Optional[FlynnError] = None
        while True:
            try:
                self.transport.send(call, "GET", "/health").close()
                return
            except (ServerNotRunningError, ConnectionLostError) as error:  # the latter while it goes down
                down = error
            except RequestTimeoutError:
                raise down or RequestTimeoutError() from None
            try:
                call.pause(LOADING_PAUSE)
            except RequestTimeoutError:
                raise down from None

    def props(self, *, timeout: Optional[float] = OWN) -> server.Props:
        """What the server runs: model, context, slots, build."""
        return server.decode_props(self.transport.json("GET", "/props", None, timeout))

    def models(self, *, timeout: Optional[float] = OWN) -> List[server.ModelInfo]:
        """The models that the server offers."""
        return server.decode_models(self.transport.json("GET", "/v1/models", None, timeout))

    def slots(self, *, timeout: Optional[float] = OWN) -> List[server.Slot]:
        """What each slot of the server is doing.

        Raises:
            NotSupportedError: the server was started with `--no-slots`.
        """
        return server.decode_slots(self.transport.json("GET", "/slots", None, timeout))

    def request(
        self, method: str, path: str, body: Optional[Mapping[str, Any]] = None, *, timeout: Optional[float] = OWN
    ) -> Any:
        """Call any route of the server, for what has no method here.

        Args:
            method: e.g. `"POST"`.
            path: from the endpoint's prefix on, with a query if the route wants one.
            body: sent as JSON; None for no body.
            timeout: as for `chat`.

        Returns:
            The JSON of the reply, decoded.

        Raises:
            FlynnError: as for `chat`.

        Example:
            >>> client.request("POST", "/apply-template", {"messages": []})["prompt"]          # doctest: +SKIP
            ''
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

    def _request(self, prompt: Prompt, options: Mapping[str, Any]) -> ChatRequest:
        return with_defaults(chat_request(prompt, options), self.defaults)
