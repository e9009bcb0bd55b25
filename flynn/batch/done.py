"""The requests that have a result: their IDs, each with a digest of the request. No I/O."""

from __future__ import annotations

import struct
from array import array
from typing import List

from ..errors import RequestError
from .results import id_json

_BUCKETS = 1 << 16
pack = struct.Struct("q").pack
_ASKED = b"is asked"  # in place of the digits of a digest


class IdTable:
    """Values of 8 bytes by the hash of an ID: a million of them in 25 MB, where a dict takes 200.

    Of an ID only the hash is kept, 64 bits: two of a million are the same once in 40 million tables. A bucket holds the
    hashes that end alike, each followed by its value, as one `bytes`, so that C looks through it. To find a hash across
    another hash and its value is rarer still.

    Example:
        >>> table = IdTable()
        >>> table.set(hash(b"a"), b"number 1")
        >>> table.get(hash(b"a")), table.get(hash(b"b"))
        (b'number 1', b'')
    """

    def __init__(self) -> None:
        self._buckets: List[bytes] = [b""] * _BUCKETS

    def get(self, key: int) -> bytes:
        """Return the value of a hash, b"" if it has none."""
        bucket, name = self._buckets[key % _BUCKETS], pack(key)
        start = bucket.find(name)
        return b"" if start < 0 else bucket[start + 8 : start + 16]

    def set(self, key: int, value: bytes) -> None:
        """Set the value of a hash."""
        place, name = key % _BUCKETS, pack(key)
        bucket = self._buckets[place]
        start = bucket.find(name)
        if start < 0:
            self._buckets[place] = bucket + name + value
        else:
            self._buckets[place] = bucket[: start + 8] + value + bucket[start + 16 :]


class Done:
    """The requests that have a result, and those of this run.

    Args:
        keep_order: whether to fill `order`.

    Attributes:
        order: the hashes of the IDs that were asked for, in this order.
        met: how many requests were asked for.
        left: how many of the results belong to no request that was asked for.
    """

    def __init__(self, *, keep_order: bool = False) -> None:
        self._table = IdTable()
        self._keeps_order = keep_order
        self.order = array("q")
        self.met = self.left = 0

    def add(self, name: bytes, digest: bytes) -> bool:
        """Add a result, by its ID as JSON and its 16 digits. Returns False if there is one of this ID already."""
        key = hash(name)
        if self._table.get(key):
            return False
        self.left += 1
        self._table.set(key, digest[-8:])
        return True

    def knows(self, custom_id: str) -> bool:
        """Return whether an ID has a result, or is in this run."""
        return bool(self._table.get(hash(id_json(custom_id))))

    def has(self, custom_id: str, digest: str) -> bool:
        """Return whether this very request has a result under its ID, and note the ID."""
        key = hash(id_json(custom_id))
        if self._table.get(key) != digest[-8:].encode():
            return False
        self.left -= 1
        self._note(key)
        return True

    def ask(self, custom_id: str) -> None:
        """Note a request of this run that has no result.

        Raises:
            RequestError: an earlier request has this ID.
            InputChanged: something else was asked under this ID, and has a result.
        """
        key = hash(id_json(custom_id))
        before = self._table.get(key)
        if before == _ASKED:
            raise RequestError(f"an earlier line has the custom_id {custom_id!r} too")
        if before:
            raise InputChanged(
                f"{custom_id!r} has a result already, but of something else: this line or the options have changed "
                "since; give another output, or remove the old one"
            )
        self._note(key)

    def _note(self, key: int) -> None:
        self._table.set(key, _ASKED)
        self.met += 1
        if self._keeps_order:
            self.order.append(key)


class InputChanged(RequestError):
    """The result under this ID is of another request."""
