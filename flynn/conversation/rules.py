"""What becomes of the oldest turns when a conversation does not fit the context any more."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

    from . import Conversation
    from .fitting import AnyMessage

    # Gets a conversation that holds the turns which do not fit; returns the messages that take their place.
    Rule = Callable[[Conversation], Sequence[AnyMessage]]

_SUMMARISE = (
    "Summarise our conversation so far in at most {words} words, for yourself: you will not see it again. "
    "Keep names, numbers, facts, decisions and open questions."
)


def drop(oldest: Conversation) -> Sequence[AnyMessage]:
    """Forget them."""
    return ()


def summarise(oldest: Conversation) -> Sequence[AnyMessage]:
    """Have the model sum them up, in up to an eighth of the context.

    The summary is a turn like any other: it answers a question that ends the old turns, so that the server's prompt
    cache knows all that comes before it, and one day it is summed up with the turns that followed it.
    """
    limit = max(1, (oldest.n_ctx or 0) // 8)
    reply = oldest.chat(_SUMMARISE.format(words=limit // 2), max_tokens=limit)
    return oldest.messages[-2:] if reply.content else ()
