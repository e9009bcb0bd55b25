"""Server-sent events: bytes in, the data of events out. No I/O.

After "Parsing an event stream" and "Interpreting an event stream" of
https://html.spec.whatwg.org/multipage/server-sent-events.html (sections 9.2.5 and 9.2.6). Only `data` means anything
to llama-server; `event`, `id`, `retry` and unknown fields are passed over.

Lines are split and joined as bytes: no byte of a character in UTF-8 is a CR or LF, so a character that a block cuts in
two needs no care, and text is decoded once, by whoever reads the JSON in it.
"""

from __future__ import annotations

from ...errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

MAX_EVENT = 64 * 1024 * 1024

_NEXT = b"\n\ndata: "


class SSEDecoder:
    """Takes the bytes of a stream in blocks of any size and gives the data of each event that they complete.

    An event that no blank line ends is not complete (section 9.2.6): the stream was cut inside it.

    Args:
        max_event: most bytes of one event.

    Example:
        >>> decoder = SSEDecoder()
        >>> decoder.feed(b"data: one\\n\\nda"), decoder.feed(b"ta:two\\r\\n\\r\\n")
        ([b'one'], [b'two'])
    """

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._line: List[bytes] = []  # the pieces of a line whose end has not come yet
        self._line_size = 0
        self._data: List[bytes] = []  # the data lines of an event whose end has not come yet
        self._data_size = 0
        self._after_cr = False  # an LF that comes now belongs to the CR before it
        self._at_start = True

    def feed(self, block: bytes) -> List[bytes]:
        """The data of the events that these bytes complete, in their order.

        Raises:
            ProtocolError: an event is larger than the limit.
        """
        if not block:
            return []
        if self._after_cr:
            block = block.removeprefix(b"\n")
        if not self._line and not self._data:
            # Nearly all blocks are whole events of one line each. To take them apart at once is five times as fast.
            events = block[6:-2].split(_NEXT)
            plain = block.startswith(_NEXT[2:]) and block.endswith(b"\n\n") and len(block) <= self._max_event
            if plain and block.count(b"\n") == 2 * len(events) and b"\r" not in block:
                self._after_cr = self._at_start = False
                return events
        self._after_cr = block.endswith(b"\r")
        if b"\r" in block:  # to look for two bytes takes 70 times as long as for one
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = block.split(b"\n")
        rest = lines.pop()
        events = []
        if lines:
            if self._line:
                self._line.append(lines[0])
                lines[0] = b"".join(self._line)
                self._line = []
                self._line_size = 0
            if self._at_start:
                self._at_start = False
                lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")  # one BOM, which is not part of the stream
            self._interpret(lines, events)
        if rest:
            self._line.append(rest)
            self._line_size += len(rest)
        self._check(self._line_size + self._data_size)
        return events

    def _interpret(self, lines: List[bytes], events: List[bytes]) -> None:
        data = self._data
        for line in lines:
            if not line:
                if data:
                    self._check(self._data_size)
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._data_size = 0
            elif line.startswith(b"data:") or line == b"data":
                data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
                self._data_size += len(line)

    def _check(self, size: int) -> None:
        if size > self._max_event:
            raise ProtocolError(f"expected an event of at most {self._max_event} bytes, got a larger one")
