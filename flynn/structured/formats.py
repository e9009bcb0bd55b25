"""Python types that are strings in JSON: the format of each, and the function that reads it."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Tuple

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII)


def _iso(kind: Any, text: str) -> object:
    # Python reads the offset Z only from 3.11 on.
    return kind.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)


def _duration(kind: Any, text: str) -> object:
    """Read an ISO 8601 duration in days, hours, minutes and seconds."""
    match = _DURATION.fullmatch(text)
    if not match or not any(match.groups()):
        raise ValueError
    days, hours, minutes, seconds = (float(number or 0) for number in match.groups())
    return kind(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _decimal(kind: Any, text: str) -> object:
    number = kind(text)
    if not number.is_finite():
        raise ValueError
    return number


# By the name of the class, so that none of these modules is imported for it.
FORMATS: Dict[str, Tuple[str, Callable[[Any, str], object]]] = {
    "datetime.date": ("date", _iso),
    "datetime.time": ("time", _iso),
    "datetime.datetime": ("date-time", _iso),
    "datetime.timedelta": ("duration", _duration),
    "decimal.Decimal": ("decimal", _decimal),
    "pathlib.Path": ("path", lambda kind, text: kind(text)),
    "uuid.UUID": ("uuid", lambda kind, text: kind(text)),
}
