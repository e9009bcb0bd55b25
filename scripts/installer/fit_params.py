"""The memory that a model needs, from llama.cpp's `llama-fit-params`, which reads only the header of a GGUF file."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

from .fit import SLOTS, Need
from .hardware import MIB
from .unit import Choices

_LINE = re.compile(r"^(\S+) (\d{1,12}) (\d{1,12}) (\d{1,12}) *$", re.MULTILINE)
_HOST = "Host"


def find(command: Sequence[str]) -> Optional[list[str]]:
    """Return the command line of the llama-fit-params next to a llama-server; None if the build has none.

    Args:
        command: the command line of the llama-server.
    """
    server = Path(command[0])
    program = [str(server), "fit-params"] if len(command) > 1 else [str(server.with_name("llama-fit-params"))]
    try:
        done = subprocess.run(
            [*program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return program if done.returncode == 0 and "--fit-print" in done.stdout else None


def need(program: Sequence[str], model: Path, choices: Choices, ctx_size: int, gpu_layers: int) -> Optional[Need]:
    """Return the memory that the model needs; None if the program fails.

    Args:
        program: the command line from `find`.
        model: a GGUF file; only its header is read.
        choices: supply slots, batch sizes and cache types.
        ctx_size: context size in tokens.
        gpu_layers: layers offloaded to the GPU.
    """
    words = ["-m", str(model), "-c", str(ctx_size), "-ngl", str(gpu_layers), "--fit-print", "on"]
    words += ["-np", str(choices.parallel or SLOTS)]
    if choices.pooling is not None:
        words += ["-b", str(choices.ctx_size), "-ub", str(choices.ctx_size)]
    words += _shared(choices.extra)
    # The program aborts on a header that it cannot parse. Without the variable it would then start a debugger.
    environ = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            [*program, *words], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    rows = {name: sum(map(int, parts)) * MIB for name, *parts in _LINE.findall(done.stdout)}
    if done.returncode or _HOST not in rows:
        return None
    return Need(rows.pop(_HOST), tuple(rows.items()))


def _shared(extra: Sequence[str]) -> list[str]:
    """Return those of the additional llama-server arguments that change the memory it needs."""
    memory_options = {"-b", "--batch-size", "-ub", "--ubatch-size", "-ctk", "--cache-type-k", "-ctv", "--cache-type-v"}
    memory_options |= {"-fa", "--flash-attn", "-ts", "--tensor-split", "-sm", "--split-mode", "-ncmoe", "--n-cpu-moe"}
    memory_options |= {"-dev", "--device", "-ot", "--override-tensor"}
    words = []
    for word, value in zip(extra, [*extra[1:], ""]):
        words += [word, value] if word in memory_options else []
    return words


@contextmanager
def sparse_files(names: Sequence[str], sizes: Sequence[int], heads: Sequence[bytes]) -> Iterator[Path]:
    """Create temporary sparse files with these names, sizes and first bytes. Yields the path of the first."""
    with TemporaryDirectory(prefix="flynn-header-") as folder:
        for name, size, head in zip(names, sizes, heads):
            path = Path(folder, name)
            path.write_bytes(head)
            os.truncate(path, size)
        yield Path(folder, names[0])
