"""`flynn status`: whether the server is up, and what it runs."""

from __future__ import annotations

import argparse

from ..errors import ConfigError, NotSupportedError, ServerNotRunningError
from .exits import DONE, NOT_RUNNING, TRY_AGAIN
from .options import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    from ..models.local.llamacpp import LlamaCppClient
    from .options import Given, Parser
    from .screen import Screen

EXAMPLES = """\
  flynn status
  flynn status --json | jq .slots.free
  until flynn status > /dev/null; do sleep 1; done
  flynn status --watch                 # what each slot does, until Ctrl-C"""

_CODES = {"up": DONE, "loading": TRY_AGAIN, "down": NOT_RUNNING}


def add_options(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one object; what is unknown in it is null")
    parser.add_argument("--watch", action="store_true", help="look again and again; on a terminal in the same place")
    parser.add_argument("--interval", metavar="SECONDS", type=_interval, help="between two looks (default: 2)")


def run(given: Given, screen: Screen) -> int:
    if given.interval is not None and not given.watch:
        raise ConfigError("--interval goes with --watch")
    with connect(given) as client:
        if given.watch:
            from .watch import INTERVAL, PATIENCE, watch

            timeout = PATIENCE if given.timeout is ... else given.timeout
            watch(client, screen, interval=given.interval or INTERVAL, timeout=timeout, json=given.json)
        status = _status(client)
        endpoint, state = client.endpoint, status["state"]
    if given.json:
        screen.write_json(status)
    else:
        screen.write(_described(status))
    if state == "down":
        screen.say(_what_to_do(endpoint))
    return _CODES[state]


def _status(client: LlamaCppClient) -> Dict[str, Any]:
    """What `--json` prints. What the server does not tell is null."""
    status: Dict[str, Any] = {"endpoint": client.endpoint}
    try:
        status["state"] = "up" if client.health() else "loading"
    except ServerNotRunningError:
        status["state"] = "down"
    if status["state"] != "up":
        return status
    props = client.props()
    try:
        busy = sum(slot.is_processing for slot in client.slots())
    except NotSupportedError:
        busy = None
    total = props.total_slots
    return {
        **status,
        "model": props.model_alias or props.model_path or None,
        "model_path": props.model_path or None,
        "n_ctx": props.n_ctx,
        "slots": {"total": total, "free": None if busy is None else total - busy, "busy": busy},
        "build": props.build_info or None,
    }


def _described(status: Dict[str, Any]) -> str:
    lines = [f"{status['endpoint']} is {status['state']}"]
    if status["state"] == "up":
        slots = status["slots"]
        use = "" if slots["busy"] is None else f": {slots['free']} free, {slots['busy']} busy"
        lines += [
            f"model    {status['model'] or 'unknown'}",
            f"context  {status['n_ctx'] or 'unknown'} tokens a slot",
            f"slots    {slots['total']}{use}",
            f"build    {status['build'] or 'unknown'}",
        ]
    return "".join(f"{line}\n" for line in lines)


def _what_to_do(endpoint: str) -> str:
    from ..http.endpoint import parse_endpoint

    if not parse_endpoint(endpoint).is_loopback:
        return "Start llama-server there, or give another --endpoint."
    return "Start it: systemctl --user start llama-server\nNo such service yet: make install-service"


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 86400, not {text!r}")
    return seconds
