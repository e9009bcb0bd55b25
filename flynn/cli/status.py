"""`flynn status`: whether the server is up, and what it runs; with --watch, what each slot does, repeatedly."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence, TypeVar

from ..errors import AuthenticationError, ConfigError, FlynnError, ServerError, ServerNotRunningError
from ..http.endpoint import parse_endpoint
from ..models.local.decode import get
from ..models.local.llamacpp import LlamaCppClient
from ..models.local.server import Props, Slot
from .exits import DONE, NOT_RUNNING, TRY_AGAIN, UsageError
from .options import Given, Parser, connect
from .terminal import Terminal

T = TypeVar("T")

EXAMPLES = """\
  flynn status
  flynn status --json | jq .slots.free
  until flynn status > /dev/null; do sleep 1; done
  flynn status --watch                 # what each slot does, until Ctrl-C"""

# At least a second by default: each look wakes the server, which notices a disconnected client only after a second
# without work (recv_with_timeout in llama.cpp's server-queue.cpp).
_INTERVAL = 2.0  # seconds
_USUAL_PORT, _NEW_PORT = 8080, 9931  # llama-server's own until build b11549, and since
_PATIENCE = 5.0  # seconds for each request


def add_options(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one object; unknown values are null")
    parser.add_argument("--watch", action="store_true", help="repeat it; on a terminal in the same place")
    parser.add_argument("--interval", metavar="SECONDS", type=_interval, help="time between two requests (default: 2)")


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 86400, not {text!r}")
    return seconds


def run(given: Given, terminal: Terminal) -> int:
    if given.interval is not None and not given.watch:
        raise UsageError("--interval goes with --watch")
    with connect(given) as client:
        if given.watch:
            _watch(client, terminal, given)
        status = _status(client)
        endpoint, state = client.endpoint, status["state"]
    if given.json:
        terminal.write_json(status)
    else:
        terminal.write(_described(status))
    if state != "down":
        return TRY_AGAIN if state == "loading" else DONE
    elsewhere = _at_new_port(endpoint)
    if elsewhere is not None:
        terminal.say(
            f"A llama-server answers at {elsewhere}, where it listens by default since build b11549.\n"
            f"Ask it there: --endpoint {elsewhere}, or FLYNN_ENDPOINT={elsewhere}"
        )
    elif parse_endpoint(endpoint).is_local:
        from .service import advice

        terminal.say(advice())
    else:
        terminal.say("Start llama-server there, or give another --endpoint.")
    return NOT_RUNNING


def _at_new_port(endpoint: str) -> Optional[str]:
    """Return the endpoint at the same host's other usual port, None if no server answers there."""
    from ..models.local.llamacpp import LlamaCppClient

    where = parse_endpoint(endpoint)
    if not where.is_local or where.socket_path is not None or where.port != _USUAL_PORT:
        return None
    host = f"[{where.host}]" if ":" in where.host else where.host
    try:
        with LlamaCppClient(f"http://{host}:{_NEW_PORT}", timeout=_PATIENCE) as client:
            client.health()
            return client.endpoint
    except FlynnError:
        return None


def _is_asleep(props: Optional[Props]) -> bool:
    """Return whether the server has unloaded its model until the next request; asking for slots would be one."""
    return props is not None and props.raw.get("is_sleeping") is True


def _status(client: LlamaCppClient) -> Dict[str, Any]:
    """Return what `--json` prints. What the server does not tell is None."""
    try:
        state = "up" if client.health() else "loading"
    except ServerNotRunningError:
        state = "down"
    status: Dict[str, Any] = {"endpoint": client.endpoint, "state": state}
    if state == "up":
        props = client.props()
        slots = None if _is_asleep(props) else _if_told(client.slots)
        total, busy = props.total_slots, None if slots is None else sum(slot.is_processing for slot in slots)
        status.update(
            state="sleeping" if _is_asleep(props) else "up",
            model=props.model_alias or props.model_path or None,
            model_path=props.model_path or None,
            n_ctx=props.n_ctx,
            slots={"total": total, "free": None if busy is None else total - busy, "busy": busy},
            build=props.build_info or None,
        )
    return status


def _if_told(ask: Callable[[], T]) -> Optional[T]:
    """Return the answer; None if the server was started without this route, or a proxy does not pass it."""
    try:
        return ask()
    except KeyError:
        return None
    except ServerError as error:
        if error.status in (404, 501):
            return None
        raise


def _described(status: Dict[str, Any]) -> str:
    lines = [f"{status['endpoint']} is {status['state']}"]
    if "slots" in status:
        slots = status["slots"]
        use = "" if slots["busy"] is None else f": {slots['free']} free, {slots['busy']} busy"
        lines += [
            f"model    {status['model'] or 'unknown'}",
            f"context  {status['n_ctx'] or 'unknown'} tokens a slot",
            f"slots    {slots['total']}{use}",
            f"build    {status['build'] or 'unknown'}",
        ]
    return "".join(f"{line}\n" for line in lines)


# --- --watch ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlotWork:
    """What a slot is doing.

    Attributes:
        task: the server's number of the request; None while it is free.
        read: tokens of the prompt that were read, not counting those from the cache.
        written: tokens of the answer.
        used, n_ctx: tokens in its context, and the most that fit.
    """

    slot: int
    task: Optional[int]
    read: int
    written: int
    used: int
    n_ctx: int


@dataclass(frozen=True)
class Look:
    """The state of the server at one time. What the server does not tell is empty or None.

    Attributes:
        time: seconds of a monotonic clock.
        state: "up", "loading", "down", or what went wrong.
        waiting: requests that wait for a slot.
    """

    time: float
    state: str
    model: str = ""
    work: Optional[Sequence[SlotWork]] = None
    waiting: Optional[int] = None


def _watch(client: LlamaCppClient, terminal: Terminal, given: Given) -> NoReturn:
    """Show what the server does until Ctrl-C. A server that does not answer is tried again."""
    timeout = _PATIENCE if given.timeout is ... else given.timeout
    before = None
    while True:
        now = _look(client, timeout)
        paces = pace(before, now)
        if given.json:
            terminal.write_json(_as_json(client.endpoint, now, paces))
        elif terminal.redraws:
            slots = (slot_line(work, paces) for work in now.work or ())
            terminal.redraw([*summary(client.endpoint, now, paces), *slots])
        else:
            terminal.write(f"{time.strftime('%H:%M:%S')} {', '.join(summary(client.endpoint, now, paces))}\n")
        before = now
        time.sleep(given.interval or _INTERVAL)


def _look(client: LlamaCppClient, timeout: Optional[float]) -> Look:
    """Return what the server does now; `timeout` is for each request. Raises errors that would not go away."""
    began = time.monotonic()
    try:
        if not client.health(timeout=timeout):
            return Look(began, "loading")
        props = _if_told(lambda: client.props(timeout=timeout))
        if _is_asleep(props):
            return Look(time.monotonic(), "sleeping", _short_name(props))
        slots = _if_told(lambda: client.slots(timeout=timeout))
        seen = time.monotonic()
        waiting = _if_told(lambda: int(client.metrics(timeout=timeout)["llamacpp:requests_deferred"]))
        work = None if slots is None else [work_of(slot) for slot in slots]
        return Look(seen, "up", _short_name(props), work, waiting)
    except ServerNotRunningError:
        return Look(began, "down")
    except (AuthenticationError, ConfigError):
        raise
    except FlynnError as error:
        return Look(began, str(error))


def _short_name(props: Optional[Props]) -> str:
    """Return the model's name without folders: it may be the path of the file."""
    return props.model_alias.rpartition("/")[2] if props else ""


def work_of(slot: Slot) -> SlotWork:
    """Return what a slot is doing, from its JSON (`slot.to_json` in llama.cpp's server-context.cpp)."""
    raw = slot.raw
    tokens: Any = raw.get("next_token")
    tokens = tokens[0] if isinstance(tokens, list) and tokens else tokens
    written = get(tokens, "n_decoded", 0) if isinstance(tokens, dict) else 0
    task = get(raw, "id_task", -1) if slot.is_processing else None
    read, used = get(raw, "n_prompt_tokens_processed", 0), get(raw, "n_prompt_tokens", 0)
    return SlotWork(slot.id, task, read, written, used, slot.n_ctx)


def pace(before: Optional[Look], now: Look) -> Dict[int, float]:
    """Return the tokens a second that each busy slot has read or written since `before`, by slot."""
    if before is None or before.work is None or now.work is None or now.time <= before.time:
        return {}
    past = {(work.slot, work.task): work for work in before.work}
    paces = {}
    for work in now.work:
        if work.task is not None:
            was = past.get((work.slot, work.task))
            read, written = (was.read, was.written) if was else (0, 0)
            done = work.written - written if work.written else work.read - read
            paces[work.slot] = done / (now.time - before.time)
    return paces


def _written_pace(now: Look, paces: Dict[int, float]) -> float:
    """Return the tokens a second that the server generates."""
    return sum(paces.get(work.slot, 0.0) for work in now.work or () if work.written)


def summary(endpoint: str, now: Look, paces: Dict[int, float]) -> List[str]:
    """Return a line about the server and, if it tells, one about its slots."""
    state = f" is {now.state}" if now.state in ("up", "sleeping", "loading", "down") else f": {now.state}"
    lines = [endpoint + state + (f" with {now.model}" if now.model else "")]
    if now.work is not None:
        busy = sum(work.task is not None for work in now.work)
        waiting = f", {now.waiting} waiting" if now.waiting else ""
        lines.append(f"{busy} of {len(now.work)} slots busy{waiting}, {_written_pace(now, paces):.1f} tokens/s")
    return lines


def slot_line(work: SlotWork, paces: Dict[int, float]) -> str:
    """Return a line about a slot."""
    if work.task is None:
        return f"slot {work.slot:<3} free"
    does, tokens = ("writes", work.written) if work.written else ("reads ", work.read)
    at = f"{paces.get(work.slot, 0.0):.1f} tokens/s"
    return f"slot {work.slot:<3} {does} {tokens:>6} tokens  {at:>16}  context {work.used} of {work.n_ctx}"


def _as_json(endpoint: str, now: Look, paces: Dict[int, float]) -> Dict[str, Any]:
    """Return the state for a program."""
    slots = [
        {
            "id": work.slot,
            "busy": work.task is not None,
            "read": work.read,
            "written": work.written,
            "tokens_per_second": paces.get(work.slot),
            "used": work.used,
            "n_ctx": work.n_ctx,
        }
        for work in now.work or ()
    ]
    return {
        "endpoint": endpoint,
        "state": now.state,
        "model": now.model or None,
        "slots": None if now.work is None else slots,
        "waiting": now.waiting,
        "tokens_per_second": None if now.work is None else _written_pace(now, paces),
    }
