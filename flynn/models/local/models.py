"""The models of a server, which may have several: types, decoders and the methods of the client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional

from ...errors import ServerError
from .decode import decode_fields, decode_json, expect_object, get, number, objects
from .encode import encode_json
from .stream import ServerStream, StreamedAnswer
from .transport import LOADING_PAUSE, OWN, Routes, Timeout, about


@dataclass
class ModelInfo:
    """A model that the server offers.

    Attributes:
        id: its name in requests.
        meta: e.g. `n_ctx_train`, `n_params`, `size`; empty while it loads.
        raw: the server's JSON, untouched.
        status: `"unloaded"`, `"loading"`, `"loaded"`, `"sleeping"` or `"downloading"` on a server with several models;
            None on a server with one.
    """

    id: str
    meta: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)
    status: Optional[str] = None


@dataclass
class ModelEvent:
    """An event about a model, on a server with several models.

    Attributes:
        model: its name; `"*"` for all models.
        event: the server's name of the event: `"model_status"` or `"status_change"`, `"download_progress"`,
            `"download_finished"`, `"download_failed"`, `"model_remove"`, `"models_reload"`.
        status: the model's new status, as in `ModelInfo`; None if it did not change.
        stage: the part that is being loaded, e.g. `"text_model"`; None if nothing is being loaded.
        progress: how much of that part is loaded, or of all files downloaded, 0 to 1; None if that is unknown.
        raw: the server's JSON, untouched.
    """

    model: str
    event: str
    status: Optional[str]
    stage: Optional[str]
    progress: Optional[float]
    raw: Mapping[str, Any] = field(repr=False)


def decode_models(value: Any) -> List[ModelInfo]:
    items = objects(expect_object(value), "data")
    return [decode_fields(ModelInfo, item, status=get(get(item, "status", {}), "value", "") or None) for item in items]


class ModelEventDecoder:
    """A `flynn.models.local.stream.Decoder` of the events of `/models/sse`, which never ends and has no response."""

    done = False

    def feed(self, data: bytes) -> List[ModelEvent]:
        raw = expect_object(decode_json(data), "event")
        change: Dict[str, Any] = get(raw, "data", {})
        status = get(change, "status", "") or None
        parts: Dict[str, Any] = get(change, "progress", {})
        if get(raw, "event", "") == "download_progress":
            stage, progress = None, _share(parts)
        else:
            stage, progress = get(parts, "current", "") or None, number(parts, "value")
        return [decode_fields(ModelEvent, raw, status=status, stage=stage, progress=progress)]

    def response(self) -> None:
        return None


def _share(files: Mapping[str, Any]) -> Optional[float]:
    """Return how much of the files is downloaded, given `{"done": …, "total": …}` in bytes for each URL."""
    sizes = [expect_object(file, "progress") for file in files.values()]
    total = sum(number(size, "total") or 0 for size in sizes)
    return sum(number(size, "done") or 0 for size in sizes) / total if total > 0 else None


class ModelEvents(ServerStream[ModelEvent, None]):
    """Events about a server's models. Returned by `LlamaCppClient.model_events`; see `ServerStream`."""


class ModelRoutes(Routes):
    """The part of `LlamaCppClient` about the models that a server offers."""

    def models(self, *, timeout: Timeout = OWN) -> List[ModelInfo]:
        """Return the models that the server offers."""
        return decode_models(self.transport.json("GET", "/v1/models", None, timeout))

    def load_model(self, model: str, *, wait: bool = True, timeout: Timeout = OWN) -> None:
        """Load a model on a server with several (router mode). `model_events` reports the progress.

        Args:
            model: its `id` in `models`.
            wait: whether to wait until it is loaded, True by default.
            timeout: seconds for the whole, waiting included.

        Raises:
            ServerError: there is no such model, it is loaded already, or loading it failed.
            RequestTimeoutError: it was not loaded in time. The server goes on loading it.
        """
        status = self._change("/models/load", model, timeout, wait, ["loading"])
        if wait and status not in ("loaded", "sleeping"):
            raise ServerError(f"model {model!r} could not be loaded; the server's log says why")

    def unload_model(self, model: str, *, wait: bool = True, timeout: Timeout = OWN) -> None:
        """Unload a model on a server with several, or stop its download or loading. Arguments as for `load_model`.

        Raises ServerError if there is no such model, or it is not loaded.
        """
        self._change("/models/unload", model, timeout, wait, ["loading", "loaded", "sleeping", "downloading"])

    def download_model(self, model: str, *, wait: bool = True, timeout: Timeout = OWN) -> None:
        """Make a server with several models download one from Hugging Face. `unload_model` stops it.

        Args:
            model: its name there, e.g. `"ggml-org/gemma-3-4b-it-GGUF:Q4_K_M"`.
            wait, timeout: as for `load_model`.

        Raises:
            ServerError: the server has that model already, or downloading it failed.
            RequestTimeoutError: it was not downloaded in time. The server goes on downloading it.
        """
        status = self._change("/models", model, timeout, wait, ["downloading"])
        if wait and status is None:
            raise ServerError(f"model {model!r} could not be downloaded; the server's log says why")

    def delete_model(self, model: str, *, timeout: Timeout = OWN) -> None:
        """Delete a model's files on a server with several. Raises ServerError if it has downloaded no such model."""
        self.transport.json("DELETE", about("/models", model), None, timeout)

    def model_events(self, *, timeout: Timeout = None) -> ModelEvents:
        """Stream the events of a server with several models: changes of status, loading and download progress.

        Returns an endless iterator of `ModelEvent`; close it. Events count from its first iteration, or from `with`.
        `timeout` is the longest silence in seconds; None by default, because the server sends nothing between events.

        Example:
            >>> with client.model_events() as events:
            ...     client.load_model("qwen", wait=False)
            ...     for event in events:
            ...         print(event.model, event.status, event.progress)
            ...         if event.status == "loaded":
            ...             break
        """
        return ModelEvents(StreamedAnswer(self.transport, "/models/sse", timeout=timeout), ModelEventDecoder())

    def _change(self, path: str, model: str, timeout: Timeout, wait: bool, busy: Collection[str]) -> Optional[str]:
        """Ask the server to change a model's status, and `wait` while that is one of `busy`.

        Returns the status; None if no model has that name or alias.
        """
        call = self.transport.call(timeout)
        self.transport.send(call, "POST", path, encode_json({"model": model})).close()
        while wait:
            models = decode_models(decode_json(self.transport.read(self.transport.send(call, "GET", "/models"))))
            status = next((m.status for m in models if model == m.id or model in get(m.raw, "aliases", [])), None)
            if status not in busy:
                return status
            call.pause(LOADING_PAUSE)
        return None
