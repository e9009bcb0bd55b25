"""`flynn models`, on a stand-in for a server with several models, on llama.cpp's own, and on a server with one."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, Iterator

import environment
import pytest
from answers import reply
from command import Home
from pytest_httpserver import HTTPServer
from real_server import RealServer
from scripted import error
from test_router_mode import StandIn
from werkzeug import Request, Response

from flynn import LlamaCppClient, ServerError

HUB_MODEL = "org/tiny-GGUF:Q4_K_M"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


class Downloader(StandIn):
    """A stand-in that downloads and deletes. A download that failed is "finished" too, as with llama-server b11669."""

    def __init__(self, server: HTTPServer) -> None:
        super().__init__(server)
        server.expect_request("/models", "POST").respond_with_handler(self.download)
        server.expect_request("/models", "DELETE").respond_with_handler(self.delete)

    def download(self, request: Request) -> Response:
        name: str = request.json["model"]
        self.models[name] = {"value": "downloading", "args": []}
        self.send(name, "model_status", {"status": "downloading"})

        def end() -> None:
            if name.startswith("nobody/"):
                del self.models[name]
            else:
                self.models[name]["value"] = "unloaded"
            self.send(name, "download_finished", {})

        threading.Timer(0.1, end).start()
        return reply({"success": True})(request)

    def delete(self, request: Request) -> Response:
        name = request.args.get("model", "")
        if "/" not in name or name not in self.models:
            reason = "is not removable (not from cache)" if name in self.models else "is not found"
            return reply(error(500, f"model name={name} {reason}", "server_error"), 500)(request)
        del self.models[name]
        return reply({"success": True})(request)


@pytest.fixture
def stand_in(httpserver: HTTPServer, endpoint: str) -> Iterator[str]:
    models = Downloader(httpserver)
    yield endpoint
    for listener in models.listeners:
        listener.put(None)


def test_models_are_listed_loaded_and_unloaded(home: Home, stand_in: str) -> None:
    options = ["--endpoint", stand_in]
    assert home.run("models", *options).out.splitlines()[:2] == ["a       unloaded", "b       unloaded"]
    assert home.run("models", "load", "a", *options) == (0, "", "")
    assert home.run("models", *options).out.splitlines()[0] == "a       loaded"
    ended = home.run("models", "unload", "a", "--json", *options)
    assert (ended.code, json.loads(ended.out)) == (0, [{"id": "a", "status": "unloaded", "meta": {}}])


def test_a_model_is_downloaded_and_deleted(home: Home, stand_in: str) -> None:
    options = ["--endpoint", stand_in]
    ended = home.run("models", "download", HUB_MODEL, "--json", *options)
    assert (ended.code, json.loads(ended.out)[0]["status"]) == (0, "unloaded")
    assert home.run("models", "delete", HUB_MODEL, *options) == (0, "", "")
    assert HUB_MODEL not in home.run("models", *options).out


def test_the_library_downloads_and_deletes(stand_in: str) -> None:
    with LlamaCppClient(stand_in) as client:
        client.download_model(HUB_MODEL)
        assert HUB_MODEL in [model.id for model in client.models()]
        client.delete_model(HUB_MODEL)
        assert HUB_MODEL not in [model.id for model in client.models()]
        with pytest.raises(ServerError, match="could not be downloaded"):
            client.download_model("nobody/none")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["load", "broken"], "model 'broken' could not be loaded; the server's log says why"),
        (["download", "nobody/none"], "model 'nobody/none' could not be downloaded; the server's log says why"),
        (["delete", "a"], "model name=a is not removable (not from cache)"),
        (["unload", "a"], "model is not running"),
    ],
)
def test_a_failed_action_is_1_and_one_line(home: Home, stand_in: str, words: Any, message: str) -> None:
    assert home.run("models", *words, "--endpoint", stand_in) == (1, "", f"flynn: {message}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["load"], "expected an action and a model: flynn models load|unload|download|delete MODEL"),
        (["list", "a"], "expected an action and a model: flynn models load|unload|download|delete MODEL"),
        (["fetch", "a"], "argument ACTION: invalid choice: 'fetch' (choose from "),
        (["load", "a", "b"], "unexpected argument 'b' (see flynn models --help)"),
    ],
)
def test_anything_else_is_wrong_usage(home: Home, words: Any, message: str) -> None:
    ended = home.run("models", *words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(f"flynn: {message}")


def test_the_progress_is_shown_on_a_terminal_and_then_taken_away(home: Home, stand_in: str) -> None:
    with home.terminal("models", "load", "a", "--endpoint", stand_in) as terminal:
        assert terminal.end() == 0
    assert "\ra: loading text_model 100%" in terminal.text
    assert terminal.text.endswith(" \r")


def test_a_server_with_one_model_lists_it_and_says_that_it_has_only_one(home: Home, real_server: Any) -> None:
    options = ["--endpoint", real_server.endpoint]
    ended = home.run("models", *options)
    assert (ended.code, ended.out.count("\n")) == (0, 1)
    assert "loaded       0.1 GB" in ended.out
    ended = home.run("models", "load", "a", *options)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "this server has one model; llama-server started without --model has several" in ended.err


def test_llama_cpp_s_own_server_loads_unloads_and_refuses(home: Home, native: Path) -> None:
    models = home.path / "models"
    models.mkdir()
    os.symlink(environment.model(), models / "a.gguf")
    options = {"models_dir": models, "no_models_autoload": True, "ctx_size": 512, "parallel": 1}
    with RealServer(command=[str(native / "llama-server")], model=None, **options) as server:
        arguments = ["--endpoint", server.endpoint]
        assert home.run("models", *arguments).out == "a  unloaded\n"
        assert home.run("models", "load", "a", *arguments) == (0, "", "")
        assert home.run("models", *arguments).out.startswith("a  loaded")
        assert home.run("models", "unload", "a", *arguments) == (0, "", "")
        refused = "flynn: model name=a is not removable (not from cache)\n"
        assert home.run("models", "delete", "a", *arguments) == (1, "", refused)
