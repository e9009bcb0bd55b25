"""Routes about the server itself: is it up, what does it run, its models, slots, adapters and metrics."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import (
    ConnectionLostError,
    FlynnError,
    ModelLoadingError,
    RequestTimeoutError,
    ServerError,
    ServerNotRunningError,
)
from .decode import decode_json, expect_object, get
from .encode import encode_json
from .stream import ModelEvents
from .transport import LOADING_PAUSE, MAX_ERROR, MAX_REPLY, OWN, Routes, about

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence, Union

    from ...http.call import Call
    from .server import Health, LoraAdapter, Metrics, ModelInfo, Props, Slot, SlotFile


class ServerRoutes(Routes):
    """The part of `LlamaCppClient` that looks after the server."""

    def health(self, *, timeout: Optional[float] = OWN) -> Health:
        """Whether the server is ready, without waiting for it.

        Returns:
            Health: true if it is ready, false while its model loads.
        """
        from .server import Health

        call = self.transport.call(timeout)
        try:
            reply = self.transport.send(call, "GET", "/health", wait_for_model=False).read(MAX_ERROR)
        except ModelLoadingError:
            return Health("loading")
        return Health(get(expect_object(decode_json(reply)), "status", ""))

    def wait_until_ready(self, timeout: Optional[float] = OWN) -> None:
        """Wait until the server is up and its model is loaded.

        Raises:
            ServerNotRunningError: it is not up after `timeout` seconds.
            ModelLoadingError: it still loads the model then.
        """
        call = self.transport.call(timeout)
        down: Optional[FlynnError] = None
        while True:
            try:
                if down:
                    call.pause(LOADING_PAUSE)
                self.transport.send(call, "GET", "/health").close()
                return
            except (ServerNotRunningError, ConnectionLostError) as error:  # the latter while it goes down
                down = error
            except RequestTimeoutError:
                raise down or RequestTimeoutError() from None

    def props(self, *, model: Optional[str] = None, timeout: Optional[float] = OWN) -> Props:
        """What the server runs: model, context, slots, build.

        Args:
            model: the one to ask about, where a server has several: it is loaded if it is not. By default the server.
        """
        from .server import decode_props

        return decode_props(self.transport.json("GET", about("/props", model), None, timeout))

    def models(self, *, timeout: Optional[float] = OWN) -> List[ModelInfo]:
        """The models that the server offers."""
        from .server import decode_models

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
        from .server import decode_models

        models = decode_models(decode_json(self.transport.send(call, "GET", "/models").read(MAX_REPLY)))
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
        from .server import ModelEventDecoder

        return ModelEvents(self._transfer("/models/sse", None, None, timeout, False, 0.0), ModelEventDecoder())

    def slots(self, *, timeout: Optional[float] = OWN) -> List[Slot]:
        """What each slot of the server is doing.

        Raises:
            NotSupportedError: the server was started with `--no-slots`.
        """
        from .server import decode_slots

        return decode_slots(self._get("/slots", timeout))

    def save_slot(self, id_slot: int, filename: str, *, timeout: Optional[float] = OWN) -> SlotFile:
        """Save the prompt cache of a slot to a file on the server. Wants a server started with `--slot-save-path`.

        Args:
            id_slot: counted from 0.
            filename: a name in that directory, without a path.

        Raises:
            NotSupportedError: the server was started without it.
            ServerError: the file cannot be written or has no good name.
        """
        from .server import decode_slot_file

        return decode_slot_file(self._slot(id_slot, "save", timeout, filename=filename))

    def restore_slot(self, id_slot: int, filename: str, *, timeout: Optional[float] = OWN) -> SlotFile:
        """Restore the prompt cache of a slot from a file that `save_slot` has made.

        Raises:
            ServerError: there is no such file, or the slot has no room for it.
        """
        from .server import decode_slot_file

        return decode_slot_file(self._slot(id_slot, "restore", timeout, filename=filename))

    def erase_slot(self, id_slot: int, *, timeout: Optional[float] = OWN) -> int:
        """Forget the prompt cache of a slot. Wants a server started with `--slot-save-path`, like `save_slot`.

        Returns:
            The number of tokens that were in it.
        """
        return get(expect_object(self._slot(id_slot, "erase", timeout)), "n_erased", 0)

    def _slot(self, id_slot: int, action: str, timeout: Optional[float], **fields: str) -> Any:
        return self._post(f"/slots/{int(id_slot)}?action={action}", timeout, fields)

    def lora_adapters(self, *, timeout: Optional[float] = OWN) -> List[LoraAdapter]:
        """The LoRA adapters that the server was started with."""
        from .server import decode_lora_adapters

        return decode_lora_adapters(self._get("/lora-adapters", timeout))

    def set_lora_adapters(
        self, adapters: Union[Mapping[int, float], Sequence[Mapping[str, Any]]], *, timeout: Optional[float] = OWN
    ) -> None:
        """Set how strongly each LoRA adapter applies to requests without a `lora` of their own.

        Args:
            adapters: scales by adapter, `{0: 0.5}`, or the same in the server's form, `[{"id": 0, "scale": 0.5}]`.
                An adapter that is missing is switched off.

        What the server has cached of a prompt was read with the scales of then, and it uses that (b11549): a request
        with `cache_prompt=False` reads its prompt anew.
        """
        if isinstance(adapters, Mapping):
            adapters = [{"id": id, "scale": scale} for id, scale in adapters.items()]
        self.transport.json("POST", "/lora-adapters", list(adapters), timeout)

    def metrics(self, *, timeout: Optional[float] = OWN) -> Metrics:
        """What the server counts and measures.

        Raises:
            NotSupportedError: the server was started without `--metrics`.

        Example:
            >>> client.metrics()["llamacpp:tokens_predicted_total"]
            1024.0
        """
        from .server import decode_metrics

        path = about("/metrics", self.defaults.get("model"))
        return decode_metrics(self.transport.fetch("GET", path, None, timeout, "text/plain"))
