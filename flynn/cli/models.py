"""`flynn models`: the models of a server. Those of one with several can be loaded, unloaded, downloaded and deleted."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ..errors import ServerError
from ..models.local.llamacpp import LlamaCppClient
from ..models.local.models import ModelEvent, ModelInfo
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
    parser.add_argument("words", nargs="*", metavar="ACTION MODEL", help=f"{', '.join(_ACTIONS)}; by default list all")
    parser.add_argument("--json", action="store_true", help="print a list of objects; after an action, the model's")


def run(given: Given, terminal: Terminal) -> int:
    action, name = (given.words + ["list", ""][len(given.words) :])[:2] if len(given.words) < 3 else ("", "")
    if action == "list" and not name:
        with connect(given) as client:
            _list(client.models(), given, terminal)
        return DONE
    if action not in _ACTIONS or not name:
        raise UsageError(f"expected an action and a model: flynn models {'|'.join(_ACTIONS)} MODEL")
    if given.timeout is ...:
        given.timeout = None  # a download may take hours
    with connect(given) as client:
        try:
            _act(client, action, name, terminal)
        except ServerError as error:
            if error.status in (404, 405) and all(model.status is None for model in client.models()):
                error.hint = _SEVERAL
            raise
        if given.json:
            _list([model for model in client.models() if model.id == name], given, terminal)
    return DONE


def _act(client: LlamaCppClient, action: str, name: str, terminal: Terminal) -> None:
    """Do something to a model, wait until it is done, and show the progress."""
    if action == "delete":
        client.delete_model(name)
        return
    actions: Dict[str, Callable[..., None]] = {
        "load": client.load_model, "unload": client.unload_model, "download": client.download_model
    }  # fmt: skip
    with client.model_events() as events:
        actions[action](name, wait=False)
        for event in events:
            if event.model == name:
                if event.status in _ACTIONS[action] or event.event in _ACTIONS[action]:
                    break
                terminal.progress(_progress(event))
    terminal.clear_progress()
    status = next((model.status for model in client.models() if model.id == name), None)
    if action == "load" and status not in ("loaded", "sleeping"):
        raise ServerError(f"model {name!r} could not be loaded; the server's log says why")
    if action == "download" and status is None:
        raise ServerError(f"model {name!r} could not be downloaded; the server's log says why")


def _progress(event: ModelEvent) -> str:
    done = "" if event.progress is None else f" {event.progress:.0%}"
    return f"{event.model}: {event.status or 'downloading'}{f' {event.stage}' if event.stage else ''}{done}"


def _list(models: List[ModelInfo], given: Given, terminal: Terminal) -> None:
    if given.json:
        terminal.write_json([{"id": model.id, "status": model.status, "meta": dict(model.meta)} for model in models])
        return
    width = max((len(model.id) for model in models), default=0)
    for model in models:
        terminal.write(f"{model.id:<{width}}  {model.status or 'loaded':<11}  {_size(model.meta.get('size'))}".rstrip())
        terminal.write("\n")


def _size(size: Any) -> str:
    return f"{size / 1e9:.1f} GB" if isinstance(size, (int, float)) else ""
