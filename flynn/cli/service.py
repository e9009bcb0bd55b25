"""The one piece of advice for a server on this machine that does not answer, from what systemd knows of its service."""

from __future__ import annotations

import os
import subprocess
from typing import Dict, List

_SERVICE = "llama-server"
_PATIENCE = 5.0  # seconds for each command
_LOG = f"Read its log: journalctl --user -u {_SERVICE}"


def advice() -> str:
    """Return what to do, in one to three lines."""
    state = dict(line.split("=", 1) for line in _lines("systemctl", "--user", "show", _SERVICE) if "=" in line)
    if state.get("LoadState", "not-found") == "not-found":
        return _install()
    active = state.get("ActiveState", "")
    if active == "failed" or state.get("SubState") == "auto-restart":
        its_own = f"_SYSTEMD_INVOCATION_ID={state.get('InvocationID')}"  # without what systemd says about the service
        last = _lines("journalctl", "-q", its_own, "-n", "1", "-o", "cat", "--no-pager")
        why = f": {last[-1]}" if last else f" ({state.get('Result', 'unknown reason')})"
        return f"The service has failed{why}\n{_LOG}\nStart it again: systemctl --user restart {_SERVICE}"
    if active == "active":
        return f"The service runs, but listens elsewhere or not yet.\n{_LOG}"
    if active in ("activating", "reloading"):
        return f"The service is starting. Try again in a moment.\n{_LOG}"
    return f"Start it: systemctl --user start {_SERVICE}"


def _install() -> str:
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.isfile(os.path.join(source, "scripts", "install_service.py")):
        here = os.path.realpath(os.curdir) == os.path.realpath(source)
        make = "make install-service" if here else f"make -C {source} install-service"
        return f"There is no service {_SERVICE} yet. Install it: {make}"
    return (
        f"There is no service {_SERVICE}. Start a server: llama-server --model FILE.gguf --port 8080\n"
        "Flynn's source installs it as a service: make install-service"
    )


def _lines(*command: str) -> List[str]:
    """Return the lines that a command prints; none if it cannot be run or fails."""
    environ: Dict[str, str] = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.decode("utf-8", "replace").splitlines()
