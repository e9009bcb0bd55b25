"""The models of a server that may have several: types, decoders and the methods of the client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional

from ...errors import ServerError
from ...http.limits import Call
from .decode import decode_fields, decode_json, expect_object, get, number, objects
from .encode import encode_json
from .resumable import ResumableBody
from .stream import ServerStream
from .transport import LOADING_PAUSE, OWN, Routes


@dataclass
class ModelInfo:
    """A model that the server offers.

    Attributes:
        id: what a request calls it.
        meta: e.g. `n_ctx_train`, `n_params`, `size`; empty while it loads.
        raw: the server's JSON, untouched.
        status: of a server with several models: `"unloaded"`, `"loading"`, `"loaded"`, `"sleeping"`, `"downloading"`;
            None of a server with one.
    """

    id: str
    meta: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)
    status: Optional[str] = None


@dataclass
class ModelEvent:
    """Something that happened to a model of a server that has several.

    Attributes:
        model: which one; `"*"` for all of them.
        event: what, in the server's words: `"model_status"` or `"status_change"`, `"download_progress"`,
            `"download_finished"`, `"download_failed"`, `"model_remove"`, `"models_reload"`.
        status: what the model is now, as in `ModelInfo`; None if that did not change.
        stage: what is being loaded, e.g. `"text_model"`; None if nothing is.
        progress: how far that is, 0 to 1; None if nothing is being loaded.
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
    """A `flynn.models.local.stream.Decoder` of the events of `/models/sse`, which has no end."""

    done = False

    def feed(self, data: bytes) -> List[ModelEvent]:
        raw = expect_object(decode_json(data), "event")
        change: Dict[str, Any] = get(raw, "data", {})
        status = get(change, "status", "") or None
        loading: Dict[str, Any] = get(change, "progress", {})
        stage, progress = get(loading, "current", "") or None, number(loading, "value")
        return [decode_fields(ModelEvent, raw, status=status, stage=stage, progress=progress)]

    def response(self) -> None:
        """Nothing: the events do not add up to anything."""


class ModelEvents(ServerStream):
    """What happens to the models of a server. Made by `LlamaCppClient.model_events`; see `ServerStream`."""

    if TYPE_CHECKING:

        def __next__(self) -> ModelEvent: ...


class ModelRoutes(Routes):
    """The part of `LlamaCppClient` about the models that a server offers."""

    def models(self, *, timeout: Optional[float] = OWN) -> List[ModelInfo]:
        """The models that the server offers."""
        return decode_models(self.transport.json("GET", "/v1/models", None, timeout))

    def load_model(self, model: str, *, wait: bool = True, timeout: Optional[float] = OWN) -> None:
        """Load a model of a server that has several (router mode). `model_events` tells how far it is.

        Args:
            model: as `models` calls it.
            wait: return when it is loaded, instead of at once.
            timeout: seconds for all of that.

        Raises:
            ServerError: there is no such model, it is loaded already, or loading it failed.
            RequestTimeoutError: it was not loaded in time, and may still be.
        """
        call = self._ask("load", model, timeout)
        if wait:
            while (status := self._status(call, model)) == "loading":
                call.pause(LOADING_PAUSE)
            if status not in ("loaded", "sleeping"):
                raise ServerError(f"model {model!r} could not be loaded; the server's log says why")

    def unload_model(self, model: str, *, wait: bool = True, timeout: Optional[float] = OWN) -> None:
        """Unload a model of a server that has several; also ends its download, or its loading.

        Args:
            model, wait, timeout: as for `load_model`.

        Raises:
            ServerError: there is no such model, or it is not loaded.
        """
        call = self._ask("unload", model, timeout)
        while wait and self._status(call, model) in ("loading", "loaded", "sleeping", "downloading"):
            call.pause(LOADING_PAUSE)

    def _ask(self, action: str, model: str, timeout: Optional[float]) -> Call:
        call = self.transport.call(timeout)
        self.transport.send(call, "POST", f"/models/{action}", encode_json({"model": model})).close()
        return call

    def _status(self, call: Call, model: str) -> Optional[str]:
        """What a model is now; None if there is none of that name or alias."""
        models = decode_models(decode_json(self.transport.read(self.transport.send(call, "GET", "/models"))))
        return next((m.status for m in models if model == m.id or model in get(m.raw, "aliases", [])), None)

    def model_events(self, *, timeout: Optional[float] = None) -> ModelEvents:
        """What happens to the models of a server that has several, as it happens: loading and its progress, downloads.

        Args:
            timeout: seconds of silence, by default None for no limit: while nothing happens the server sends nothing.

        Returns:
            An iterator of `ModelEvent` without end, to be closed. It hears what happens once it is iterated or entered.

        Example:
            >>> with client.model_events() as events:
            ...     client.load_model("qwen", wait=False)
            ...     for event in events:
            ...         print(event.model, event.status, event.progress)
            ...         if event.status == "loaded":
            ...             break
        """
        return ModelEvents(ResumableBody(self.transport, "/models/sse", timeout=timeout), ModelEventDecoder())
