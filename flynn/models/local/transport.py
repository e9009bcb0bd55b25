"""Requests to one llama-server: headers, limits, retries, waiting for its model, and the errors of 4xx and 5xx.

The routes are in chat.py, text.py, tokens.py, retrieval.py, server.py and models.py.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, TypeVar, Union
from urllib.parse import quote

from ...errors import ConfigError, FlynnError, ModelLoadingError, ProtocolError, RequestTimeoutError, ServerError
from ...http.checks import check_headers, check_retries, check_timeout, check_token
from ...http.connection import Connection
from ...http.endpoint import Endpoint, parse_endpoint
from ...http.limits import Call
from ...http.pool import ConnectionPool
from ...http.response import Response
from ...retry import is_temporary, pause
from ...trace import Tracer, reporter
from .decode import decode_error, decode_json
from .encode import encode_json

if TYPE_CHECKING:
    import ssl  # a Python may lack it

T = TypeVar("T")
JSONBody = Union[Mapping[str, Any], List[Any]]

OWN: Any = ...  # the default of `timeout` arguments: the client's timeout. None means no limit
Timeout = Optional[float]  # seconds
Headers = Optional[Mapping[str, str]]  # sent besides those of the client
MAX_REPLY = 256 * 1024 * 1024  # bytes of a reply in one piece
MAX_ERROR = 1024 * 1024  # bytes of an error
JSON = "application/json"
EVENT_STREAM = "text/event-stream"
_KINDS = {JSON: "JSON", EVENT_STREAM: "an event stream"}
LOADING_PAUSE = 0.25  # seconds between two looks whether the model is loaded


class Transport:
    """Sends requests to any route, whatever their content.

    Args:
        endpoint, auth_token, timeout, connect_timeout, retries, headers, trace, ssl_context: see `LlamaCppClient`.
        max_reply: largest reply in one piece, in bytes; more is a ProtocolError.

    Attributes:
        trace: called with each `TraceEvent`; None for no tracing.
        resumable: False once the server has shown that it cannot resume streams.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        auth_token: Optional[str] = None,
        timeout: Optional[float] = None,
        connect_timeout: Optional[float] = None,
        retries: int = 0,
        headers: Optional[Mapping[str, str]] = None,
        trace: Optional[Tracer] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
        max_reply: int = MAX_REPLY,
    ) -> None:
        self.timeout = check_timeout(timeout)
        self.resumable = True
        self._connect_timeout = check_timeout(connect_timeout)
        self._retries = check_retries(retries)
        self._headers = {"User-Agent": "flynn", "Accept-Encoding": "identity", **check_headers(headers)}
        if auth_token is not None:
            if "authorization" in map(str.lower, self._headers):
                raise ConfigError("give auth_token or a header Authorization, not both")
            self._headers["Authorization"] = f"Bearer {check_token(auth_token)}"
        self.trace = trace
        self._ssl_context = ssl_context
        self._max_reply = max_reply
        self._use(parse_endpoint(endpoint))

    def _use(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pool = ConnectionPool(endpoint, self._ssl_context)

    def call(self, timeout: Optional[float], *, whole: bool = True) -> Call:
        """Return the limits of a call: `timeout` seconds for the whole call, or, if not `whole`, for each silence."""
        timeout = self.timeout if timeout is OWN else check_timeout(timeout)
        return Call(timeout, whole=whole, connect_timeout=self._connect_timeout, report=reporter(self.trace))

    def json(
        self,
        method: str,
        path: str,
        body: Optional[JSONBody] = None,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Any:
        """Return the JSON of a reply, None if it has no body (204); see `LlamaCppClient.request`."""
        data = None if body is None else encode_json(body)
        return self.fetch(method, path, data, timeout, headers=headers, decode=_json_or_none)

    def fetch(
        self,
        method: str,
        path: str,
        body: Optional[bytes] = None,
        timeout: Optional[float] = OWN,
        *,
        kind: str = JSON,
        headers: Optional[Mapping[str, str]] = None,
        patient: bool = True,
        decode: Callable[[bytes], T],
    ) -> T:
        """Return the decoded body of a reply, which must have the media type `kind`; see `send`."""
        headers, call = check_headers(headers) if headers else None, self.call(timeout)
        try:
            response = self.send(call, method, path, body, kind=kind, headers=headers, patient=patient)
            data = self.read(response)
            answer = decode(data)
        except BaseException as error:
            call.ended(error)
            raise
        call.report("answer", bytes=len(data), response=answer)
        return answer

    def read(self, response: Response) -> bytes:
        """Return the body of a reply in one piece."""
        return response.read_all(self._max_reply)

    def send(
        self,
        call: Call,
        method: str,
        path: str,
        body: Optional[bytes] = None,
        *,
        kind: str = "",
        headers: Optional[Mapping[str, str]] = None,
        patient: bool = True,
        streamed: bool = False,
    ) -> Response:
        """Send a request and return the response, its head read.

        Args:
            call: the limits.
            kind: the media type that the answer must have; empty for any.
            headers: sent besides those of every request.
            patient: whether to wait while the model loads, and to retry as often as the client says.
            streamed: whether the answer is a stream: llama-server closes its connection at the end.

        Raises: the error of a 4xx or 5xx answer, and see `Connection.exchange`.
        """
        all_headers: Dict[str, str] = {**self._headers, "Accept": kind or JSON, **(headers or {})}
        if body is not None:
            all_headers["Content-Type"] = JSON
        give_up = math.inf if call.timeout is None else time.monotonic() + call.timeout
        failures = 0
        failure: Optional[FlynnError] = None
        try:
            while True:
                try:
                    return self._exchange(call, method, path, body, all_headers, kind, streamed)
                except RequestTimeoutError as error:
                    raise failure or error.advise(_timed_out(call)) from None
                except FlynnError as error:
                    failure = error
                if patient and isinstance(failure, ModelLoadingError):
                    wait = LOADING_PAUSE
                    call.report("loading")
                elif patient and failures < self._retries and is_temporary(failure):
                    wait = pause(failures, getattr(failure, "retry_after", None))
                    failures += 1
                    call.report("retry", error=failure, pause=wait, left=self._retries - failures)
                else:
                    raise failure
                if time.monotonic() + wait > give_up:
                    raise failure
                call.pause(wait)
        finally:
            # The error refers to this frame. If the frame also referred to the error, its connection would stay open
            # until the garbage collector runs.
            failure = None

    def _exchange(
        self,
        call: Call,
        method: str,
        path: str,
        body: Optional[bytes],
        headers: Mapping[str, str],
        kind: str,
        streamed: bool,
    ) -> Response:
        """Send a request once. Raises the error of an answer other than 2xx."""
        call.report("request", method=method, path=path, bytes=len(body or b""), body=body)
        endpoint = self._endpoint
        exchange = Connection(endpoint, self._ssl_context).exchange if streamed else self._pool.request
        response = exchange(call, method, path, body, headers)
        call.report("response", status=response.status)
        if 200 <= response.status < 300:
            if kind and response.content_type != kind and not (kind == JSON and response.status == 204):
                response.close()
                media_type = response.content_type or "no content type"
                raise ProtocolError(f"expected {_KINDS.get(kind, kind)}, got {media_type!r}")
            return response
        if response.status < 400:
            response.close()
            raise ProtocolError(f"expected an answer, got a redirect (HTTP {response.status}), not followed")
        if response.status == 404 and endpoint.prefix.endswith("/v1"):
            # OpenAI's clients want /v1 in their base URL. Drop it if the server does not know it as a prefix.
            response.read_all(MAX_ERROR)
            self._use(replace(endpoint, prefix=endpoint.prefix[: -len("/v1")]))
            try:
                return self._exchange(call, method, path, body, headers, kind, streamed)
            except ServerError as error:
                if error.status == 404:
                    self._use(endpoint)
                raise
        raise _refusal(response, endpoint.url + path.partition("?")[0])

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


def _refusal(response: Response, url: str) -> ServerError:
    """Return the error of an answer with the status 4xx or 5xx."""
    error = decode_error(response.status, response.read_all(MAX_ERROR), response.reason)
    error.retry_after = _seconds(response.headers.get("retry-after"))
    hint = _HINTS.get(response.status)
    if response.status == 400 and "Pooling type 'none'" in str(error):
        hint = _POOLING
    return error.advise(hint.format(url=url)) if hint else error


# What to do about an HTTP status.
_HINTS = {
    401: "the token comes from auth_token=, $FLYNN_AUTH_TOKEN, or auth_token or auth_token_file in the configuration",
    404: "asked for {url}",
}
_POOLING = "embed_tokens returns a vector for each token; for one for each text, start llama-server with --pooling mean"


def _timed_out(call: Call) -> str:
    what = "the whole call" if call.whole else "a silence"
    return f"the limit for {what} is {call.timeout:g} s; timeout= or --timeout sets another one"


def _json_or_none(data: bytes) -> Any:
    return decode_json(data) if data else None


def _seconds(retry_after: Optional[str]) -> Optional[float]:
    """Return the seconds in a Retry-After header (RFC 9110 section 10.2.3), None if it is missing or a date."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


class Routes:
    """Sends the JSON requests of the routes. Every one gets the model among the client's defaults."""

    defaults: Dict[str, Any]
    transport: Transport

    def _get(self, path: str, timeout: Optional[float]) -> Any:
        """Return the JSON of a route about the client's model."""
        return self.transport.json("GET", about(path, self.defaults.get("model")), None, timeout)

    def _post(
        self,
        path: str,
        timeout: Optional[float],
        fields: Mapping[str, Any],
        extra: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Any:
        """Post the fields that are not None, with the client's model by default. Returns the JSON of the answer."""
        body = {name: value for name, value in {**fields, **(extra or {})}.items() if value is not None}
        if "model" in self.defaults:
            body.setdefault("model", self.defaults["model"])
        return self.transport.json("POST", path, body, timeout, headers)


def about(path: str, model: Optional[str]) -> str:
    """Return a path with the model in its query, for a server with several models."""
    return path if model is None else f"{path}?model={quote(model, safe='')}"
