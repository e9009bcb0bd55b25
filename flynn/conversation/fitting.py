"""Which messages of a conversation may go, and how many of them have to. Decided from values alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterable, List, Sequence, Tuple

from ..models.messages import AnyMessage
from ..models.request import ChatRequest

_INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True)
class Turn:
    """A request that fits, with all messages."""

    request: ChatRequest
    history: List[AnyMessage]  # those that the conversation had already, or that stand for what is dropped
    prompt: List[AnyMessage]  # those that are new
    dropped: List[AnyMessage]  # what is not sent any more


def _role(message: AnyMessage) -> str:
    return str(message.get("role", "")) if hasattr(message, "get") else message.role


def droppable(messages: Sequence[AnyMessage]) -> List[List[int]]:
    """The messages that may go, as groups of their places, the oldest group first; those of a group go together.

    A group is a turn: what the user said and all that came of it. Of the newest turn, each of the assistant's messages
    is one, with the results of the tools that it calls. In no group are system messages, what the user said last, and
    what the answer is to follow upon.

    Example:
        >>> droppable([{"role": "system"}, {"role": "user"}, {"role": "assistant"}, {"role": "user"}])
        [[1, 2]]
    """
    roles = [_role(message) for message in messages]
    newest = max((place for place, who in enumerate(roles) if who == "user"), default=-1)
    groups: List[List[int]] = []
    for place, who in enumerate(roles):
        if who in _INSTRUCTIONS or place == newest:
            continue
        begins = who == "user" if place < newest else who != "tool"
        if begins or not groups or groups[-1][-1] < newest < place:
            groups.append([])
        groups[-1].append(place)
    if groups and groups[-1][-1] > newest:
        groups.pop()
    return groups


def without(messages: Sequence[AnyMessage], groups: Iterable[Sequence[int]]) -> List[AnyMessage]:
    """The messages that are left when these groups are gone."""
    gone = {place for group in groups for place in group}
    return [message for place, message in enumerate(messages) if place not in gone]


def how_many(sizes: Sequence[int], tokens: int, room: int, count: Callable[[int], int]) -> Tuple[int, int]:
    """How many of the oldest groups have to go for the rest to fit.

    Half of what they may take up is cleared, for each time that the beginning of a prompt changes, the server reads
    all of it anew. (llama.cpp itself discards half when a context is full.) Few requests are counted: the sizes tell
    about how many groups to take, and where they mislead, each count rules out at least half of the numbers left.

    Args:
        sizes: of the request in bytes, with none of the groups gone, with one gone, and so on to all of them.
        tokens: of the request with none of them gone.
        room: the most tokens that fit.
        count: the tokens of the request with so many groups gone.

    Returns:
        The number, and the tokens that are left: more than `room` if not even all are enough.
    """
    gone, last = 0, len(sizes) - 1
    while tokens > room and gone < last:
        per_token = sizes[gone] / tokens
        wanted = (sizes[last] + room * per_token) / 2
        likely = next((number for number in range(gone + 1, last) if sizes[number] <= wanted), last)
        gone = max(likely, (gone + 1 + last) // 2) if gone else likely
        tokens = count(gone)
    return gone, tokens
