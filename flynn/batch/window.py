"""The order in which requests are sent: what begins alike goes to the same worker, one after the other.

A slot of llama-server keeps the prompt that it read last, and a request is given to the slot that knows most of its
beginning (`get_available_slot` in tools/server/server-context.cpp). So each worker walks through its own part of the
sorted requests: a long text that many prompts begin with is then read by one slot, once.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence

    from .waiting import Task


class Window:
    """Some requests, sorted and divided among workers. Who comes, or is done, gets half of the longest part."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        ordered = sorted(tasks, key=lambda task: (task.request.path, task.request.body))
        self._tasks: List[Optional[Task]] = [*ordered]
        self._parts: Dict[int, List[int]] = {}
        self.left = len(self._tasks)

    def take(self, worker: int) -> Optional[Task]:
        """The next one for a worker; None if there are no more."""
        part = self._parts.get(worker)
        if part is None or part[0] == part[1]:
            part = self._parts[worker] = self._half()
        place, end = part
        if place == end:
            return None
        part[0] += 1
        self.left -= 1
        task, self._tasks[place] = self._tasks[place], None
        return task

    def _half(self) -> List[int]:
        if not self._parts:
            return [0, len(self._tasks)]
        longest = max(self._parts.values(), key=lambda part: part[1] - part[0])
        cut = self._cut(*longest)
        part = [cut, longest[1]]
        longest[1] = cut
        return part

    def _cut(self, start: int, end: int) -> int:
        """Where two neighbours have the least in common, in the middle half of a part."""
        quarter = (end - start) // 4
        if not quarter:
            return (start + end) // 2
        bodies = [task.request.body for task in self._tasks[start + quarter - 1 : end - quarter] if task]
        shared = [_common(one, other) for one, other in zip(bodies, bodies[1:])]
        middle = len(shared) // 2
        return start + quarter + min(range(len(shared)), key=lambda i: (shared[i], abs(i - middle)))


def _common(one: bytes, other: bytes) -> int:
    """Bytes that two begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
