"""The steps of a call, as events for a `trace` callback and as lines for the standard logger `flynn`.

Without a listener no event is created, and `logging` is not imported. `FLYNN_LOG=debug` in the environment shows the
lines on standard error, even in a program without logging set up. `FLYNN_LOG=prompts` also shows the bodies of
requests, which no line and no event has otherwise.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional

Tracer = Callable[["TraceEvent"], object]
# Reports an event of one call by its name and data.
Report = Callable[..., None]

_numbers = itertools.count(1)
_LEVELS = {"request": "DEBUG", "response": "DEBUG", "answer": "DEBUG"}  # all others are INFO
_LINES = {
    "request": "{method} {path}, {bytes} bytes{body}",
    "response": "HTTP {status}",
    "loading": "the model is loading",
    "retry": "trying again in {pause:.2f} s, {left} times more: {error}",
    "cut": "the connection was lost after {position} bytes: {error}",
    "resume": "the stream goes on from byte {position}",
    "answer": "{bytes} bytes of answer",
    "error": "{error}",
    "closed": "closed before the end of the answer",
    "cache": "{message}",
}


@dataclass
class TraceEvent:
    """A step of a call.

    Attributes:
        name: `"request"` (data: `method`, `path`, `bytes`, `body`), `"response"` (`status`), `"loading"`, `"retry"`
            (`error`; `pause` in seconds; `left`: attempts), `"cut"` (`position` in bytes, `error`; `resume_for`:
            seconds to try to resume, 0 if that is impossible), `"resume"` (`position`), `"answer"` (`bytes`;
            `response`: the decoded answer, such as a ChatResponse), `"error"` (`error`), `"closed"`, `"cache"`
            (`message`: why a prompt was read again). One of `"answer"`, `"error"` and `"closed"` is the last event of
            every request for an answer.
        call: a number, the same for all events of one call.
        seconds: time since the call began.
        data: the data listed above. It never holds a token; the `body` of a request is empty unless
            `FLYNN_LOG=prompts`.
    """

    name: str
    call: int
    seconds: float
    data: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"#{self.call} {self.seconds:.3f} s: {_LINES[self.name].format_map(self.data)}"


def nothing(name: str, **data: Any) -> None:
    """A `Report` that goes nowhere."""


def reporter(trace: Optional[Tracer]) -> Report:
    """Return the function that reports the events of a new call; `nothing` if there is no listener.

    Args:
        trace: a client's callback, called in the thread of the call. An exception in it ends the call.
    """
    log = _log()
    if trace is None and log is None:
        return nothing
    number, began = next(_numbers), time.monotonic()

    def report(name: str, **data: Any) -> None:
        if name == "request":
            data["body"] = f": {data['body'].decode()}" if data["body"] and _shows_prompts() else ""
        event = TraceEvent(name, number, time.monotonic() - began, data)
        if log is not None:
            log(event)
        if trace is not None:
            trace(event)

    return report


def _shows_prompts() -> bool:
    return "prompts" in os.environ.get("FLYNN_LOG", "").lower()


def _log() -> Optional[Callable[[TraceEvent], None]]:
    """Return the function that logs an event; None if the logger `flynn` is off, or `logging` is not imported."""
    wanted = os.environ.get("FLYNN_LOG")
    if not wanted and "logging" not in sys.modules:
        return None
    import logging

    logger = logging.getLogger("flynn")
    if wanted and not logger.handlers and not logging.root.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.DEBUG if wanted.lower() != "info" else logging.INFO)
    if not logger.isEnabledFor(logging.INFO):
        return None

    def log(event: TraceEvent) -> None:
        logger.log(getattr(logging, _LEVELS.get(event.name, "INFO")), "%s", event, extra={"flynn": event})

    return log
