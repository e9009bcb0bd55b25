"""Scripts that stand in for the programs of a machine with GPUs: nvidia-smi, and a llama-server without a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

OPTIONS = ("--models-preset", "--backend-sampling", "--sleep-idle-seconds", "--cors-origins", "--list-devices")


def write_server(path: Path, devices: Iterable[str] = (), options: Iterable[str] = OPTIONS) -> str:
    """Write a llama-server that lists these options and devices and accepts any arguments. Returns its path."""
    help_text = "\n".join(f"{option} X   description" for option in ("-m, --model", *options))
    device_list = "\n".join(f"  {device}" for device in devices) or "  (none)"
    path.write_text(f"""#!/bin/sh
case $1 in
--version) echo 'version: 0.7.0 (a stand-in)'; exit ;;
--help) echo '{help_text}'; exit ;;
esac
for word; do test "$word" != --list-devices || echo 'Available devices:
{device_list}'; done
""")
    path.chmod(0o755)
    return str(path)


def write_nvidia_smi(folder: Path, *names: str) -> None:
    """Write an nvidia-smi that lists these cards."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{name}'\n" for name in names))
    program.chmod(0o755)
