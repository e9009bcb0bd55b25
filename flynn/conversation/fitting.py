"""Which messages of a conversation can be dropped, and how many at a time. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, Sequence

from ..models.messages import AnyMessage
from ..models.request import ChatRequest

_INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True)
class Turn:
    """A request that fits, and its messages by origin."""

    request: ChatRequest
    history: List[AnyMessage]  # messages of the conversation, or in place of dropped ones
    prompt: List[AnyMessage]  # new messages
    dropped: List[AnyMessage]  # messages that are no longer sent


def droppable(messages: Sequence[AnyMessage]) -> List[List[int]]:
    """Return the messages that can be dropped, as groups of indices, the oldest first. A group is dropped as a whole.

    A group is a turn: a message of the user and all messages up to the next. In the newest turn, each message of the
    assistant is a group, together with the results of its tool calls. System messages, the user's last message, and the
    messages that the answer follows are in no group.

    Example:
        >>> droppable([{"role": "system"}, {"role": "user"}, {"role": "assistant"}, {"role": "user"}])
        [[1, 2]]
    """
    roles = [str(message.get("role", "")) if hasattr(message, "get") else message.role for message in messages]
    newest = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
    groups: List[List[int]] = []
    for index, role in enumerate(roles):
        if role in _INSTRUCTIONS or index == newest:
            continue
        begins = role == "user" if index < newest else role != "tool"
        if begins or not groups or groups[-1][-1] < newest < index:
            groups.append([])
        groups[-1].append(index)
    if groups and groups[-1][-1] > newest:
        groups.pop()
    return groups


def without(messages: Sequence[AnyMessage], groups: Iterable[Sequence[int]]) -> List[AnyMessage]:
    """Return the messages without these groups."""
    dropped = {index for group in groups for index in group}
    return [message for index, message in enumerate(messages) if index not in dropped]


def half_more(dropped: int, groups: int) -> int:
    """Return how many of the groups to drop where `dropped` are not enough: half of the others too.

    Many go at a time, because the server reads the whole prompt again each time its beginning changes. (llama.cpp
    itself discards half when a context is full.)
    """
    return (dropped + groups + 1) // 2
