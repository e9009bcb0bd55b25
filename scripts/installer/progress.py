"""What a long download shows: a bar with rate and time left on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import Optional, TextIO

RATE_WINDOW_SECONDS = 15.0
_BAR_WIDTH = 24


class Meter:
    """Counts the bytes of several files that come in at once, and draws them.

    Args:
        total: bytes of all files together, those already here included.
        stream: where to draw.
    """

    def __init__(self, total: int, stream: Optional[TextIO] = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self.interval = 0.2 if self._terminal else 60.0
        self._total = total
        self._positions: dict[str, int] = {}
        self._samples: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def at(self, name: str, position: int) -> None:
        """A file has come to `position`; a step back means that it starts anew."""
        with self._lock:
            if position < self._positions.get(name, 0) or name not in self._positions:
                self._samples.clear()
            self._positions[name] = position

    def draw(self) -> None:
        text = self.line(time.monotonic())
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def finish(self) -> None:
        """Leaves the bar as it is and goes to the next line."""
        if self._terminal and self._positions:
            self.draw()
            self._stream.write("\n")
            self._stream.flush()

    def line(self, now: float) -> str:
        """One line: percent, bar, bytes, rate and time left; the rate is that of the last seconds."""
        with self._lock:
            done = sum(self._positions.values())
            self._samples.append((now, done))
            while len(self._samples) > 2 and self._samples[0][0] < now - RATE_WINDOW_SECONDS:
                self._samples.popleft()
            then, before = self._samples[0]
        rate = (done - before) / (now - then) if now > then else 0.0
        share = done / self._total if self._total else 1.0
        bar = "#" * int(share * _BAR_WIDTH)
        left = duration((self._total - done) / rate) if rate > 0 else "--:--"
        amount = f"{done / 1e9:.2f} of {self._total / 1e9:.2f} GB"
        return f"{share:4.0%} [{bar:<{_BAR_WIDTH}}] {amount}  {rate / 1e6:.1f} MB/s  {left} left"


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> duration(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
