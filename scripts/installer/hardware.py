"""The hardware of this machine: main memory, graphics cards, and the rate at which it reads memory.

No function raises: hardware that cannot be queried counts as missing.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

MIB = 1024 * 1024
# An AMD GPU with less counts as integrated: its memory is a part of main memory.
_MIN_CARD_BYTES = 2048 * MIB
_BLOCK_BYTES = 128 * MIB


def free_memory() -> int:
    """Return the bytes of main memory that are available without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return all_memory()


def all_memory() -> int:
    """Return the bytes of main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cards() -> list[str]:
    """Return the names of the NVIDIA and AMD cards with a running driver, without integrated GPUs."""
    return _nvidia() + _amd()


def lacks_nvidia_uvm() -> bool:
    """Return True if there is an NVIDIA card but not /dev/nvidia-uvm, the device file that CUDA needs.

    The first CUDA program after a boot creates the device file by running a set-user-ID program. A service with
    NoNewPrivileges cannot run it: it finds no GPU and uses the CPU.
    """
    return bool(_nvidia()) and not os.path.exists("/dev/nvidia-uvm")


def read_rate() -> float:
    """Estimate the bytes/s that one core reads from main memory. A copy reads and writes, so it counts twice."""
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
    names = []
    for file in sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")):
        try:
            if int(file.read_text()) >= _MIN_CARD_BYTES:
                names.append(f"AMD GPU {file.parts[4]}")
        except (OSError, ValueError):
            continue
    return names
