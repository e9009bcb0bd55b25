"""Write GGUF files of real architectures with only the header, which is all that `llama-fit-params` reads.

tests/data/architectures.json has the metadata of each architecture, the tensors that llama.cpp requires, and the output
of llama-fit-params (the file names its build): MiB of weights, context and compute, by context size and slots. The
files have few layers, a small vocabulary and no tokenizer; the shapes are those of the models.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from gguf import aligned, header, tensor_info

_F32, _Q8_0 = 0, 8  # ggml_type

DATA: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "architectures.json").read_text())
ARCHITECTURES: dict[str, Any] = DATA["architectures"]


def write(path: Path, name: str) -> Path:
    """Write a file of this architecture: its header, and a hole in place of its weights. Returns its path."""
    architecture = ARCHITECTURES[name]
    tensors: dict[str, list[int]] = dict(architecture["tensors"])
    for group in architecture["layers"]:
        for number in group["numbers"]:
            tensors.update((f"blk.{number}.{end}", shape) for end, shape in group["tensors"].items())
    head, offset = header(architecture["metadata"], tensors=len(tensors)), 0
    for tensor, shape in tensors.items():
        is_plain = len(shape) == 1 or shape[0] % 32 > 0
        head += tensor_info(tensor, shape, _F32 if is_plain else _Q8_0, offset)
        offset += aligned(math.prod(shape) * 4 if is_plain else math.prod(shape) // 32 * 34)
    path.write_bytes(head)
    os.truncate(path, aligned(len(head)) + offset)
    return path
