"""Requests to one llama-server: headers, limits, waiting for its model, and what an answer other than 2xx means.

The routes that are made of them are in llamacpp.py, those of chat, and in *_routes.py.
"""

from __future__ import annotations

import math
import os
import time

from ...errors import ModelLoadingError, ProtocolError, RequestTimeoutError
from ...http.call import Call, check_timeout
from ...http.endpoint import parse_endpoint
from ...http.pool import ConnectionPool
from ...http.token import check_token
from .decode import decode_error, decode_json
from .encode import encode_json
from .transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any, Dict, List, Mapping, Optional, Union

    from ...http.connection import Response

    Body = Union[Mapping[str, Any], List[Any]]

# As a default of `timeout`: the client's own. None would be "no limit".
OWN: Any = ...
# The most bytes of a reply in one piece, and of an error.
MAX_REPLY = 256 * 1024 * 1024
MAX_ERROR = 1024 * 1024
_JSON = "application/json"
_KINDS = {_JSON: "JSON", "text/event-stream": "an event stream"}
LOADING_PAUSE = 0.25  # seconds between two looks whether the model is loaded


class Transport:
    """Sends requests to any route; knows nothing of what they ask."""

    def __init__(
        self, endpoint: str, auth_token: Optional[str], timeout: Optional[float], ssl_context: Optional[ssl.SSLContext]
    ) -> None:
        self.timeout = check_timeout(timeout)
        self._headers = {"User-Agent": "flynn", "Accept-Encoding": "identity"}
        if auth_token is not None:
            self._headers["Authorization"] = f"Bearer {check_token(auth_token)}"
        self._pool = ConnectionPool(parse_endpoint(endpoint), ssl_context)

    def call(self, timeout: Optional[float], *, whole: bool = True) -> Call:
        """The limits of a call: `timeout` seconds for all of it, or, if not `whole`, for each silence."""
        return Call(self.timeout if timeout is OWN else check_timeout(timeout), whole=whole)

    def json(self, method: str, path: str, body: Optional[Body] = None, timeout: Optional[float] = OWN) -> Any:
        """The JSON with which a route answers; see `LlamaCppClient.request`."""
        return decode_json(self.fetch(method, path, None if body is None else encode_json(body), timeout))

    def fetch(
        self, method: str, path: str, body: Optional[bytes] = None, timeout: Optional[float] = OWN, kind: str = _JSON
    ) -> bytes:
        """As `json`, bytes in and out. The answer must be of a media type, `kind`."""
        return self.send(self.call(timeout), method, path, body, kind=kind).read(MAX_REPLY)

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
    ) -> Response:
        """Send a request; wait while the model loads; raise what an answer means that is not 2xx, or not of a kind."""
        sent: Dict[str, str] = {**self._headers, "Accept": kind or _JSON, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = _JSON
        give_up = math.inf if call.timeout is None else time.monotonic() + call.timeout
        loading: Optional[ModelLoadingError] = None
        while True:
            try:
                response = self._pool.request(call, method, path, body, sent)
                if 200 <= response.status < 300:
                    if kind and response.content_type != kind:
                        response.close()
                        came = response.content_type or "no content type"
                        raise ProtocolError(f"expected {_KINDS.get(kind, kind)}, got {came!r}")
                    return response
                if response.status < 400:
                    response.close()
                    raise ProtocolError(f"expected an answer, got a redirect (HTTP {response.status}), not followed")
                error = decode_error(response.status, response.read(MAX_ERROR), response.reason)
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


class Routes:
    """Sends requests in the words of the routes. The model among the client's defaults goes to every one."""

    defaults: Dict[str, Any]
    transport: Transport
    _resume: bool
    _resume_for: float

    def _get(self, path: str, timeout: Optional[float]) -> Any:
        """The JSON of a route about a model, the client's."""
        return self.transport.json("GET", about(path, self.defaults.get("model")), None, timeout)

    def _post(
        self, path: str, timeout: Optional[float], fields: Mapping[str, Any], extra: Optional[Mapping[str, Any]] = None
    ) -> Any:
        """The JSON that a route answers to the fields that are not None, the client's model if they name none."""
        body = {name: value for name, value in {**fields, **(extra or {})}.items() if value is not None}
        if "model" in self.defaults:
            body.setdefault("model", self.defaults["model"])
        return self.transport.json("POST", path, body, timeout)

    def _transfer(
        self,
        path: str,
        body: Optional[bytes],
        model: Optional[str],
        timeout: Optional[float],
        resume: Optional[bool],
        resume_for: Optional[float],
    ) -> Transfer:
        """A streamed answer; None stands for the client's own settings of how it is resumed."""
        session = ""
        if self._resume if resume is None else resume:
            session = os.urandom(18).hex()
            if model and model.isascii() and model.isprintable():
                session += f"::{model}"  # so the server knows which of several models to ask for it
        patience = self._resume_for if resume_for is None else resume_for
        call = self.transport.call(timeout, whole=False)
        return Transfer(self.transport, call, path, body, session, patience)


def about(path: str, model: Optional[str]) -> str:
    """The path of a route about one of the models that a server may have."""
    if model is None:
        return path
    from urllib.parse import quote

    return f"{path}?model={quote(model, safe='')}"
