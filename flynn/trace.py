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
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional

if TYPE_CHECKING:
    import logging

Tracer = Callable[["TraceEvent"], object]
# Reports an event of one call by its name and data.
Report = Callable[..., None]

_call_numbers = itertools.count(1)
_DETAILS = {"request", "response", "answer"}  # logged at level DEBUG; all others at INFO
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
    logger = _logger()
    if trace is None and logger is None:
        return nothing
    number, start = next(_call_numbers), time.monotonic()
    shows_prompts = "prompts" in os.environ.get("FLYNN_LOG", "").lower()

    def report(name: str, **data: Any) -> None:
        if name == "request":
            data["body"] = f": {data['body'].decode()}" if data["body"] and shows_prompts else ""
        event = TraceEvent(name, number, time.monotonic() - start, data)
        if logger is not None:
            log = logger.debug if name in _DETAILS else logger.info
            log("%s", event, extra={"flynn": event})
        if trace is not None:
            trace(event)

    return report


def _logger() -> Optional[logging.Logger]:
    """Return the logger `flynn`; None if it is off, or if the program has not imported `logging`."""
    level = os.environ.get("FLYNN_LOG")
    if not level and "logging" not in sys.modules:
        return None
    import logging

    logger = logging.getLogger("flynn")
    if level and not logger.handlers and not logging.root.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.DEBUG if level.lower() != "info" else logging.INFO)
    return logger if logger.isEnabledFor(logging.INFO) else None
