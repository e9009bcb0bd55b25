"""`flynn models`: the models of a server. Those of one with several can be loaded, unloaded, downloaded and deleted."""

from __future__ import annotations

from typing import List

from ..errors import ServerError
from ..models.local.llamacpp import LlamaCppClient
from ..models.local.models import ModelInfo
from .exits import DONE, UsageError
from .options import Given, Parser, connect
from .terminal import Terminal

EXAMPLES = """\
  flynn models
  flynn models load qwen2.5-7b
  flynn models unload qwen2.5-7b
  flynn models download ggml-org/gemma-3-4b-it-GGUF:Q4_K_M
  flynn models delete ggml-org/gemma-3-4b-it-GGUF:Q4_K_M

All but the list needs a server with several models: llama-server started without
--model (router mode). It downloads from Hugging Face, and goes on when you leave with
Ctrl-C; unload stops a download. It deletes only models that it has downloaded."""

# What is done to a model, and the statuses and events with which that ends.
_ACTIONS = {
    "load": ("loaded", "unloaded"),
    "unload": ("unloaded",),
    "download": ("download_finished", "download_failed"),
    "delete": (),
}
_SEVERAL = "this server has one model; llama-server started without --model has several (router mode)"


def add_options(parser: Parser) -> None:
    parser.usage = "flynn models [options] [ACTION MODEL]"
    text = f"list (the default), {', '.join(_ACTIONS)}"
    parser.add_argument("action", nargs="?", metavar="ACTION", choices=["list", *_ACTIONS], help=text)
    parser.add_argument("name", nargs="?", metavar="MODEL", help="which model; not for list")
    parser.add_argument("--json", action="store_true", help="print a list of objects; after an action, the model's")


def run(given: Given, terminal: Terminal) -> int:
    action, name = given.action or "list", given.name
    if (action == "list") != (name is None):
        raise UsageError(f"expected an action and a model: flynn models {'|'.join(_ACTIONS)} MODEL")
    if name is not None and given.timeout is ...:
        given.timeout = None  # a download may take hours
    with connect(given) as client:
        if name is not None:
            try:
                _act(client, action, name, terminal)
            except ServerError as error:
                if error.status in (404, 405) and all(model.status is None for model in client.models()):
                    error.hint = _SEVERAL
                raise
        if name is None or given.json:
            models = [model for model in client.models() if name in (None, model.id)]
            _list(models, given, terminal)
    return DONE


def _act(client: LlamaCppClient, action: str, name: str, terminal: Terminal) -> None:
    """Do something to a model, wait until it is done, and show the progress."""
    if action == "delete":
        client.delete_model(name)
        return
    with client.model_events() as events:
        getattr(client, f"{action}_model")(name, wait=False)
        for event in events:
            if event.model == name:
                if event.status in _ACTIONS[action] or event.event in _ACTIONS[action]:
                    break
                done = "" if event.progress is None else f" {event.progress:.0%}"
                stage = f" {event.stage}" if event.stage else ""
                terminal.progress(f"{name}: {event.status or 'downloading'}{stage}{done}")
    terminal.clear_progress()
    status = next((model.status for model in client.models() if model.id == name), None)
    if {"load": status not in ("loaded", "sleeping"), "download": status is None}.get(action):
        raise ServerError(f"model {name!r} could not be {action}ed; the server's log says why")


def _list(models: List[ModelInfo], given: Given, terminal: Terminal) -> None:
    if given.json:
        terminal.write_json([{"id": model.id, "status": model.status, "meta": dict(model.meta)} for model in models])
        return
    width = max((len(model.id) for model in models), default=0)
    for model in models:
        size = model.meta.get("size")
        shown = f"{size / 1e9:.1f} GB" if isinstance(size, (int, float)) else ""
        terminal.write(f"{model.id:<{width}}  {model.status or 'loaded':<11}  {shown}".rstrip() + "\n")
