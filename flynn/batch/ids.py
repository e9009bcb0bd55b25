"""A number for each of a million IDs in 25 MB, where a dict takes 200."""

from __future__ import annotations

from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

_SHARDS = 64  # each grows by itself, so that never all of the table exists twice
_FIRST_SIZE = 16
_FULL = 3 / 4


class IdTable:
    """Numbers by the hash of an ID, which is all that is kept of it: 64 bits. Of a million IDs two have the same once
    in 40 million tables. Open addressing: a hash is looked for from its own place on, up to the first empty one.

    Args:
        kind: of the numbers: `"I"` for 32 bits, `"Q"` for 64.

    Example:
        >>> table = IdTable("I")
        >>> table.swap(hash(b"a"), 5), table.swap(hash(b"a"), 6)
        (-1, 5)
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._keys: List[array[int]] = [array("q", bytes(8 * _FIRST_SIZE)) for _ in range(_SHARDS)]
        self._values: List[array[int]] = [array(kind, [0]) * _FIRST_SIZE for _ in range(_SHARDS)]
        self._used = [0] * _SHARDS

    def __len__(self) -> int:
        return sum(self._used)

    def swap(self, key: int, value: int) -> int:
        """Set the number of a hash; what it was before, -1 if there was none."""
        shard = key % _SHARDS
        key = key or 1  # 0 is an empty place
        keys, values = self._keys[shard], self._values[shard]
        mask = len(keys) - 1
        place = key >> 6 & mask
        while (found := keys[place]) != key:
            if not found:
                keys[place], values[place] = key, value
                self._used[shard] += 1
                if self._used[shard] > len(keys) * _FULL:
                    self._grow(shard)
                return -1
            place = place + 1 & mask
        before, values[place] = values[place], value
        return before

    def _grow(self, shard: int) -> None:
        old = zip(self._keys[shard], self._values[shard])
        size = 2 * len(self._keys[shard])
        keys = self._keys[shard] = array("q", bytes(8 * size))
        values = self._values[shard] = array(self._kind, [0]) * size
        for key, value in old:
            if key:
                place = key >> 6 & size - 1
                while keys[place]:
                    place = place + 1 & size - 1
                keys[place], values[place] = key, value
