"""GGUF files for tests, written by hand: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Dict, List, Tuple, Union

_VERSION = 3
_ALIGNMENT = 32
_UINT32, _FLOAT32, _STRING = 4, 6, 8  # types of values
_F32 = 0  # type of a tensor

Value = Union[int, float, str]


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _member(key: str, value: Value) -> bytes:
    kind, data = {
        int: (_UINT32, lambda: struct.pack("<I", value)),
        float: (_FLOAT32, lambda: struct.pack("<f", value)),
        str: (_STRING, lambda: _text(str(value))),
    }[type(value)]
    return _text(key) + struct.pack("<I", kind) + data()


def write_lora(path: Path, scale: float) -> Path:
    """A LoRA adapter of rank 1 for SmolLM2-135M: it adds `scale` to each weight of the first layer's attention output.

    Two files of the same `scale` are the same, and one of 0 changes nothing.
    """
    n_embd = 576
    members = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    # (columns, rows) and the numbers
    tensors: Dict[str, Tuple[Tuple[int, int], List[float]]] = {
        "blk.0.attn_output.weight.lora_a": ((n_embd, 1), [1.0] * n_embd),
        "blk.0.attn_output.weight.lora_b": ((1, n_embd), [scale] * n_embd),
    }
    head = struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(members) + 1)
    head += b"".join(_member(*member) for member in members.items()) + _member("adapter.lora.alpha", 1.0)
    data = b""
    for name, (shape, numbers) in tensors.items():
        head += _text(name) + struct.pack("<IQQIQ", 2, *shape, _F32, len(data))
        data += struct.pack(f"<{len(numbers)}f", *numbers)
    path.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + data)
    return path


def write_infill_model(path: Path, model: Path) -> Path:
    """A copy of a model with `<filename>`, `<gh_stars>` and `<issue_start>` as the tokens around a gap.

    What is inserted after the 24 bytes of the head is a multiple of the alignment, so that all behind it stays right.
    """
    tokens = {"pre": 6, "suf": 7, "mid": 8}
    inserted = b"".join(_member(f"tokenizer.ggml.fim_{name}_token_id", token) for name, token in tokens.items())
    filler = _member("general.filler", "")
    inserted += _member("general.filler", "." * (-(len(inserted) + len(filler)) % _ALIGNMENT))
    with model.open("rb") as source, path.open("wb") as target:
        magic, version, n_tensors, n_members = struct.unpack("<4sIQQ", source.read(24))
        target.write(struct.pack("<4sIQQ", magic, version, n_tensors, n_members + len(tokens) + 1) + inserted)
        shutil.copyfileobj(source, target)
    return path
