"""`flynn status --watch`: what the slots of a server do, looked at again and again."""

from __future__ import annotations

import time

from ..dataclass import dataclass
from ..errors import AuthenticationError, ConfigError, FlynnError, ServerError, ServerNotRunningError
from ..models.local.decode import get

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence, TypeVar

    from ..models.local.llamacpp import LlamaCppClient
    from ..models.local.server import Slot
    from .screen import Screen

    T = TypeVar("T")

# Not less than a second by default: whoever looks wakes the server up, and what its client has gone away from it only
# notices after a second of sleep (recv_with_timeout in llama.cpp's server-queue.cpp).
INTERVAL = 2.0  # seconds
PATIENCE = 5.0  # seconds for each look


@dataclass(frozen=True)
class Work:
    """What a slot does.

    Attributes:
        slot: its number.
        task: the server's number of the request; None while there is none.
        read: tokens of the prompt that were read, not counting those from the cache.
        written: tokens of the answer.
        used: tokens that it holds.
        n_ctx: tokens that it can hold.
    """

    slot: int
    task: Optional[int]
    read: int
    written: int
    used: int
    n_ctx: int


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        time: when, in seconds of a monotonic clock.
        state: "up", "loading", "down", or what went wrong.
        model: its name, empty if the server does not tell.
        work: of the slots; None if the server does not tell.
        waiting: requests that wait for a slot; None if the server does not tell.
    """

    time: float
    state: str
    model: str = ""
    work: Optional[Sequence[Work]] = None
    waiting: Optional[int] = None


def watch(client: LlamaCppClient, screen: Screen, *, interval: float, timeout: Optional[float], json: bool) -> NoReturn:
    """Show what the server does until somebody stops it. A server that is not there is waited for.

    Args:
        interval: seconds between two looks.
        timeout: seconds for each request of a look.
        json: an object for each look.

    Raises:
        AuthenticationError: the server does not let itself be looked at.
        KeyboardInterrupt: Ctrl-C.
    """
    before = None
    while True:
        now = look(client, timeout)
        paces = pace(before, now)
        if json:
            screen.write_json(as_json(client.endpoint, now, paces))
        elif screen.redraws:
            screen.redraw([*summary(client.endpoint, now, paces), *(slot_line(work, paces) for work in now.work or ())])
        else:
            screen.write(f"{time.strftime('%H:%M:%S')} {', '.join(summary(client.endpoint, now, paces))}\n")
        before = now
        time.sleep(interval)


def look(client: LlamaCppClient, timeout: Optional[float]) -> Look:
    """What the server does now."""
    began = time.monotonic()
    try:
        if not client.health(timeout=timeout):
            return Look(began, "loading")
        props = _if_told(lambda: client.props(timeout=timeout))
        slots = _if_told(lambda: client.slots(timeout=timeout))
        seen = time.monotonic()
        waiting = _if_told(lambda: int(client.metrics(timeout=timeout)["llamacpp:requests_deferred"]))
        model = props.model_alias.rpartition("/")[2] if props else ""  # it may be the path of the file
        return Look(seen, "up", model, None if slots is None else [work_of(slot) for slot in slots], waiting)
    except ServerNotRunningError:
        return Look(began, "down")
    except (AuthenticationError, ConfigError):
        raise
    except FlynnError as error:
        return Look(began, str(error))


def _if_told(ask: Callable[[], T]) -> Optional[T]:
    """What the server answers; None if it was started without that, or has a proxy in front that keeps it back."""
    try:
        return ask()
    except KeyError:
        return None
    except ServerError as error:
        if error.status in (404, 501):
            return None
        raise


def work_of(slot: Slot) -> Work:
    """What a slot says of itself (`slot.to_json` in llama.cpp's server-context.cpp)."""
    raw = slot.raw
    tokens: Any = raw.get("next_token")
    tokens = tokens[0] if isinstance(tokens, list) and tokens else tokens
    written = get(tokens, "n_decoded", 0) if isinstance(tokens, dict) else 0
    task = get(raw, "id_task", -1) if slot.is_processing else None
    read, used = get(raw, "n_prompt_tokens_processed", 0), get(raw, "n_prompt_tokens", 0)
    return Work(slot.id, task, read, written, used, slot.n_ctx)


def pace(before: Optional[Look], now: Look) -> Dict[int, float]:
    """Tokens a second that each busy slot has read or written since the last look."""
    if before is None or before.work is None or now.work is None or now.time <= before.time:
        return {}
    past = {work.slot: work for work in before.work}
    paces = {}
    for work in now.work:
        if work.task is not None:
            was = past.get(work.slot)
            read, written = (was.read, was.written) if was and was.task == work.task else (0, 0)
            done = work.written - written if work.written else work.read - read
            paces[work.slot] = done / (now.time - before.time)
    return paces


def written_pace(now: Look, paces: Dict[int, float]) -> float:
    """Tokens a second that the server writes."""
    return sum(paces.get(work.slot, 0.0) for work in now.work or () if work.written)


def summary(endpoint: str, now: Look, paces: Dict[int, float]) -> List[str]:
    """A look in a line about the server and, if it tells, one about what it does."""
    state = f" is {now.state}" if now.state in ("up", "loading", "down") else f": {now.state}"
    lines = [endpoint + state + (f" with {now.model}" if now.model else "")]
    if now.work is not None:
        busy = sum(work.task is not None for work in now.work)
        waiting = f", {now.waiting} waiting" if now.waiting else ""
        lines.append(f"{busy} of {len(now.work)} slots busy{waiting}, {written_pace(now, paces):.1f} tokens/s")
    return lines


def slot_line(work: Work, paces: Dict[int, float]) -> str:
    """A slot in a line."""
    if work.task is None:
        return f"slot {work.slot:<3} free"
    does, tokens = ("writes", work.written) if work.written else ("reads ", work.read)
    at = f"{paces.get(work.slot, 0.0):.1f} tokens/s"
    return f"slot {work.slot:<3} {does} {tokens:>6} tokens  {at:>16}  context {work.used} of {work.n_ctx}"


def as_json(endpoint: str, now: Look, paces: Dict[int, float]) -> Dict[str, Any]:
    """A look for a program."""
    slots = None
    if now.work is not None:
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
            for work in now.work
        ]
    told = {"model": now.model or None, "slots": slots, "waiting": now.waiting}
    tokens = None if slots is None else written_pace(now, paces)
    return {"endpoint": endpoint, "state": now.state, **told, "tokens_per_second": tokens}
