"""Server-sent events: lines in, the data of events out. No I/O.

After "Parsing an event stream" and "Interpreting an event stream" of
https://html.spec.whatwg.org/multipage/server-sent-events.html (sections 9.2.5 and 9.2.6). Only `data` means anything
to llama-server; `event`, `id`, `retry` and unknown fields are ignored.
"""

from __future__ import annotations

from itertools import chain
from typing import Iterable, Iterator, List

from ...errors import ProtocolError

MAX_EVENT = 64 * 1024 * 1024  # bytes


def read_events(lines: Iterable[bytes], max_event: int = MAX_EVENT) -> Iterator[bytes]:
    """Yield the data of each event as soon as its blank line has come.

    An event that no blank line ends is not complete (section 9.2.6): the stream was cut inside it.

    Args:
        lines: of the stream, each with its LF. What ends in a lone CR is a line too (section 9.2.5), so there may be
            several in one of these.
        max_event: largest event, in bytes.

    Raises:
        ProtocolError: an event is larger than the limit.

    Example:
        >>> list(read_events([b"data: one\\n", b"data:two\\r\\n", b": ping\\n", b"\\n"]))
        [b'one\\ntwo']
    """
    data: List[bytes] = []
    size = 0
    lines = iter(lines)
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")  # one byte order mark is not part of the stream
    for line in chain([first], lines):
        for part in line.splitlines():
            if part:
                field, _, value = part.partition(b":")
                if field == b"data":
                    data.append(value[1:] if value.startswith(b" ") else value)
                    size += len(part)
                    if size > max_event:
                        raise ProtocolError(f"expected an event of at most {max_event} bytes, got a larger one")
            elif data:
                yield b"\n".join(data)
                data = []
                size = 0
