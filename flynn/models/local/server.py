"""The server itself: health, properties, slots, adapters, metrics. Types, decoders and the methods of the client.

`raw` is the server's JSON, untouched. Source of the metrics: `to_metrics` of `server-task.cpp` in llama.cpp, and
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ...errors import (
    ConnectionLostError,
    FlynnError,
    ModelLoadingError,
    ProtocolError,
    RequestTimeoutError,
    ServerNotRunningError,
)
from .decode import decode_fields, decode_json, expect_object, get, number, objects
from .transport import LOADING_PAUSE, OWN, Routes, Timeout, about


@dataclass
class Health:
    """Whether the server is ready: true if it is, in an `if`. `status` is `"ok"` or `"loading"`."""

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
    """A slot, numbered from 0: the server answers one request at a time in each. `n_ctx` is its context in tokens."""

    id: int
    is_processing: bool
    n_ctx: int
    raw: Mapping[str, Any] = field(repr=False)


@dataclass
class SlotFile:
    """The file that a slot's prompt cache was saved to, or restored from, in the directory of `--slot-save-path`.

    `n_tokens` and `n_bytes` are the tokens and bytes that were written or read.
    """

    id_slot: int
    filename: str
    n_tokens: int
    n_bytes: int
    raw: Mapping[str, Any] = field(repr=False)


@dataclass
class LoraAdapter:
    """A LoRA adapter that the server was started with, numbered from 0.

    `path` is the GGUF, as given to the server; `scale` is the adapter's weight: 0 switches it off.
    """

    id: int
    path: str
    scale: float
    raw: Mapping[str, Any] = field(repr=False)


@dataclass
class Metric:
    """One measured value, which may be NaN or infinite.

    Attributes:
        name: e.g. `"llamacpp:requests_processing"`.
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
    """The server's metrics: `metrics[name]` is the value of the metric with this name and no labels.

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


# Matches a text in one way only: the time is linear in the length of a line.
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"'
_SAMPLE = re.compile(
    rf"""(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
         (?:\s*\{{(?P<labels>(?:\s*{_LABEL}\s*(?:,|(?=\}})))*)\s*\}}\s*|\s+)
         (?P<value>\S+)(?:\s+\S+)?  # a timestamp may follow""",
    re.X,
)


def decode_metrics(data: bytes) -> Metrics:
    """Return the metrics in a Prometheus text.

    Example:
        >>> decode_metrics(b'# TYPE requests gauge\\nrequests{slot="0"} 2\\n').samples
        (Metric(name='requests', value=2.0, type='gauge', help='', labels={'slot': '0'}),)
    """
    text = data.decode("utf-8", "replace")
    types: Dict[str, str] = {}
    helps: Dict[str, str] = {}
    samples = []
    for line in map(str.strip, text.split("\n")):
        if line.startswith("#"):
            _, kind, name, words = (line.split(None, 3) + [""] * 3)[:4]
            {"HELP": helps, "TYPE": types}.get(kind, {})[name] = _unescaped(words)
        elif line:
            name, value, labels = _sample(line)
            samples.append(Metric(name, value, types.get(name, "untyped"), helps.get(name, ""), labels))
    return Metrics(tuple(samples), text)


def _sample(line: str) -> Tuple[str, float, Dict[str, str]]:
    """Read `name{label="value",…} number [timestamp]`."""
    try:
        if match := _SAMPLE.fullmatch(line):
            labels = {label: _unescaped(value) for label, value in re.findall(_LABEL, match["labels"] or "")}
            return match["name"], float(match["value"]), labels
    except ValueError:
        pass
    raise ProtocolError(f"expected a metric in Prometheus' text format, got {line[:80]!r}")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


class ServerRoutes(Routes):
    """The part of `LlamaCppClient` about the server itself."""

    def health(self, *, timeout: Timeout = OWN) -> Health:
        """Return whether the server is ready, without waiting for it: it is not while its model loads."""
        try:
            reply = self.transport.fetch("GET", "/health", None, timeout, patient=False, decode=decode_json)
        except ModelLoadingError:
            return Health("loading")
        return Health(get(expect_object(reply), "status", ""))

    def wait_until_ready(self, timeout: Timeout = OWN) -> None:
        """Wait until the server is up and its model is loaded.

        After `timeout` seconds, raises ServerNotRunningError or ModelLoadingError.
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

    def props(self, *, model: Optional[str] = None, timeout: Timeout = OWN) -> Props:
        """Return the properties of the server: model, context, slots, build.

        On a server with several models, `model` is the one to ask about; it is loaded if necessary. By default the
        answer is about the server.
        """
        return decode_props(self.transport.json("GET", about("/props", model), None, timeout))

    def slots(self, *, timeout: Timeout = OWN) -> List[Slot]:
        """Return the state of each slot. Raises NotSupportedError if the server was started with `--no-slots`."""
        return decode_slots(self._get("/slots", timeout))

    def save_slot(self, id_slot: int, filename: str, *, timeout: Timeout = OWN) -> SlotFile:
        """Save the prompt cache of a slot to a file on the server, named without a path.

        Raises:
            NotSupportedError: the server was started without `--slot-save-path`.
            ServerError: the file cannot be written, or its name is not valid.
        """
        return decode_slot_file(self._slot(id_slot, "save", timeout, filename=filename))

    def restore_slot(self, id_slot: int, filename: str, *, timeout: Timeout = OWN) -> SlotFile:
        """Restore a slot's prompt cache from a file of `save_slot`. Raises ServerError if it is missing or unfit."""
        return decode_slot_file(self._slot(id_slot, "restore", timeout, filename=filename))

    def erase_slot(self, id_slot: int, *, timeout: Timeout = OWN) -> int:
        """Erase the prompt cache of a slot, and return its number of tokens. Needs what `save_slot` needs."""
        return get(expect_object(self._slot(id_slot, "erase", timeout)), "n_erased", 0)

    def _slot(self, id_slot: int, action: str, timeout: Timeout, **fields: str) -> Any:
        return self._post(f"/slots/{int(id_slot)}?action={action}", timeout, fields)

    def lora_adapters(self, *, timeout: Timeout = OWN) -> List[LoraAdapter]:
        """Return the LoRA adapters that the server was started with."""
        return decode_lora_adapters(self._get("/lora-adapters", timeout))

    def set_lora_adapters(
        self, adapters: Union[Mapping[int, float], Sequence[Mapping[str, Any]]], *, timeout: Timeout = OWN
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

    def metrics(self, *, timeout: Timeout = OWN) -> Metrics:
        """Return the server's metrics. Raises NotSupportedError if the server was started without `--metrics`.

        Example:
            >>> client.metrics()["llamacpp:tokens_predicted_total"]
            1024.0
        """
        path = about("/metrics", self.defaults.get("model"))
        return self.transport.fetch("GET", path, None, timeout, kind="text/plain", decode=decode_metrics)
