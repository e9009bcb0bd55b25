"""Write GGUF files for tests: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Tuple, Union

_ALIGNMENT = 32
_F32 = 0  # type of a tensor
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9  # types of values

Value = Union[int, float, str, bool, List[int], List[str]]

_SMALL: Dict[str, Value] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "llama.block_count": 4,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": [f"token {n}" for n in range(300)],
}


def header(metadata: Mapping[str, Value], *, tensors: int = 0) -> bytes:
    """Return the header of a GGUF file with this metadata and number of tensors."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(metadata))
    return head + b"".join(_member(key, value) for key, value in metadata.items())


def tensor_info(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """Return the description of a tensor, which follows the header."""
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def aligned(size: int) -> int:
    """Round a number of bytes up to the alignment of tensors."""
    return size + -size % _ALIGNMENT


def random_model(size: int, *, seed: int = 1, **changes: Value) -> bytes:
    """Return `size` bytes: the header of a small model, followed by random bytes from `seed`."""
    return (header({**_SMALL, **changes}) + random.Random(seed).randbytes(size))[:size]


def _member(key: str, value: Value) -> bytes:
    return _text(key) + _value(value)


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    are_texts = value and isinstance(value[0], str)
    items = b"".join(_text(str(item)) if are_texts else struct.pack("<I", int(item)) for item in value)
    return struct.pack("<IIQ", _ARRAY, _STRING if are_texts else _UINT32, len(value)) + items


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def write_lora(path: Path, scale: float) -> Path:
    """Write a LoRA adapter of rank 1 for SmolLM2-135M. Returns its path.

    It adds `scale` to each weight of the first layer's attention output: 0 changes nothing.
    """
    n_embd = 576
    metadata = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    # By name: (columns, rows) and the values.
    tensors: Dict[str, Tuple[Tuple[int, int], List[float]]] = {
        "blk.0.attn_output.weight.lora_a": ((n_embd, 1), [1.0] * n_embd),
        "blk.0.attn_output.weight.lora_b": ((1, n_embd), [scale] * n_embd),
    }
    head = header({**metadata, "adapter.lora.alpha": 1.0}, tensors=len(tensors))
    data = b""
    for name, (shape, values) in tensors.items():
        head += tensor_info(name, shape, _F32, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
    path.write_bytes(head.ljust(aligned(len(head)), b"\0") + data)
    return path


def write_infill_model(path: Path, model: Path) -> Path:
    """Copy a model and set its infill tokens to `<filename>`, `<gh_stars>` and `<issue_start>`. Returns the new path.

    The metadata is inserted after the header of 24 bytes. Its length is a multiple of the alignment, so that the
    tensors stay aligned.
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
