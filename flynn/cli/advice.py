"""What to do about a server that does not answer, in one to three lines."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import List

from ..errors import FlynnError
from ..http.endpoint import parse_endpoint
from ..models.local.llamacpp import LlamaCppClient

_SERVICE = "llama-server"
_USUAL_PORT, _NEW_PORT = 8080, 9931  # llama-server's default until build b11549, and since
_PATIENCE = 5.0  # seconds for each request and command
_LOG = f"Read its log: journalctl --user -u {_SERVICE}"


def advice(endpoint: str) -> str:
    """Return the one piece of advice that fits the endpoint and, on this machine, the state of the service."""
    where = parse_endpoint(endpoint)
    if not where.is_local:
        return "Start llama-server there, or give another --endpoint."
    if where.socket_path is None and where.port == _USUAL_PORT:
        elsewhere = f"http://{replace(where, port=_NEW_PORT).authority}"
        if _answers(elsewhere):
            return (
                f"A llama-server answers at {elsewhere}, where it listens by default since build b11549.\n"
                f"Ask it there: --endpoint {elsewhere}, or FLYNN_ENDPOINT={elsewhere}"
            )
    return _about_service()


def _answers(endpoint: str) -> bool:
    try:
        with LlamaCppClient(endpoint, timeout=_PATIENCE) as client:
            client.health()
            return True
    except FlynnError:
        return False


def _about_service() -> str:
    """Return the advice that fits what systemd knows of the service."""
    state = dict(line.split("=", 1) for line in _lines("systemctl", "--user", "show", _SERVICE) if "=" in line)
    if state.get("LoadState", "not-found") == "not-found":
        return _how_to_install()
    active = state.get("ActiveState", "")
    if active == "failed" or state.get("SubState") == "auto-restart":
        last_run = f"_SYSTEMD_INVOCATION_ID={state.get('InvocationID')}"  # without systemd's own lines
        log = _lines("journalctl", "-q", last_run, "-n", "1", "-o", "cat", "--no-pager")
        why = f": {log[-1]}" if log else f" ({state.get('Result', 'unknown reason')})"
        return f"The service has failed{why}\n{_LOG}\nStart it again: systemctl --user restart {_SERVICE}"
    if active == "active":
        return f"The service runs, but listens elsewhere or not yet.\n{_LOG}"
    if active in ("activating", "reloading"):
        return f"The service is starting. Try again in a moment.\n{_LOG}"
    return f"Start it: systemctl --user start {_SERVICE}"


def _how_to_install() -> str:
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
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        output = subprocess.check_output(
            command, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return output.decode("utf-8", "replace").splitlines()
