"""GGUF files for tests, written by the format's own description."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from typing import Union

Value = Union[int, float, str, bool, "list[int]", "list[str]"]


def gguf(metadata: Mapping[str, Value], *, tensors: int = 0, version: int = 3) -> bytes:
    """The header of a GGUF file with these metadata."""
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, len(metadata))
    return head + b"".join(_text(key) + _typed(value) for key, value in metadata.items())


def model(size: int, *, seed: int = 1, **changes: Value) -> bytes:
    """A file of `size` bytes that begins like a small model and goes on with noise that `seed` decides."""
    return (gguf({**SMALL, **changes}) + random.Random(seed).randbytes(size))[:size]


SMALL: dict[str, Value] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "llama.block_count": 4,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": [f"token {n}" for n in range(300)],
}


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    texts = value and isinstance(value[0], str)
    items = b"".join(_text(str(item)) if texts else struct.pack("<I", int(item)) for item in value)
    return struct.pack("<IIQ", 9, 8 if texts else 4, len(value)) + items
