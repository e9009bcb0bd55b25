"""Read the metadata at the start of a GGUF file: the architecture, but no tensors and no vocabulary.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Writers put the architecture's keys before the
tokenizer's arrays, so `read_metadata` needs only the first few KB of a file. `header_length` needs a few MB.
"""

from __future__ import annotations

import struct
from typing import Optional, Union

MAGIC = b"GGUF"
VOCABULARY = "tokenizer.ggml.tokens"

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_ARRAY_LENGTH = 4096  # longer arrays are vocabularies; the arrays needed here have one entry per layer
_MAX_DIMENSIONS = 8

Value = Union[int, float, str, "list[Union[int, float, str]]"]


class NotGGUF(ValueError):
    """The bytes are not the start of a GGUF file."""


class _OutOfBytesError(Exception):
    """The given bytes end before the header does."""


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise _OutOfBytesError
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def skip(self, kind: int, count: int) -> None:
        """Skip `count` values of a type."""
        if kind == _STRING:
            for _ in range(count):
                self.take(self.number("<Q"))
        elif kind in _SCALARS:
            self.take(count * struct.calcsize(_SCALARS[kind]))
        else:
            raise NotGGUF(f"GGUF value type {kind} is unknown")

    def scalar(self, kind: int) -> Union[int, float, str]:
        if kind == _STRING:
            return self.text()
        if kind not in _SCALARS:
            raise NotGGUF(f"GGUF value type {kind} is unknown")
        return self.number(_SCALARS[kind])


def read_metadata(head: bytes) -> dict[str, Value]:
    """Parse the metadata in the first bytes of a GGUF file, up to the vocabulary or the end of the bytes.

    The value of the vocabulary's key is its length.

    Raises:
        NotGGUF: the magic is missing, the version is not 2 or 3, or a value type is unknown.
    """
    cursor = _after_version(head)
    metadata: dict[str, Value] = {}
    try:
        cursor.number("<Q")  # the number of tensors
        for _ in range(cursor.number("<Q")):
            key, kind = cursor.text(), cursor.number("<I")
            if kind != _ARRAY:
                metadata[key] = cursor.scalar(kind)
                continue
            element, length = cursor.number("<I"), cursor.number("<Q")
            if key == VOCABULARY or length > _MAX_ARRAY_LENGTH:
                metadata[key] = length
                break
            metadata[key] = [cursor.scalar(element) for _ in range(length)]
    except _OutOfBytesError:
        pass
    return metadata


def header_length(head: bytes) -> Optional[int]:
    """Return the bytes before the tensors' data: metadata, vocabulary, and each tensor's name and shape.

    Returns None if `head` ends earlier.

    Raises:
        NotGGUF: as `read_metadata`.
    """
    cursor = _after_version(head)
    try:
        tensors = cursor.number("<Q")
        for _ in range(cursor.number("<Q")):
            cursor.text()
            kind = cursor.number("<I")
            if kind == _ARRAY:
                kind, count = cursor.number("<I"), cursor.number("<Q")
                cursor.skip(kind, count)
            else:
                cursor.skip(kind, 1)
        for _ in range(tensors):
            cursor.text()
            dimensions = cursor.number("<I")
            if dimensions > _MAX_DIMENSIONS:
                raise NotGGUF(f"a tensor has {dimensions} dimensions (at most {_MAX_DIMENSIONS} are valid)")
            cursor.take(dimensions * 8 + 4 + 8)  # shape, type, offset of the data
    except _OutOfBytesError:
        return None
    return cursor.position


def _after_version(head: bytes) -> _Cursor:
    """Check magic and version. Returns a cursor after them."""
    if not head.startswith(MAGIC):
        raise NotGGUF("not a GGUF file (does not start with GGUF)")
    cursor = _Cursor(head)
    try:
        cursor.take(len(MAGIC))
        version = cursor.number("<I")
    except _OutOfBytesError:
        return cursor
    if version not in (2, 3):
        raise NotGGUF(f"GGUF version {version} is not supported (expected 2 or 3)")
    return cursor
