"""Eight bytes for each of a million IDs in 25 MB, where a dict takes 200."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

_BUCKETS = 1 << 16
_packed = struct.Struct("q").pack


class IdTable:
    """Values of 8 bytes by the hash of an ID, which is all that is kept of it: 64 bits. Of a million IDs two have the
    same once in 40 million tables.

    A bucket is the hashes that end alike, each followed by its value, as one `bytes`: what looks through it is C. That
    a hash is found where another one's value lies, across the two, is rarer still than that two are the same.

    Example:
        >>> table = IdTable()
        >>> table.swap(hash(b"a"), b"number 1"), table.swap(hash(b"a"), b"number 2")
        (b'', b'number 1')
    """

    def __init__(self) -> None:
        self._buckets: List[bytes] = [b""] * _BUCKETS

    def swap(self, key: int, value: bytes) -> bytes:
        """Set the value of a hash; what it was before, empty if there was none."""
        place, name = key % _BUCKETS, _packed(key)
        bucket = self._buckets[place]
        start = bucket.find(name) + len(name)
        if start < len(name):
            self._buckets[place] = bucket + name + value
            return b""
        end = start + len(value)
        self._buckets[place] = bucket[:start] + value + bucket[end:]
        return bucket[start:end]

    def replace(self, key: int, before: bytes, after: bytes) -> bool:
        """Set the value of a hash if it is `before`; whether it was."""
        place, name = key % _BUCKETS, _packed(key)
        bucket = self._buckets[place]
        self._buckets[place] = replaced = bucket.replace(name + before, name + after)
        return replaced != bucket
