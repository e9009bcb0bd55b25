"""GGUF files of real architectures that hold nothing but their header: what `llama-fit-params` reads.

tests/data/architectures.json has the metadata, the tensors that llama.cpp wants for them, and what llama-fit-params of
the build named there said of the files, in MiB (weights, context, compute), by context and slots. Few layers, a small
vocabulary, and no tokenizer; the shapes are those of the models.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from .gguf_file import gguf

_F32, _Q8_0 = 0, 8  # ggml_type
_ALIGNMENT = 32

DATA: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "architectures.json").read_text())
ARCHITECTURES: dict[str, Any] = DATA["architectures"]


def write(path: Path, name: str) -> Path:
    """A file of this architecture, with its header and then, sparse, as many zeros as its weights have bytes."""
    architecture = ARCHITECTURES[name]
    tensors: dict[str, list[int]] = dict(architecture["tensors"])
    for group in architecture["layers"]:
        for number in group["numbers"]:
            tensors.update((f"blk.{number}.{end}", shape) for end, shape in group["tensors"].items())
    head, offset = gguf(architecture["metadata"], tensors=len(tensors)), 0
    for tensor, shape in tensors.items():
        plain = len(shape) == 1 or shape[0] % 32 > 0
        text = tensor.encode()
        head += struct.pack("<Q", len(text)) + text + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", _F32 if plain else _Q8_0, offset)
        offset += _aligned(math.prod(shape) * 4 if plain else math.prod(shape) // 32 * 34)
    path.write_bytes(head)
    os.truncate(path, _aligned(len(head)) + offset)
    return path


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
