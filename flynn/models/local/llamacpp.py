"""`LlamaCppClient`: the client of a llama.cpp server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional

from ...http.checks import DEFAULT_TIMEOUT
from ...http.endpoint import DEFAULT_ENDPOINT
from ...trace import Tracer
from .encode import chat_request
from .models import ModelRoutes
from .retrieval import RetrievalRoutes
from .server import ServerRoutes
from .text import TextRoutes
from .tokens import TokenRoutes
from .transport import OWN, Transport
from .typed import TypedRoutes

if TYPE_CHECKING:
    import ssl

DEFAULT_RESUME_FOR = 60.0


class LlamaCppClient(TypedRoutes, TextRoutes, TokenRoutes, RetrievalRoutes, ModelRoutes, ServerRoutes):
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
