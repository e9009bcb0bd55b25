"""The nearest right name to a wrong one, for messages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """The end of a message that tells which name was probably meant; empty when none of `allowed` is near.

    Example:
        >>> "unknown key 'endpont'" + suggestion("endpont", ["endpoint", "model"])
        "unknown key 'endpont'; did you mean 'endpoint'?"
    """
    import difflib

    near = difflib.get_close_matches(name[:100], allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
