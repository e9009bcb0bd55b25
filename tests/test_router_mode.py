"""A server with several models: loading them, unloading them, and its events.

The server is llama.cpp's own llama-server, because xllamacpp lacks this mode. A stand-in plays what a real server
cannot be made to do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import re
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import environment
import pytest
from answers import NOT_FOUND, Answer, reply
from pytest_httpserver import HTTPServer
from real_server import RealServer
from scripted import error, event, eventually
from werkzeug import Request, Response

from flynn import (
    AsyncLlamaCppClient,
    LlamaCppClient,
    ModelEvent,
    RequestTimeoutError,
    ServerError,
    StreamInterruptedError,
)


def refused(message: str) -> Answer:
    return reply(error(400, message, "invalid_request_error"), 400)


class StandIn:
    """A server that answers like tools/server/server-models.cpp of llama.cpp; its events were recorded from a real one.

    Loading the model `broken` fails, and loading `slow` never ends.

    Attributes:
        listeners: a queue of events for each client of `/models/sse`; None ends the stream.
    """

    def __init__(self, server: HTTPServer) -> None:
        self.models: Dict[str, Dict[str, Any]] = {
            name: {"value": "unloaded", "args": []} for name in ("a", "b", "broken", "slow")
        }
        self.listeners: List[queue.Queue[Any]] = []
        for route, answer in (
            ("GET (/v1)?/models", self.list),
            ("GET /models/sse", self.events),
            ("GET /slots", self.for_one_model([{"id": 0}])),
            ("POST /tokenize", self.for_one_model({"tokens": [1]})),
            ("POST /models/load", self.load),
            ("POST /models/unload", self.unload),
        ):
            method, path = route.split()
            server.expect_request(re.compile(f"{path}$"), method).respond_with_handler(answer)

    def list(self, request: Request) -> Response:
        models = [{"id": name, "aliases": [f"{name}-alias"], "status": status} for name, status in self.models.items()]
        return reply({"data": models, "object": "list"})(request)

    def events(self, request: Request) -> Response:
        listener: queue.Queue[Any] = queue.Queue()
        self.listeners.append(listener)
        # An empty piece first: werkzeug sends the head together with the first piece of the body.
        pieces = itertools.chain([b""], map(event, iter(listener.get, None)))
        return Response(pieces, content_type="text/event-stream")

    def for_one_model(self, answer: Any) -> Answer:
        def respond(request: Request) -> Response:
            name = self.name_in(request)
            if not name:
                return refused("model name is missing from the request")(request)
            loaded = self.models[name]["value"] == "loaded"
            return (reply(answer) if loaded else refused("model is not loaded"))(request)

        return respond

    def load(self, request: Request) -> Response:
        name = self.name_in(request)
        if name not in self.models:
            return NOT_FOUND(request)
        if self.models[name]["value"] != "unloaded":
            return refused("model is already running")(request)
        self.models[name] = {"value": "loading", "args": ["llama-server"]}
        self.send(name, "model_status", {"status": "loading"})
        if name != "slow":
            threading.Timer(0.1, self.finish_loading, [name]).start()
        return reply({"success": True})(request)

    def finish_loading(self, name: str) -> None:
        for value in (0.0, 0.0, 1.0):
            progress = {"stages": ["text_model"], "current": "text_model", "value": value}
            self.send(name, "status_change", {"status": "loading", "progress": progress})
        if name == "broken":
            self.models[name].update(value="unloaded", failed=True, exit_code=1)
            self.send(name, "status_change", {"status": "unloaded", "exit_code": 1})
        else:
            self.models[name]["value"] = "loaded"
            self.send(name, "status_change", {"status": "loaded", "info": {"id": name}})

    def unload(self, request: Request) -> Response:
        def end() -> None:
            self.models[name]["value"] = "unloaded"
            self.send(name, "status_change", {"status": "unloaded", "exit_code": 0})

        name = self.name_in(request)
        if name not in self.models:
            return refused("model is not found")(request)
        if self.models[name]["value"] == "unloaded":
            return refused("model is not running")(request)
        threading.Timer(0.1, end).start()
        return reply({"success": True})(request)

    @staticmethod
    def name_in(request: Request) -> str:
        name: str = request.args.get("model", "") if request.method == "GET" else request.json.get("model", "")
        return name.replace("-alias", "")

    def send(self, model: str, name: str, data: Dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.put({"model": model, "event": name, "data": data})


@pytest.fixture
def models(httpserver: HTTPServer) -> Iterator[StandIn]:
    models = StandIn(httpserver)
    yield models
    for listener in models.listeners:
        listener.put(None)


@pytest.fixture
def stand_in(models: StandIn, httpserver: HTTPServer) -> str:
    return f"http://127.0.0.1:{httpserver.port}"


@pytest.fixture(scope="module")
def router(server_at_hand: None, native: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        os.symlink(environment.model(), models / f"{name}.gguf")
    (models / "broken.gguf").write_text("no model at all")
    options = {"models_dir": models, "no_models_autoload": True, "ctx_size": 512, "parallel": 1}
    with RealServer(command=[str(native / "llama-server")], model=None, **options) as server:
        yield server.endpoint


@pytest.fixture(params=["stand_in", "router"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    endpoint: str = request.getfixturevalue(request.param)
    yield endpoint
    with LlamaCppClient(endpoint) as client:
        for model in client.models():
            if model.status != "unloaded":
                client.unload_model(model.id)


def status(client: LlamaCppClient, name: str) -> Any:
    return next(model.status for model in client.models() if model.id == name)


def test_models_are_loaded_and_unloaded(client: LlamaCppClient) -> None:
    assert (status(client, "a"), status(client, "b")) == ("unloaded", "unloaded")
    client.load_model("a")
    client.load_model("b")
    assert (status(client, "a"), status(client, "b")) == ("loaded", "loaded")
    client.unload_model("a")
    assert (status(client, "a"), status(client, "b")) == ("unloaded", "loaded")


def test_loading_and_unloading_return_at_once_without_wait(client: LlamaCppClient) -> None:
    client.load_model("a", wait=False)
    assert status(client, "a") == "loading"
    eventually(lambda: status(client, "a") == "loaded", 60)
    client.unload_model("a", wait=False)
    eventually(lambda: status(client, "a") == "unloaded")


def test_loading_or_unloading_a_model_in_the_wrong_state_is_an_error(client: LlamaCppClient) -> None:
    with pytest.raises(ServerError) as caught:
        client.load_model("missing")
    assert caught.value.status == 404
    with pytest.raises(ServerError, match="model is not found"):
        client.unload_model("missing")
    with pytest.raises(ServerError, match="model is not running"):
        client.unload_model("a")
    client.load_model("a")
    with pytest.raises(ServerError, match="model is already running"):
        client.load_model("a")


def test_a_model_that_fails_to_load_is_an_error(client: LlamaCppClient) -> None:
    with pytest.raises(ServerError, match="model 'broken' could not be loaded"):
        client.load_model("broken")
    assert status(client, "broken") == "unloaded"


def check(events: List[ModelEvent]) -> None:
    """Check the events that a client receives while `a` is loaded."""
    assert {event.model for event in events} == {"a"}
    assert {event.status for event in events[:-1]} == {"loading"}
    assert events[-1].status == "loaded"
    progress = [event.progress for event in events if event.stage == "text_model"]
    assert progress == sorted(progress)  # type: ignore[type-var]
    assert progress[-1] == 1.0
    assert all(event.raw["event"] == event.event for event in events)


def test_progress_events_arrive_while_the_model_loads(client: LlamaCppClient) -> None:
    received = []
    with client.model_events() as events:
        client.load_model("a", wait=False)
        for event in events:
            received.append(event)
            if event.status == "loaded":
                break
    check(received)


def test_progress_events_arrive_at_the_asynchronous_client(endpoint: str) -> None:
    async def main() -> List[ModelEvent]:
        received = []
        async with AsyncLlamaCppClient(endpoint) as client, client.model_events() as events:
            loading = asyncio.ensure_future(client.load_model("a"))
            async for event in events:
                received.append(event)
                if event.status == "loaded":
                    break
            await loading
            assert {model.id: model.status for model in await client.models()}["a"] == "loaded"
            await client.unload_model("a")
        return received

    check(asyncio.run(main()))


def test_model_events_are_closed_from_another_thread(client: LlamaCppClient) -> None:
    events = client.model_events()
    with events:
        reader = threading.Thread(target=list, args=(events,))
        reader.start()
        events.close()
        reader.join(10)
    assert not reader.is_alive()


def test_model_events_have_a_timeout_if_one_is_given(client: LlamaCppClient) -> None:
    with pytest.raises(RequestTimeoutError):
        list(client.model_events(timeout=0.2))


def test_requests_go_to_the_model_of_the_client(client: LlamaCppClient, endpoint: str) -> None:
    calls: List[Callable[[LlamaCppClient], Any]] = [lambda c: c.tokenize("Hi"), lambda c: c.slots()]
    with LlamaCppClient(endpoint, model="a") as client_of_a:
        for call in calls:
            with pytest.raises(ServerError, match="model name is missing"):
                call(client)
            with pytest.raises(ServerError, match="model is not loaded"):
                call(client_of_a)
        client.load_model("a")
        for call in calls:
            assert call(client_of_a)


# --- on the stand-in alone --------------------------------------------------------------------------------------------


def test_a_model_may_be_named_by_its_alias(stand_in: str) -> None:
    with LlamaCppClient(stand_in) as client:
        client.load_model("a-alias")
        assert status(client, "a") == "loaded"
        client.unload_model("a-alias")
        assert status(client, "a") == "unloaded"


def test_waiting_for_a_model_has_a_timeout(stand_in: str) -> None:
    with LlamaCppClient(stand_in) as client:
        with pytest.raises(RequestTimeoutError):
            client.load_model("slow", timeout=0.4)
        assert status(client, "slow") == "loading"


def test_model_events_raise_an_error_when_the_server_ends_the_stream(models: StandIn, stand_in: str) -> None:
    with LlamaCppClient(stand_in) as client, client.model_events() as events:
        eventually(lambda: models.listeners)
        models.listeners[0].put(None)
        with pytest.raises(StreamInterruptedError, match="after 0 bytes$"):
            next(events)
