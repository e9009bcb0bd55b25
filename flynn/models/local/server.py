"""The server itself: health, properties, slots, adapters, metrics. Types, decoders and the methods of the client.

Source of the metrics: https://prometheus.io/docs/instrumenting/exposition_formats/ and `to_metrics` of
`server-task.cpp` in llama.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from ...errors import (
    ConnectionLostError,
    FlynnError,
    ModelLoadingError,
    ProtocolError,
    RequestTimeoutError,
    ServerNotRunningError,
)
from .decode import decode_fields, decode_json, expect_object, get, number, objects
from .transport import LOADING_PAUSE, OWN, Routes, about


@dataclass
class Health:
    """Whether the server is ready: true if it is, in an `if`.

    Attributes:
        status: `"ok"` or `"loading"`.
    """

    status: str

    def __bool__(self) -> bool:
        return self.status == "ok"


@dataclass
class Props:
    """Properties of the server.

    Attributes:
        model_path: the GGUF, as given to the server.
        model_alias: the model's name.
        n_ctx: context of one slot in tokens; None if the server does not report it.
        total_slots: number of requests that it serves at the same time.
        build_info: build number and commit.
        chat_template: the Jinja template.
        modalities: e.g. `{"vision": False, "audio": False}`.
        raw: the server's JSON, untouched.
    """

    model_path: str
    model_alias: str
    n_ctx: Optional[int]
    total_slots: int
    build_info: str
    chat_template: str = field(repr=False)
    modalities: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)


@dataclass
class Slot:
    """A slot: the server answers one request at a time in each.

    Attributes:
        id: its number, from 0.
        is_processing: whether it is busy.
        n_ctx: its context in tokens.
        raw: the server's JSON, untouched.
    """

    id: int
    is_processing: bool
    n_ctx: int
    raw: Mapping[str, Any] = field(repr=False)


@dataclass
class SlotFile:
    """The file that a slot's prompt cache was saved to, or restored from.

    Attributes:
        id_slot: the slot's number.
        filename: the file, in the directory of `--slot-save-path`.
        n_tokens: number of tokens saved or restored.
        n_bytes: number of bytes written or read.
        raw: the server's JSON, untouched.
    """

    id_slot: int
    filename: str
    n_tokens: int
    n_bytes: int
    raw: Mapping[str, Any] = field(repr=False)


@dataclass
class LoraAdapter:
    """A LoRA adapter that the server was started with.

    Attributes:
        id: its number, from 0.
        path: the GGUF, as given to the server.
        scale: its weight; 0 switches it off.
        raw: the server's JSON, untouched.
    """

    id: int
    path: str
    scale: float
    raw: Mapping[str, Any] = field(repr=False)


@dataclass
class Metric:
    """One measured value.

    Attributes:
        name: e.g. `"llamacpp:requests_processing"`.
        value: a number; may be NaN or infinite.
        type: `"counter"`, `"gauge"`, …; `"untyped"` if the server does not name it.
        help: the server's description.
        labels: e.g. `{"position": "0"}`.
    """

    name: str
    value: float
    type: str = "untyped"
    help: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Metrics:
    """The server's metrics. `metrics[name]` is the value of the metric with this name and no labels.

    Attributes:
        samples: all metrics, in the server's order.
        raw: the server's text, untouched.
    """

    samples: Sequence[Metric]
    raw: str = field(repr=False)

    def __getitem__(self, name: str) -> float:
        for metric in self.samples:
            if metric.name == name and not metric.labels:
                return metric.value
        raise KeyError(name)


def decode_props(value: Any) -> Props:
    settings: Dict[str, Any] = get(expect_object(value), "default_generation_settings", {})
    return decode_fields(Props, value, n_ctx=get(settings, "n_ctx", 0) or None)


def decode_slots(value: Any) -> List[Slot]:
    return [decode_fields(Slot, item) for item in objects({"slots": value}, "slots")]


def decode_slot_file(value: Any) -> SlotFile:
    raw = expect_object(value)
    tokens, size = ("n_saved", "n_written") if "n_saved" in raw else ("n_restored", "n_read")
    return decode_fields(SlotFile, raw, n_tokens=get(raw, tokens, 0), n_bytes=get(raw, size, 0))


def decode_lora_adapters(value: Any) -> List[LoraAdapter]:
    items = objects({"adapters": value}, "adapters")
    return [decode_fields(LoraAdapter, item, scale=number(item, "scale") or 0.0) for item in items]


# Each is matched at one place, and matches a text in one way only: the time is linear in the length of a line.
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|(?=}))')


def decode_metrics(data: bytes) -> Metrics:
    """Return the metrics in a Prometheus text.

    Example:
        >>> decode_metrics(b'# TYPE requests gauge\\nrequests{slot="0"} 2\\n').samples
        (Metric(name='requests', value=2.0, type='gauge', help='', labels={'slot': '0'}),)
    """
    text = data.decode("utf-8", "replace")
    about: Dict[str, Dict[str, str]] = {"HELP": {}, "TYPE": {}}
    samples = []
    for line in map(str.strip, text.split("\n")):
        if line.startswith("#"):
            _, kind, name, words = (line.split(None, 3) + [""] * 3)[:4]
            about.get(kind, {})[name] = _unescaped(words)
        elif line:
            samples.append(_metric(line, about))
    return Metrics(tuple(samples), text)


def _metric(line: str, about: Mapping[str, Mapping[str, str]]) -> Metric:
    """Read `name{label="value",…} number [timestamp]`."""
    name = _NAME.match(line)
    rest = line[name.end() :].lstrip() if name else ""
    labels: Dict[str, str] = {}
    if rest.startswith("{"):
        place = 1
        while label := _LABEL.match(rest, place):
            labels[label[1]] = _unescaped(label[2])
            place = label.end()
        brace, rest = rest[place:].lstrip()[:1], rest[place:].lstrip()[1:]
    else:
        brace = "}"
    numbers = rest.split()
    try:
        if name and brace == "}" and len(numbers) in (1, 2):
            value, kind, text = float(numbers[0]), about["TYPE"].get(name[0], "untyped"), about["HELP"].get(name[0], "")
            return Metric(name[0], value, kind, text, labels)
    except ValueError:
        pass
    raise ProtocolError(f"expected a metric in Prometheus' text format, got {line[:80]!r}")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


class ServerRoutes(Routes):
    """The part of `LlamaCppClient` about the server itself."""

    def health(self, *, timeout: Optional[float] = OWN) -> Health:
        """Return whether the server is ready, without waiting for it.

        Returns:
            Health: true if it is ready, false while its model loads.
        """
        try:
            reply = self.transport.fetch("GET", "/health", None, timeout, patient=False, decode=decode_json)
        except ModelLoadingError:
            return Health("loading")
        return Health(get(expect_object(reply), "status", ""))

    def wait_until_ready(self, timeout: Optional[float] = OWN) -> None:
        """Wait until the server is up and its model is loaded.

        Raises:
            ServerNotRunningError: it is not up after `timeout` seconds.
            ModelLoadingError: it is still loading the model after `timeout` seconds.
        """
        call = self.transport.call(timeout)
        down: Optional[FlynnError] = None
        while True:
            try:
                if down:
                    call.pause(LOADING_PAUSE)
                self.transport.send(call, "GET", "/health").close()
                return
            except (ServerNotRunningError, ConnectionLostError) as error:  # the latter while it stops
                down = error
            except RequestTimeoutError:
                raise down or RequestTimeoutError() from None

    def props(self, *, model: Optional[str] = None, timeout: Optional[float] = OWN) -> Props:
        """Return the properties of the server: model, context, slots, build.

        Args:
            model: on a server with several models, the one to ask about; it is loaded if necessary. By default the
                answer is about the server.
        """
        return decode_props(self.transport.json("GET", about("/props", model), None, timeout))

    def slots(self, *, timeout: Optional[float] = OWN) -> List[Slot]:
        """Return the state of each slot.

        Raises:
            NotSupportedError: the server was started with `--no-slots`.
        """
        return decode_slots(self._get("/slots", timeout))

    def save_slot(self, id_slot: int, filename: str, *, timeout: Optional[float] = OWN) -> SlotFile:
        """Save the prompt cache of a slot to a file on the server. Needs a server started with `--slot-save-path`.

        Args:
            id_slot: the slot's number, from 0.
            filename: a file name without a path.

        Raises:
            NotSupportedError: the server was started without `--slot-save-path`.
            ServerError: the file cannot be written, or its name is not valid.
        """
        return decode_slot_file(self._slot(id_slot, "save", timeout, filename=filename))

    def restore_slot(self, id_slot: int, filename: str, *, timeout: Optional[float] = OWN) -> SlotFile:
        """Restore the prompt cache of a slot from a file that `save_slot` wrote.

        Raises:
            ServerError: the file does not exist, or does not fit the slot.
        """
        return decode_slot_file(self._slot(id_slot, "restore", timeout, filename=filename))

    def erase_slot(self, id_slot: int, *, timeout: Optional[float] = OWN) -> int:
        """Erase the prompt cache of a slot. Needs a server started with `--slot-save-path`, like `save_slot`.

        Returns:
            The number of tokens erased.
        """
        return get(expect_object(self._slot(id_slot, "erase", timeout)), "n_erased", 0)

    def _slot(self, id_slot: int, action: str, timeout: Optional[float], **fields: str) -> Any:
        return self._post(f"/slots/{int(id_slot)}?action={action}", timeout, fields)

    def lora_adapters(self, *, timeout: Optional[float] = OWN) -> List[LoraAdapter]:
        """Return the LoRA adapters that the server was started with."""
        return decode_lora_adapters(self._get("/lora-adapters", timeout))

    def set_lora_adapters(
        self, adapters: Union[Mapping[int, float], Sequence[Mapping[str, Any]]], *, timeout: Optional[float] = OWN
    ) -> None:
        """Set the scale of each LoRA adapter, for requests without `lora`.

        The server keeps using prompts that it cached with the old scales (b11549). `cache_prompt=False` makes it read
        the prompt of a request again.

        Args:
            adapters: scales by adapter number, `{0: 0.5}`, or the server's form, `[{"id": 0, "scale": 0.5}]`. A missing
                adapter is switched off.
        """
        if isinstance(adapters, Mapping):
            adapters = [{"id": id, "scale": scale} for id, scale in adapters.items()]
        self.transport.json("POST", "/lora-adapters", list(adapters), timeout)

    def metrics(self, *, timeout: Optional[float] = OWN) -> Metrics:
        """Return the server's metrics.

        Raises:
            NotSupportedError: the server was started without `--metrics`.

        Example:
            >>> client.metrics()["llamacpp:tokens_predicted_total"]
            1024.0
        """
        path = about("/metrics", self.defaults.get("model"))
        return decode_metrics(self.transport.fetch("GET", path, None, timeout, kind="text/plain"))
