"""Requests to one llama-server: headers, limits, waiting for its model, and what an answer other than 2xx means.

The routes that are made of them are in llamacpp.py (chat), text.py, retrieval.py, server.py and models.py.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Union
from urllib.parse import quote

from ...errors import ModelLoadingError, ProtocolError, RequestTimeoutError
from ...http.checks import check_timeout, check_token
from ...http.connection import Connection
from ...http.endpoint import parse_endpoint
from ...http.limits import Call
from ...http.pool import ConnectionPool
from ...http.response import Response
from .decode import decode_error, decode_json
from .encode import encode_json

if TYPE_CHECKING:
    import ssl  # a Python may lack it

JSONBody = Union[Mapping[str, Any], List[Any]]

OWN: Any = ...  # as a default of `timeout`: the client's own; None means no limit
MAX_REPLY = 256 * 1024 * 1024  # bytes of a reply in one piece
MAX_ERROR = 1024 * 1024  # bytes of an error
_JSON = "application/json"
_KINDS = {_JSON: "JSON", "text/event-stream": "an event stream"}
LOADING_PAUSE = 0.25  # seconds between two looks whether the model is loaded


class Transport:
    """Sends requests to any route; knows nothing of what they ask.

    Args:
        endpoint, auth_token, timeout, ssl_context: see `LlamaCppClient`.
        max_reply: largest reply in one piece, in bytes; more is a ProtocolError.
    """

    def __init__(
        self,
        endpoint: str,
        auth_token: Optional[str] = None,
        timeout: Optional[float] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
        max_reply: int = MAX_REPLY,
    ) -> None:
        self.timeout = check_timeout(timeout)
        self._headers = {"User-Agent": "flynn", "Accept-Encoding": "identity"}
        if auth_token is not None:
            self._headers["Authorization"] = f"Bearer {check_token(auth_token)}"
        self._endpoint = parse_endpoint(endpoint)
        self._ssl_context = ssl_context
        self._max_reply = max_reply
        self._pool = ConnectionPool(self._endpoint, ssl_context)

    def call(self, timeout: Optional[float], *, whole: bool = True) -> Call:
        """Return the limits of a call: `timeout` seconds for all of it, or, if not `whole`, for each silence."""
        return Call(self.timeout if timeout is OWN else check_timeout(timeout), whole=whole)

    def json(self, method: str, path: str, body: Optional[JSONBody] = None, timeout: Optional[float] = OWN) -> Any:
        """Return the JSON of a reply, None if it has no body (204); see `LlamaCppClient.request`."""
        data = self.fetch(method, path, None if body is None else encode_json(body), timeout)
        return decode_json(data) if data else None

    def fetch(
        self, method: str, path: str, body: Optional[bytes] = None, timeout: Optional[float] = OWN, kind: str = _JSON
    ) -> bytes:
        """As `json`, bytes in and out. The reply must be of the media type `kind`."""
        return self.read(self.send(self.call(timeout), method, path, body, kind=kind))

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
        wait_for_model: bool = True,
        streamed: bool = False,
    ) -> Response:
        """Send a request and return the response, its head read. Waits while the model loads.

        Args:
            call: the limits.
            kind: media type that the answer must have; empty for any.
            headers: besides those of every request.
            wait_for_model: whether to try again while the server says that its model loads.
            streamed: whether the answer is a stream, whose connection llama-server closes at its end.

        Raises: the error that an answer other than 2xx means, and see `Connection.exchange`.
        """
        sent: Dict[str, str] = {**self._headers, "Accept": kind or _JSON, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = _JSON
        give_up = math.inf if call.timeout is None else time.monotonic() + call.timeout
        loading: Optional[ModelLoadingError] = None
        while True:
            try:
                exchange = Connection(self._endpoint, self._ssl_context).exchange if streamed else self._pool.request
                response = exchange(call, method, path, body, sent)
                if 200 <= response.status < 300:
                    return _expect(response, kind)
                if response.status < 400:
                    response.close()
                    raise ProtocolError(f"expected an answer, got a redirect (HTTP {response.status}), not followed")
                error = decode_error(response.status, response.read_all(MAX_ERROR), response.reason)
                if not isinstance(error, ModelLoadingError) or not wait_for_model:
                    raise error
                loading = error
                if time.monotonic() + LOADING_PAUSE > give_up:
                    raise loading
                call.pause(LOADING_PAUSE)
            except RequestTimeoutError:
                raise loading or RequestTimeoutError() from None

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


def _expect(response: Response, kind: str) -> Response:
    """Return the response, if it has the media type; JSON may be missing from a 204."""
    if kind and response.content_type != kind and not (kind == _JSON and response.status == 204):
        response.close()
        got = response.content_type or "no content type"
        raise ProtocolError(f"expected {_KINDS.get(kind, kind)}, got {got!r}")
    return response


class Routes:
    """Sends requests in the words of the routes. The model among the client's defaults goes to every one."""

    defaults: Dict[str, Any]
    transport: Transport

    def _get(self, path: str, timeout: Optional[float]) -> Any:
        """Return the JSON of a route about a model, the client's."""
        return self.transport.json("GET", about(path, self.defaults.get("model")), None, timeout)

    def _post(
        self, path: str, timeout: Optional[float], fields: Mapping[str, Any], extra: Optional[Mapping[str, Any]] = None
    ) -> Any:
        """Return the JSON of a route's answer to the fields that are not None, with the client's model by default."""
        body = {name: value for name, value in {**fields, **(extra or {})}.items() if value is not None}
        if "model" in self.defaults:
            body.setdefault("model", self.defaults["model"])
        return self.transport.json("POST", path, body, timeout)


def about(path: str, model: Optional[str]) -> str:
    """Return the path of a route about one of the models that a server may have."""
    return path if model is None else f"{path}?model={quote(model, safe='')}"
