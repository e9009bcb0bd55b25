"""Which failures are temporary, and how long to wait before the next attempt. No I/O."""

from __future__ import annotations

import random
from typing import Optional

from .errors import ConnectionLostError, FlynnError, ModelLoadingError, ServerError, ServerNotRunningError

FIRST_PAUSE = 0.5  # seconds, at most; doubled with each attempt
LONGEST_PAUSE = 30.0  # seconds
_TEMPORARY = (429, 502, 503, 504)  # HTTP statuses: too many requests, and a proxy that does not reach the server


def is_temporary(error: FlynnError) -> bool:
    """Return whether the same request may succeed later: no part of its answer was received, and it was not refused."""
    if isinstance(error, ConnectionLostError):
        return not error.answered
    if isinstance(error, ServerError):
        return isinstance(error, ModelLoadingError) or error.status in _TEMPORARY
    return isinstance(error, ServerNotRunningError)


def pause(attempt: int, retry_after: Optional[float] = None) -> float:
    """Return the seconds to wait before the next attempt.

    Args:
        attempt: number of earlier attempts that failed, from 0.
        retry_after: seconds that the server asked for; honoured up to the longest pause.

    Full jitter: a random time up to a limit that doubles, so that many clients do not come back at the same moment
    (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """
    if retry_after is not None:
        return min(retry_after, LONGEST_PAUSE)
    return random.uniform(0.0, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 10)))
