"""What this machine has: main memory, graphics cards, and how fast it reads its memory.

Nothing here fails: what does not answer is not there.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

MIB = 1024 * 1024
# Below that it is taken for a part of main memory that an integrated GPU has set aside.
_LEAST_CARD_BYTES = 2048 * MIB
_BLOCK_BYTES = 128 * MIB


def free_memory() -> int:
    """Bytes of main memory that programs can still have without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return all_memory()


def all_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cards() -> list[str]:
    """The names of the NVIDIA and AMD cards whose driver runs; integrated GPUs are left out."""
    return _nvidia() + _amd()


def lacks_nvidia_uvm() -> bool:
    """Whether there is an NVIDIA card and not the device file that CUDA needs.

    The first CUDA program after a boot makes it with the help of a set-user-ID program, which a service with
    NoNewPrivileges cannot run: it would find no GPU, and use the CPU.
    """
    return bool(_nvidia()) and not os.path.exists("/dev/nvidia-uvm")


def read_rate() -> float:
    """Bytes that one core reads from main memory in a second, more or less: a copy reads and writes as many."""
    source, target = bytearray(_BLOCK_BYTES), bytearray(_BLOCK_BYTES)
    fastest = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        memoryview(target)[:] = source
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * _BLOCK_BYTES / fastest


def _nvidia() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in output.splitlines() if line.strip()]


def _amd() -> list[str]:
    found = []
    for file in sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")):
        try:
            if int(file.read_text()) >= _LEAST_CARD_BYTES:
                found.append(f"AMD GPU {file.parts[4]}")
        except (OSError, ValueError):
            continue
    return found
