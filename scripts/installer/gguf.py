"""Reading the beginning of a GGUF file: enough to know the architecture, no tensor and no vocabulary.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Writers put the architecture's keys before the
tokenizer's arrays, so the first few KB of a file hold all that `read_metadata` asks; `header_length` needs some MB.
"""

from __future__ import annotations

import struct
from typing import Optional, Union

MAGIC = b"GGUF"
VOCABULARY = "tokenizer.ggml.tokens"

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONGEST_ARRAY = 4096  # longer ones are vocabularies; arrays that are wanted have an entry a layer
_MOST_DIMENSIONS = 8

Value = Union[int, float, str, "list[Union[int, float, str]]"]


class NotGGUF(ValueError):
    """The bytes are not the beginning of a GGUF file."""


class _End(Exception):
    """The bytes at hand are used up."""


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _End
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def skip(self, kind: int, count: int) -> None:
        """Passes over so many values of a type."""
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
    """The metadata in the first bytes of a GGUF file, as far as they go.

    The vocabulary is where it ends: of that only the length is kept, under its own key.

    Raises:
        NotGGUF: the magic is missing, or what follows is not GGUF version 2 or 3.
    """
    cursor = _begun(head)
    found: dict[str, Value] = {}
    try:
        cursor.number("<Q")  # tensors
        for _ in range(cursor.number("<Q")):
            key, kind = cursor.text(), cursor.number("<I")
            if kind != _ARRAY:
                found[key] = cursor.scalar(kind)
                continue
            element, length = cursor.number("<I"), cursor.number("<Q")
            if key == VOCABULARY or length > _LONGEST_ARRAY:
                found[key] = length
                break
            found[key] = [cursor.scalar(element) for _ in range(length)]
    except _End:
        pass
    return found


def header_length(head: bytes) -> Optional[int]:
    """The bytes of a file before its tensors' data: metadata, vocabulary, and each tensor's name and shape.

    None if `head` holds less than that.

    Raises:
        NotGGUF: as `read_metadata`.
    """
    cursor = _begun(head)
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
            if dimensions > _MOST_DIMENSIONS:
                raise NotGGUF(f"a tensor of {dimensions} dimensions")
            cursor.take(dimensions * 8 + 4 + 8)  # its shape, its type, where its data begin
    except _End:
        return None
    return cursor.at


def _begun(head: bytes) -> _Cursor:
    """A cursor behind magic and version."""
    if not head.startswith(MAGIC):
        raise NotGGUF("the file does not begin with GGUF")
    cursor = _Cursor(head)
    try:
        cursor.take(len(MAGIC))
        version = cursor.number("<I")
    except _End:
        return cursor
    if version not in (2, 3):
        raise NotGGUF(f"GGUF version {version} is not supported (2 and 3 are)")
    return cursor
