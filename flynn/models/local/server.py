"""What a llama-server says of itself: health, properties, models, slots, adapters, tokens, metrics. No I/O.

Source of the metrics: https://prometheus.io/docs/instrumenting/exposition_formats/ and `to_metrics` of
`server-task.cpp` in llama.cpp.
"""

from __future__ import annotations

import re

from ...dataclass import dataclass, field, fields
from ...errors import ProtocolError
from .decode import decode_json, expect_object, get, integers, number, objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Sequence, Type, TypeVar, Union

    T = TypeVar("T")


@dataclass(frozen=True)
class Health:
    """Whether the server is ready; true or false accordingly.

    Attributes:
        status: `"ok"` or `"loading"`.
    """

    status: str

    def __bool__(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Props:
    """What the server runs.

    Attributes:
        model_path: the GGUF, as it was given to the server.
        model_alias: the name that it goes by.
        n_ctx: context of one slot, in tokens; None if the server does not say.
        total_slots: requests that it serves at the same time.
        build_info: build number and commit.
        chat_template: Jinja.
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Slot:
    """One of the places where the server answers requests.

    Attributes:
        id: counted from 0.
        is_processing: whether it is busy.
        n_ctx: its context, in tokens.
        raw: the server's JSON, untouched.
    """

    id: int
    is_processing: bool
    n_ctx: int
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class SlotFile:
    """What a slot's prompt cache was saved to, or restored from.

    Attributes:
        id_slot: the slot.
        filename: in the server's directory for them (`--slot-save-path`).
        n_tokens: tokens saved or restored.
        n_bytes: bytes written or read.
        raw: the server's JSON, untouched.
    """

    id_slot: int
    filename: str
    n_tokens: int
    n_bytes: int
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter that the server was started with.

    Attributes:
        id: counted from 0.
        path: the GGUF, as it was given to the server.
        scale: how strongly it applies; 0: not at all.
        raw: the server's JSON, untouched.
    """

    id: int
    path: str
    scale: float
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class TokenPiece:
    """A token and what it stands for.

    Attributes:
        id: the token.
        piece: text, or bytes where they are no UTF-8 by themselves.
    """

    id: int
    piece: Union[str, bytes]


@dataclass(frozen=True)
class Metric:
    """One measured value.

    Attributes:
        name: e.g. `"llamacpp:requests_processing"`.
        value: a number, perhaps NaN or infinite.
        type: `"counter"`, `"gauge"`, …; `"untyped"` if the server did not say.
        help: what it means, in the server's words.
        labels: what tells it from others of the same name, e.g. `{"position": "0"}`.
    """

    name: str
    value: float
    type: str = "untyped"
    help: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """What the server measures. `metrics[name]` is the value of the one that has this name and no labels.

    Attributes:
        samples: all of them, in the server's order.
        raw: the server's text, untouched.
    """

    samples: Sequence[Metric]
    raw: str = field(repr=False)

    def __getitem__(self, name: str) -> float:
        for metric in self.samples:
            if metric.name == name and not metric.labels:
                return metric.value
        raise KeyError(name)


# What the member of a JSON object has to be, by the annotation of its field.
_KINDS: Dict[str, Type[Any]] = {"str": str, "int": int, "bool": bool, "Mapping[str, Any]": dict}


def _decode(kind: Type[T], value: Any, **known: Any) -> T:
    """An instance of a data class from a JSON object with members of its fields' names and types, but for `known`."""
    raw = known["raw"] = expect_object(value)
    for option in fields(kind):  # type: ignore[arg-type]
        if option.name not in known:
            known[option.name] = get(raw, option.name, _KINDS[str(option.type)]())
    return kind(**known)


def decode_props(value: Any) -> Props:
    settings: Dict[str, Any] = get(expect_object(value), "default_generation_settings", {})
    return _decode(Props, value, n_ctx=get(settings, "n_ctx", 0) or None)


def decode_models(value: Any) -> List[ModelInfo]:
    items = objects(expect_object(value), "data")
    return [_decode(ModelInfo, item, status=get(get(item, "status", {}), "value", "") or None) for item in items]


class ModelEventDecoder:
    """A `flynn.models.local.stream.Decoder` of the events of `/models/sse`, which has no end."""

    done = False

    def feed(self, data: bytes) -> List[ModelEvent]:
        raw = expect_object(decode_json(data), "event")
        change: Dict[str, Any] = get(raw, "data", {})
        status = get(change, "status", "") or None
        loading: Dict[str, Any] = get(change, "progress", {})
        stage, progress = get(loading, "current", "") or None, number(loading, "value")
        return [_decode(ModelEvent, raw, status=status, stage=stage, progress=progress)]

    def response(self) -> None:
        """Nothing: the events do not add up to anything."""


def decode_slots(value: Any) -> List[Slot]:
    return [_decode(Slot, item) for item in objects({"slots": value}, "slots")]


def decode_pieces(value: Any) -> List[TokenPiece]:
    items = objects(expect_object(value), "tokens")
    try:
        pieces = [p if isinstance(p := item.get("piece"), str) else bytes(integers(item, "piece")) for item in items]
    except ValueError:
        raise ProtocolError("expected the bytes of a token as numbers from 0 to 255") from None
    return [TokenPiece(get(item, "id", 0), piece) for item, piece in zip(items, pieces)]


def decode_slot_file(value: Any) -> SlotFile:
    raw = expect_object(value)
    tokens, size = ("n_saved", "n_written") if "n_saved" in raw else ("n_restored", "n_read")
    return _decode(SlotFile, raw, n_tokens=get(raw, tokens, 0), n_bytes=get(raw, size, 0))


def decode_lora_adapters(value: Any) -> List[LoraAdapter]:
    items = objects({"adapters": value}, "adapters")
    return [_decode(LoraAdapter, item, scale=number(item, "scale") or 0.0) for item in items]


_SAMPLE = r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?"
_LABEL = r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)'


def decode_metrics(data: bytes) -> Metrics:
    """The metrics in a Prometheus text.

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
    sample = re.fullmatch(_SAMPLE, line)
    try:
        if sample:
            name, labels, value = sample.groups()
            named = {label: _unescaped(words) for label, words in re.findall(_LABEL, labels or "")}
            return Metric(name, float(value), about["TYPE"].get(name, "untyped"), about["HELP"].get(name, ""), named)
    except ValueError:
        pass
    raise ProtocolError(f"expected a metric in Prometheus' text format, got {line[:80]!r}")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
