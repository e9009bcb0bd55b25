"""What a llama-server says of itself: health, properties, models, slots, adapters, tokens. Types and decoding."""

from __future__ import annotations

from ...dataclass import dataclass, field
from ...errors import ProtocolError
from .decode import decode_json, expect_object, get, integers, number, objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional, Union


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


def decode_health(value: Any) -> Health:
    return Health(get(expect_object(value, "response"), "status", str, ""))


def decode_props(value: Any) -> Props:
    raw = expect_object(value, "response")
    settings = get(raw, "default_generation_settings", dict, {})
    return Props(
        model_path=get(raw, "model_path", str, ""),
        model_alias=get(raw, "model_alias", str, ""),
        n_ctx=get(settings, "n_ctx", int, 0) or None,
        total_slots=get(raw, "total_slots", int, 0),
        build_info=get(raw, "build_info", str, ""),
        chat_template=get(raw, "chat_template", str, ""),
        modalities=get(raw, "modalities", dict, {}),
        raw=raw,
    )


def decode_models(value: Any) -> List[ModelInfo]:
    items = objects(expect_object(value, "response"), "data")
    return [
        ModelInfo(
            get(item, "id", str, ""),
            get(item, "meta", dict, {}),
            item,
            get(get(item, "status", dict, {}), "value", str, "") or None,
        )
        for item in items
    ]


class ModelEventDecoder:
    """Takes the data of the events of `/models/sse`, which has no end, and gives typed events."""

    done = False

    def feed(self, data: bytes) -> List[ModelEvent]:
        """The event in the data of one server-sent event.

        Raises:
            ProtocolError: it is not what the route sends.
        """
        raw = expect_object(decode_json(data), "event")
        change = get(raw, "data", dict, {})
        progress = get(change, "progress", dict, {})
        return [
            ModelEvent(
                get(raw, "model", str, ""),
                get(raw, "event", str, ""),
                get(change, "status", str, "") or None,
                get(progress, "current", str, "") or None,
                number(progress, "value"),
                raw,
            )
        ]

    def response(self) -> None:
        """Nothing: the events do not add up to anything."""


def decode_slots(value: Any) -> List[Slot]:
    items = objects({"slots": value}, "slots")
    return [
        Slot(get(item, "id", int, 0), get(item, "is_processing", bool, False), get(item, "n_ctx", int, 0), item)
        for item in items
    ]


def decode_count(value: Any) -> int:
    count = get(expect_object(value, "response"), "input_tokens", int, -1)
    if count < 0:
        raise ProtocolError("expected a number of tokens as 'input_tokens', got none")
    return count


def decode_tokens(value: Any) -> List[int]:
    return integers(expect_object(value, "response"), "tokens")


def decode_pieces(value: Any) -> List[TokenPiece]:
    pieces = []
    for item in objects(expect_object(value, "response"), "tokens"):
        piece = item.get("piece")
        try:
            pieces.append(
                TokenPiece(get(item, "id", int, 0), piece if isinstance(piece, str) else bytes(integers(item, "piece")))
            )
        except ValueError:
            raise ProtocolError("expected the bytes of a token as numbers from 0 to 255") from None
    return pieces


def decode_slot_file(value: Any) -> SlotFile:
    raw = expect_object(value, "response")
    tokens, size = ("n_saved", "n_written") if "n_saved" in raw else ("n_restored", "n_read")
    slot, filename = get(raw, "id_slot", int, 0), get(raw, "filename", str, "")
    return SlotFile(slot, filename, get(raw, tokens, int, 0), get(raw, size, int, 0), raw)


def decode_erased(value: Any) -> int:
    return get(expect_object(value, "response"), "n_erased", int, 0)


def decode_lora_adapters(value: Any) -> List[LoraAdapter]:
    return [
        LoraAdapter(get(item, "id", int, 0), get(item, "path", str, ""), number(item, "scale") or 0.0, item)
        for item in objects({"adapters": value}, "adapters")
    ]


def decode_success(value: Any) -> bool:
    return get(expect_object(value, "response"), "success", bool, False)


def decode_text(value: Any, key: str = "content") -> str:
    return get(expect_object(value, "response"), key, str, "")
