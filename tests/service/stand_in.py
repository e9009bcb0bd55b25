"""A stand-in for a llama-server with GPUs, which the machine of a test does not have: it answers questions only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

OPTIONS = ("--models-preset", "--backend-sampling", "--sleep-idle-seconds", "--cors-origins", "--list-devices")


def write_server(path: Path, devices: Iterable[str] = (), options: Iterable[str] = OPTIONS) -> str:
    """A script at `path` that lists these options and devices, and takes any arguments; its path."""
    listed = "\n".join(f"{option} X   what it does" for option in ("-m, --model", *options))
    found = "\n".join(f"  {device}" for device in devices) or "  (none)"
    path.write_text(f"""#!/bin/sh
case $1 in
--version) echo 'version: 0.7.0 (a stand-in)'; exit ;;
--help) echo '{listed}'; exit ;;
esac
for word; do test "$word" != --list-devices || echo 'Available devices:
{found}'; done
""")
    path.chmod(0o755)
    return str(path)


def write_nvidia_smi(folder: Path, *names: str) -> None:
    """An nvidia-smi that knows these cards."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{name}'\n" for name in names))
    program.chmod(0o755)
