"""Answers of llama-server for pytest-httpserver, which closes the connection after every answer.

    always(httpserver, reply(CHAT))
    in_turn(httpserver, reply(CHAT), events(delta("Hi")))
    assert sent(httpserver)[0].json["messages"]

scripted.py builds the bytes of bodies and events. Its own server can misbehave on the wire: half a chunk, a reset.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any, Callable, Iterator, List, Mapping, Optional, Union

from pytest_httpserver import HTTPServer
from scripted import DONE, error
from werkzeug import Request, Response

Answer = Callable[[Request], Response]

_ANYTHING = re.compile("")


def reply(
    body: Union[bytes, Any] = b"",
    status: int = 200,
    kind: str = "application/json",
    headers: Optional[Mapping[str, str]] = None,
) -> Answer:
    """Return a one-shot answer. A body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: Response(data, status, headers, content_type=kind)


def events(*pieces: bytes, done: bool = True, pause: float = 0.0) -> Answer:
    """Return a streamed answer with each piece in its own chunk, sent after `pause` seconds."""

    def body() -> Iterator[bytes]:
        yield b""  # werkzeug sends the head together with the first piece
        for piece in [*pieces, *([DONE] if done else [])]:
            time.sleep(pause)
            yield piece

    return lambda request: Response(body(), content_type="text/event-stream")


def late(seconds: float, answer: Answer) -> Answer:
    """Return an answer that is sent so many seconds after the request."""

    def respond(request: Request) -> Response:
        time.sleep(seconds)
        return answer(request)

    return respond


NO_CONTENT = reply(status=204)
NOT_FOUND = reply(error(404, "File Not Found", "not_found_error"), 404)  # llama-server's body for every 404
LOADING = reply(error(503, "Loading model", "unavailable_error"), 503)


def always(server: HTTPServer, answer: Answer) -> None:
    """Give the same answer to every request."""
    server.expect_request(_ANYTHING).respond_with_handler(answer)


def in_turn(server: HTTPServer, *answers: Answer) -> None:
    """Answer any requests with these answers, in this order. The test fails if there are more requests."""
    for answer in answers:
        server.expect_ordered_request(_ANYTHING).respond_with_handler(answer)


def by_route(server: HTTPServer, answers: Mapping[str, Answer]) -> None:
    """Answer by method and path, e.g. `"GET /health"`. Other routes get a 404, except the one that deletes a stream."""

    def answer(request: Request) -> Response:
        route = f"{request.method} {request.path}"
        return answers.get(route, NO_CONTENT if route == "DELETE /v1/stream" else NOT_FOUND)(request)

    always(server, answer)


def sent(server: HTTPServer) -> List[Request]:
    """Return the received requests, which have `method`, `path`, `headers`, `data` and `json`."""
    return [request for request, _ in server.log]
