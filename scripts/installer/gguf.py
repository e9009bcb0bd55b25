"""Reading the beginning of a GGUF file: enough to know the architecture, no tensor and no vocabulary.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Writers put the architecture's keys before the
tokenizer's arrays, so the first few KB of a file hold all that is asked here.
"""

from __future__ import annotations

import struct
from typing import Optional, Union

from .catalogue import HALF_PRECISION_BYTES, Shape

MAGIC = b"GGUF"
HEAD_BYTES = 16 * 1024
VOCABULARY = "tokenizer.ggml.tokens"

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MOST_LAYERS = 4096  # more than any model has: a damaged header is not believed
_LONGEST_ARRAY = _MOST_LAYERS  # longer ones are vocabularies; arrays that are wanted have an entry a layer

Value = Union[int, float, str, "list[Union[int, float, str]]"]


class NotGGUF(ValueError):
    """The bytes are not the beginning of a GGUF file."""


class _End(Exception):
    """The bytes at hand are used up."""


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _End
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def scalar(self, kind: int) -> Union[int, float, str]:
        if kind == _STRING:
            return self.text()
        if kind not in _SCALARS:
            raise NotGGUF(f"GGUF value type {kind} is unknown")
        return self.number(_SCALARS[kind])


def read_metadata(head: bytes) -> dict[str, Value]:
    """The metadata in the first bytes of a GGUF file, as far as they go.

    The vocabulary is where it ends: of that only the length is kept, under its own key.

    Raises:
        NotGGUF: the magic is missing, or what follows is not GGUF version 2 or 3.
    """
    if not head.startswith(MAGIC):
        raise NotGGUF("the file does not begin with GGUF")
    cursor = _Cursor(head)
    found: dict[str, Value] = {}
    try:
        cursor.take(len(MAGIC))
        version = cursor.number("<I")
        if version not in (2, 3):
            raise NotGGUF(f"GGUF version {version} is not supported (2 and 3 are)")
        cursor.number("<Q")  # tensors
        for _ in range(cursor.number("<Q")):
            key, kind = cursor.text(), cursor.number("<I")
            if kind != _ARRAY:
                found[key] = cursor.scalar(kind)
                continue
            element, length = cursor.number("<I"), cursor.number("<Q")
            if key == VOCABULARY or length > _LONGEST_ARRAY:
                found[key] = length
                break
            found[key] = [cursor.scalar(element) for _ in range(length)]
    except _End:
        pass
    return found


def shape_of(metadata: dict[str, Value]) -> Optional[Shape]:
    """The model's shape, None if the metadata do not tell (the vocabulary comes first, or the architecture is odd)."""
    architecture = metadata.get("general.architecture")

    def number(key: str, default: int = 0) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        return value if isinstance(value, int) else default

    layers, embedding, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    vocabulary = metadata.get(VOCABULARY, number("vocab_size"))
    if not isinstance(vocabulary, int) or min(layers, embedding, heads, vocabulary) <= 0 or layers > _MOST_LAYERS:
        return None
    per_layer = metadata.get(f"{architecture}.attention.head_count_kv", heads)
    each = per_layer if isinstance(per_layer, list) else [per_layer] * layers
    kv_heads = sum(n for n in each if isinstance(n, int))
    width = number("attention.key_length", embedding // heads) + number("attention.value_length", embedding // heads)
    return Shape(layers, kv_heads * width * HALF_PRECISION_BYTES, embedding, vocabulary)
