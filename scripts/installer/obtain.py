"""Commands that install llama-server on this machine; a build for its GPU comes first."""

from __future__ import annotations

import platform
from pathlib import Path

from . import hardware

_INSTALLER = "curl -LsSf https://llama.app/install.sh | sh"
_RELEASES = "https://github.com/ggml-org/llama.cpp/releases"
# By the ID and ID_LIKE of os-release(5).
_PACKAGES = {
    "debian": ("sudo apt install llama.cpp", "Debian 14 and later: CPU only"),
    "fedora": ("sudo dnf install llama-cpp", "Fedora's package; check that its build supports your GPU"),
    "arch": ("yay -S llama.cpp-cuda", "from the AUR; llama.cpp-vulkan for other GPUs"),
}


def install_hint() -> str:
    """Return several lines with commands, the most suitable for this machine first."""
    if platform.system() == "Darwin":
        lines = [("brew install llama.cpp", "supports Apple's GPUs"), (_INSTALLER, "llama.cpp's own installer")]
    else:
        lines = _for_linux(hardware.cards(), _distribution())
    width = max(len(command) for command, _ in lines)
    text = [f"  {command:<{width}}  # {remark}" for command, remark in lines]
    other = 'If it is installed elsewhere: make install-service ARGS="--server /path/to/llama-server"'
    return "\n".join(["Install it with the first of these commands that works for you:", *text, other])


def _for_linux(cards: list[str], distribution: str) -> list[tuple[str, str]]:
    nvidia = any("NVIDIA" in card for card in cards)
    build = "with CUDA for this NVIDIA card" if nvidia else "for the GPU or CPU of this machine"
    lines = [(_INSTALLER, f"llama.cpp's own installer: ~/.local/bin/llama, built {build}")]
    lines += [
        (
            "conda install -c conda-forge llama.cpp",
            f"or mamba, pixi: {'with CUDA' if nvidia else 'CUDA, Vulkan or CPU'}",
        )
    ]
    lines += [(_RELEASES, "archives: Vulkan for NVIDIA, AMD and Intel GPUs, or CPU")]
    container = "server-cuda" if nvidia else "server"
    lines += [
        (f"podman pull ghcr.io/ggml-org/llama.cpp:{container}", "a container: run it yourself, without this installer")
    ]
    lines += [_PACKAGES[distribution]] if distribution in _PACKAGES else []
    return [*lines, ("brew install llama.cpp", "CPU only on Linux")]


def _distribution() -> str:
    """Return the key of `_PACKAGES` for this Linux, from os-release(5); '' if it is not among them."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    return next((name for name in names if name in _PACKAGES), "")
