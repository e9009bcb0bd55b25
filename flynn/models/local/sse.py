"""Server-sent events: lines in, the data of events out. No I/O.

After "Parsing an event stream" and "Interpreting an event stream" of
https://html.spec.whatwg.org/multipage/server-sent-events.html (sections 9.2.5 and 9.2.6). Only `data` means anything
to llama-server; `event`, `id`, `retry` and unknown fields are ignored.
"""

from __future__ import annotations

from typing import List

from ...errors import ProtocolError

MAX_EVENT = 64 * 1024 * 1024  # bytes


class SSEDecoder:
    """Takes the lines of a stream and returns the data of the events that they complete.

    An event that no blank line ends is not complete (section 9.2.6): the stream was cut inside it.

    Args:
        max_event: largest event, in bytes.

    Example:
        >>> decoder = SSEDecoder()
        >>> [decoder.feed(line) for line in (b"data: one\\n", b"data:two\\r\\n", b": ping\\n", b"\\n")]
        [[], [], [], [b'one\\ntwo']]
    """

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._data: List[bytes] = []
        self._size = 0
        self._at_start = True

    def feed(self, line: bytes) -> List[bytes]:
        """Take a line with its LF. What ends in a lone CR is a line too (section 9.2.5), so there may be several in it.

        Raises:
            ProtocolError: an event is larger than the limit.
        """
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")  # one byte order mark, which is not part of the stream
        events: List[bytes] = []
        for part in line.splitlines():
            if not part:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data.clear()
                    self._size = 0
            elif part.startswith(b"data:") or part == b"data":
                self._data.append(part[6:] if part.startswith(b" ", 5) else part[5:])
                self._size += len(part)
                if self._size > self._max_event:
                    raise ProtocolError(f"expected an event of at most {self._max_event} bytes, got a larger one")
        return events
