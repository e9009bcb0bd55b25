"""What a server does at one moment, and how fast its slots have worked since the moment before."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, List, Optional, TypeVar

from ..errors import ServerError, ServerNotRunningError
from ..models.local.decode import get
from ..models.local.llamacpp import LlamaCppClient
from ..models.local.server import Props, Slot, decode_props

T = TypeVar("T")


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
        props: empty where the server does not tell them.
        slots, waiting: its slots, and the requests that wait for one; None where the server does not tell.
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
        props = if_told(client.props) or decode_props({})
        if props.raw.get("is_sleeping") is True:
            return Look("sleeping", props)  # to ask for its slots would wake it up
        slots = if_told(client.slots)
        return Look("up", props, None if slots is None else [work_of(slot) for slot in slots], time=time.monotonic())
    except ServerNotRunningError:
        return Look("down")


def if_told(ask: Callable[[], T]) -> Optional[T]:
    """Return the answer; None if the server was started without this route, or a proxy does not pass it."""
    try:
        return ask()
    except KeyError:
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
