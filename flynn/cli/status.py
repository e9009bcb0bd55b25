"""`flynn status`: whether the server is up, and what it runs; with --watch, what each slot does, repeatedly."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NoReturn, Optional, TypeVar

from ..errors import AuthenticationError, ConfigError, FlynnError, ServerError, ServerNotRunningError
from ..models.local.decode import get
from ..models.local.llamacpp import LlamaCppClient
from ..models.local.server import Props, Slot, decode_props
from .advice import advice
from .exits import DONE, NOT_RUNNING, TRY_AGAIN, UsageError
from .options import Given, Parser, connect, number
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
_PATIENCE = 5.0  # seconds for each request of --watch
_STATES = {"up": DONE, "sleeping": DONE, "loading": TRY_AGAIN, "down": NOT_RUNNING}


def add_options(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one object; unknown values are null")
    parser.add_argument("--watch", action="store_true", help="repeat it; on a terminal in the same place")
    seconds = number("seconds from 0.1 to 86400", 0.1, 86400)
    parser.add_argument("--interval", metavar="SECONDS", type=seconds, help="time between two requests (default: 2)")


def run(given: Given, terminal: Terminal) -> int:
    if given.interval is not None and not given.watch:
        raise UsageError("--interval goes with --watch")
    if given.watch and given.timeout is ...:
        given.timeout = _PATIENCE
    with connect(given) as client:
        if given.watch:
            _watch(client, terminal, given)
        status = _status(client.endpoint, look(client))
    if given.json:
        terminal.write_json(status)
    else:
        terminal.write("".join(f"{line}\n" for line in _described(status)))
    if status["state"] == "down":
        terminal.say(advice(client.endpoint))
    return _STATES[status["state"]]


def _status(endpoint: str, now: Look) -> Dict[str, Any]:
    """Return what `--json` prints. What the server does not report is None."""
    status: Dict[str, Any] = {"endpoint": endpoint, "state": now.state}
    if now.state in ("up", "sleeping"):
        props = now.props
        slots = {"total": props.total_slots, "free": None, "busy": None}
        if now.slots is not None:
            busy = sum(slot.busy for slot in now.slots)
            slots = {"total": len(now.slots), "free": len(now.slots) - busy, "busy": busy}
        model, path = props.model_alias or props.model_path or None, props.model_path or None
        status.update(model=model, model_path=path, n_ctx=props.n_ctx, slots=slots, build=props.build_info or None)
    return status


def _described(status: Dict[str, Any]) -> List[str]:
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
    return lines


# --- the state of the server ------------------------------------------------------------------------------------------


@dataclass
class SlotWork:
    """What a slot does, as `flynn status --watch --json` prints it.

    Attributes:
        task: the server's number of the request; None while the slot is free.
        read: tokens of the prompt that were read, not counting those from the cache.
        written: tokens of the answer.
        used, n_ctx: tokens in its context, and the most that fit.
        tokens_per_second: tokens read or written since the last look; None if that is unknown.
    """

    id: int
    busy: bool
    task: Optional[int]
    read: int
    written: int
    used: int
    n_ctx: int
    tokens_per_second: Optional[float] = None


@dataclass
class Look:
    """The state of the server at one moment.

    Attributes:
        state: "up", "sleeping", "loading", "down", or what went wrong.
        props: empty if the server does not report them.
        slots, waiting: its slots, and the requests that wait for one; None if not reported.
        time: seconds of a monotonic clock.
    """

    state: str
    props: Props = field(default_factory=lambda: decode_props({}))
    slots: Optional[List[SlotWork]] = None
    waiting: Optional[int] = None
    time: float = 0.0


def look(client: LlamaCppClient) -> Look:
    """Return the state of the server, without the requests that wait. Raises FlynnError as the client does."""
    try:
        if not client.health():
            return Look("loading")
        props = if_available(client.props) or decode_props({})
        if props.raw.get("is_sleeping") is True:
            return Look("sleeping", props)  # to ask for its slots would wake it up
        slots = if_available(client.slots)
        return Look("up", props, None if slots is None else [work_of(slot) for slot in slots], time=time.monotonic())
    except ServerNotRunningError:
        return Look("down")


def if_available(ask: Callable[[], T]) -> Optional[T]:
    """Return the answer; None if the server was started without this route, or a proxy does not pass it."""
    try:
        return ask()
    except (KeyError, ValueError, OverflowError):  # a metric that is missing, or is not a finite number
        return None
    except ServerError as error:
        if error.status in (404, 501):
            return None
        raise


def work_of(slot: Slot) -> SlotWork:
    """Return what a slot does, from its JSON (`slot.to_json` in llama.cpp's server-context.cpp)."""
    raw, busy = slot.raw, slot.is_processing
    tokens: Any = raw.get("next_token")
    tokens = tokens[0] if isinstance(tokens, list) and tokens else tokens
    written = get(tokens, "n_decoded", 0) if isinstance(tokens, dict) else 0
    read, used = get(raw, "n_prompt_tokens_processed", 0), get(raw, "n_prompt_tokens", 0)
    return SlotWork(slot.id, busy, get(raw, "id_task", -1) if busy else None, read, written, used, slot.n_ctx)


# --- --watch ----------------------------------------------------------------------------------------------------------


def _watch(client: LlamaCppClient, terminal: Terminal, given: Given) -> NoReturn:
    """Show what the server does until Ctrl-C. A server that does not answer is tried again."""
    before = Look("down")
    while True:
        try:
            now = look(client)
            if now.state == "up":
                now.waiting = if_available(lambda: int(client.metrics()["llamacpp:requests_deferred"]))
        except (AuthenticationError, ConfigError):  # these would not go away
            raise
        except FlynnError as error:
            now = Look(str(error))
        measure(before, now)
        status = watched(client.endpoint, now)
        if given.json:
            terminal.write_json(status)
        elif terminal.redraws:
            terminal.redraw([*summary(status), *map(slot_line, now.slots or ())])
        else:
            terminal.write(f"{time.strftime('%H:%M:%S')} {', '.join(summary(status))}\n")
        before = now
        time.sleep(given.interval or _INTERVAL)


def watched(endpoint: str, now: Look) -> Dict[str, Any]:
    """Return what `--watch --json` prints. What the server does not report is None."""
    slots = pace = None
    if now.slots is not None:
        slots = [vars(work) for work in now.slots]
        pace = sum(work.tokens_per_second or 0.0 for work in now.slots if work.written)
    return {
        "endpoint": endpoint,
        "state": now.state,
        "model": now.props.model_alias.rpartition("/")[2] or None,  # it may be the path of the file
        "slots": slots,
        "waiting": now.waiting,
        "tokens_per_second": pace,
    }


def summary(status: Dict[str, Any]) -> List[str]:
    """Return a line about the server and, if it reports them, one about its slots."""
    slots, is_known = status["slots"], status["state"] in _STATES
    model = f" with {status['model']}" if status["model"] else ""
    lines = [f"{status['endpoint']}{' is' if is_known else ':'} {status['state']}{model}"]
    if slots is not None:
        busy = sum(work["busy"] for work in slots)
        waiting = f", {status['waiting']} waiting" if status["waiting"] else ""
        lines.append(f"{busy} of {len(slots)} slots busy{waiting}, {status['tokens_per_second']:.1f} tokens/s")
    return lines


def slot_line(work: SlotWork) -> str:
    """Return a line about a slot."""
    if not work.busy:
        return f"slot {work.id:<3} free"
    verb, tokens = ("writes", work.written) if work.written else ("reads ", work.read)
    pace = f"{work.tokens_per_second or 0.0:.1f} tokens/s"
    return f"slot {work.id:<3} {verb} {tokens:>6} tokens  {pace:>16}  context {work.used} of {work.n_ctx}"


def measure(before: Look, now: Look) -> None:
    """Set the tokens a second that each busy slot has read, or has written if it writes, since `before`."""
    seconds = now.time - before.time
    if before.slots is None or now.slots is None or seconds <= 0:
        return
    past = {(work.id, work.task): work for work in before.slots}
    for work in now.slots:
        if work.busy:
            last = past.get((work.id, work.task))
            read, written = (last.read, last.written) if last else (0, 0)
            work.tokens_per_second = (work.written - written if work.written else work.read - read) / seconds
