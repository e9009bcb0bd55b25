"""How much memory this machine has: main memory, and that of its GPUs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory and of all GPUs together (llama.cpp spreads the layers over them); no GPU is 0."""

    host: int
    gpu: int = 0
    gpu_name: str = ""


def of_this_machine() -> Memory:
    """Asks the operating system, nvidia-smi, and the kernel's amdgpu driver. Never fails: no answer is no GPU."""
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpus = _nvidia() or _amd()
    names = " + ".join(name for name, _ in gpus)
    return Memory(host, sum(size for _, size in gpus), names)


def _nvidia() -> list[tuple[str, int]]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        rows = (line.rpartition(",") for line in output.splitlines() if line.strip())
        return [(name.strip(), int(mib) * MIB) for name, _, mib in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _amd() -> list[tuple[str, int]]:
    found = []
    for file in sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")):
        try:
            found.append((f"AMD GPU {file.parts[4]}", int(file.read_text())))
        except (OSError, ValueError):
            continue
    return found
