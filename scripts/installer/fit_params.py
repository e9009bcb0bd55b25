"""llama.cpp's own figures of the memory that a model takes: `llama-fit-params`, which reads only a GGUF's header."""

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
from .unit import Choices

MIB = 1024 * 1024
_LINE = re.compile(r"^(\S+) (\d{1,12}) (\d{1,12}) (\d{1,12}) *$", re.MULTILINE)
_HOST = "Host"


def find(command: Sequence[str]) -> Optional[list[str]]:
    """The words that start llama-fit-params beside a llama-server, None if this build has no such program."""
    server = Path(command[0])
    found = [str(server), "fit-params"] if len(command) > 1 else [str(server.with_name("llama-fit-params"))]
    try:
        done = subprocess.run([*found, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return found if done.returncode == 0 and "--fit-print" in done.stdout else None


def need(program: Sequence[str], model: Path, choices: Choices, ctx_size: int, gpu_layers: int) -> Optional[Need]:
    """What the model takes with this context and so many layers on the GPU; None if the program cannot tell.

    Args:
        model: a GGUF file, of which only the header is read.
        choices: slots, batch sizes and cache types are taken from these.
    """
    words = ["-m", str(model), "-c", str(ctx_size), "-ngl", str(gpu_layers), "--fit-print", "on"]
    words += ["-np", str(choices.parallel or SLOTS)]
    if choices.pooling is not None:
        words += ["-b", str(choices.ctx_size), "-ub", str(choices.ctx_size)]
    words += _shared(choices.extra)
    # It aborts over a header that it does not understand, and would have a debugger look into why.
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
    """Those of llama-server's further arguments that change how much memory it takes."""
    taken = {"-b", "--batch-size", "-ub", "--ubatch-size", "-ctk", "--cache-type-k", "-ctv", "--cache-type-v"}
    taken |= {"-fa", "--flash-attn", "-ts", "--tensor-split", "-sm", "--split-mode", "-ncmoe", "--n-cpu-moe"}
    taken |= {"-dev", "--device", "-ot", "--override-tensor"}
    words = []
    for word, value in zip(extra, [*extra[1:], ""]):
        words += [word, value] if word in taken else []
    return words


@contextmanager
def stand_in(names: Sequence[str], sizes: Sequence[int], heads: Sequence[bytes]) -> Iterator[Path]:
    """Files of the right names and sizes that hold only their beginnings; the first of them. They take no space."""
    with TemporaryDirectory(prefix="flynn-header-") as folder:
        for name, size, head in zip(names, sizes, heads):
            path = Path(folder, name)
            path.write_bytes(head)
            os.truncate(path, size)
        yield Path(folder, names[0])
