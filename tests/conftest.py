"""Fixtures with the real llama.cpp server. Every test that uses one gets the marker `real`.

    real_server      one server for the whole run: SmolLM2-135M-Instruct, 4 slots of 1024 tokens, template without tools
    tool_server      the same with a template for tools, in the format of Qwen 2.5
    tool_request     messages and tools that make this model call get_weather(city="Paris")
    start_server     start_server(**options): starts a server for this test, which may kill and restart it
    loading_server   (server, model_arrives): the server answers 503 "Loading model" until the function is called
    native           the folder with llama.cpp's own programs: llama-server, llama, llama-fit-params, llama-bench
    tls_server       (endpoint, ssl_context): real_server behind TLS, and a context that trusts it

Tests are skipped if this machine cannot run a server. With CI=true they fail instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import environment
import native_server
import pytest
import trustme
from lease import leased
from pytest_httpserver import HTTPServer
from real_server import RealServer
from scripted import forwarding, serve
from werkzeug import Request, Response

from flynn import LlamaCppClient


def pytest_configure() -> None:
    """Handle SIGINT and SIGHUP, which background jobs and nohup ignore: child processes would ignore them, too."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    for item in items:
        if "server_at_hand" in getattr(item, "fixturenames", ()):
            item.add_marker("real")


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("FLYNN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


class _Server(HTTPServer):
    """A server that does not mistake a request of an aborted call of an earlier test for one of this test."""

    def dispatch(self, request: Request) -> Response:
        connection = request.environ["werkzeug.socket"]
        try:
            is_abandoned = select.select([connection], [], [], 0)[0] and not connection.recv(1, socket.MSG_PEEK)
        except ConnectionResetError:
            is_abandoned = True
        return Response(status=499) if is_abandoned else super().dispatch(request)


@pytest.fixture(scope="session")
def make_httpserver() -> Iterator[HTTPServer]:
    """Replace pytest-httpserver's fixture, which serves one request at a time, by one thread per connection."""
    with _Server(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def httpserver(make_httpserver: HTTPServer) -> Iterator[HTTPServer]:
    """An HTTP server with the answers of a test. The test fails after any other request."""
    make_httpserver.clear()
    yield make_httpserver
    make_httpserver.check()


@pytest.fixture
def endpoint(httpserver: HTTPServer) -> str:
    """The URL of `httpserver`."""
    return f"http://127.0.0.1:{httpserver.port}"


@pytest.fixture
def client(endpoint: str) -> Iterator[LlamaCppClient]:
    """A client of `httpserver`."""
    with LlamaCppClient(endpoint) as client:
        yield client


@pytest.fixture(scope="session")
def server_at_hand() -> None:
    """Get the server and the model; skip the test if that fails."""
    try:
        environment.server_command()
        environment.model()
    except environment.Unavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no real llama.cpp server: {error}")


@pytest.fixture(scope="session")
def real_server(server_at_hand: None) -> Iterator[RealServer]:
    with RealServer(metrics=True) as server:
        yield server


@pytest.fixture(scope="session")
def tool_server(server_at_hand: None) -> Iterator[RealServer]:
    with RealServer(chat_template_file=Path(__file__).parent / "data" / "tools.jinja") as server:
        yield server


@pytest.fixture
def tool_request() -> Dict[str, List[Any]]:
    """The history contains an earlier call, which shows this small model what to do."""
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "description": "The weather in a city", "parameters": city}
    call = {"name": "get_weather", "arguments": json.dumps({"city": "Oslo"})}
    return {
        "messages": [
            {"role": "user", "content": "What is the weather in Oslo?"},
            {"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": call}]},
            {"role": "user", "content": "What is the weather in Paris?"},
        ],
        "tools": [{"type": "function", "function": function}],
    }


@pytest.fixture
def start_server(server_at_hand: None) -> Iterator[Callable[..., RealServer]]:
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(RealServer(**options))


@pytest.fixture
def loading_server(server_at_hand: None, tmp_path: Path) -> Iterator[Tuple[RealServer, Callable[[], None]]]:
    model = tmp_path / "model.gguf"
    shutil.copyfile(environment.model(), model)
    with contextlib.closing(RealServer(model=model)) as server, leased(model) as release:
        server.start()
        while server.health() is None:
            time.sleep(0.02)
        yield server, release


@pytest.fixture(scope="session")
def native() -> Path:
    try:
        return native_server.programs()
    except environment.Unavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no llama-server from Debian: {error}")


@pytest.fixture
def tls_server(real_server: RealServer) -> Iterator[Tuple[str, ssl.SSLContext]]:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    with serve(forwarding(real_server.endpoint), tls=server_context) as server:
        yield server.endpoint, client_context
