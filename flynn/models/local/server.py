"""What a llama-server says of itself: health, properties, models, slots, tokens. Types and decoding, no I/O."""

from __future__ import annotations

from ...dataclass import dataclass, field
from ...errors import ProtocolError
from .decode import expect_object, get, objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional, Sequence


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
    """

    id: str
    meta: Mapping[str, Any]
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
    return [ModelInfo(get(item, "id", str, ""), get(item, "meta", dict, {}), item) for item in items]


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
    tokens: Sequence[Any] = get(expect_object(value, "response"), "tokens", list, [])
    if not all(isinstance(token, int) for token in tokens):
        raise ProtocolError("expected a list of numbers as 'tokens'")
    return list(tokens)


def decode_text(value: Any) -> str:
    return get(expect_object(value, "response"), "content", str, "")
