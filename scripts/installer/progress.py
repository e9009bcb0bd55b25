"""Progress of a download: a bar with rate and remaining time on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import Optional, TextIO

RATE_WINDOW_SECONDS = 15.0
_BAR_WIDTH = 24


class Progress:
    """Count the bytes of several files that are downloaded in parallel, and print the progress.

    Args:
        total: bytes of all files together, including bytes downloaded earlier.
        stream: where to print; standard error by default.
    """

    def __init__(self, total: int, stream: Optional[TextIO] = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self.interval = 0.2 if self._terminal else 60.0
        self._total = total
        self._positions: dict[str, int] = {}
        self._samples: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def update(self, name: str, position: int) -> None:
        """Set a file's number of downloaded bytes. A smaller number than before means that the file was restarted."""
        with self._lock:
            if position < self._positions.get(name, 0) or name not in self._positions:
                self._samples.clear()
            self._positions[name] = position

    def draw(self) -> None:
        """Print the progress: redraw the bar on a terminal, append a line elsewhere."""
        text = self.line(time.monotonic())
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def finish(self) -> None:
        """Draw the bar a last time and end its line."""
        if self._terminal and self._positions:
            self.draw()
            self._stream.write("\n")
            self._stream.flush()

    def line(self, now: float) -> str:
        """Return percent, bar, bytes, rate and remaining time. The rate is that of the last 15 seconds."""
        with self._lock:
            done = sum(self._positions.values())
            self._samples.append((now, done))
            while len(self._samples) > 2 and self._samples[0][0] < now - RATE_WINDOW_SECONDS:
                self._samples.popleft()
            oldest, bytes_then = self._samples[0]
        rate = (done - bytes_then) / (now - oldest) if now > oldest else 0.0
        share = done / self._total if self._total else 1.0
        bar = "#" * int(share * _BAR_WIDTH)
        left = duration((self._total - done) / rate) if rate > 0 else "--:--"
        amount = f"{done / 1e9:.2f} of {self._total / 1e9:.2f} GB"
        return f"{share:4.0%} [{bar:<{_BAR_WIDTH}}] {amount}  {rate / 1e6:.1f} MB/s  {left} left"


def duration(seconds: float) -> str:
    """Format seconds as MM:SS, or H:MM:SS from one hour on.

    >>> duration(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
