"""The progress of a download, on a terminal and in a file."""

from __future__ import annotations

import io

import pytest
from installer.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_has_share_rate_and_time_left() -> None:
    progress = Progress(4_000_000_000, io.StringIO())
    progress.update("a", 1_000_000_000)
    progress.line(100.0)
    progress.update("a", 1_200_000_000)
    progress.update("a", 1_500_000_000)
    line = progress.line(110.0)
    assert line == " 38% [#########               ] 1.50 of 4.00 GB  50.0 MB/s  00:50 left"


def test_bytes_of_an_earlier_run_do_not_count_for_the_rate() -> None:
    progress = Progress(4_000_000_000, io.StringIO())
    progress.line(100.0)
    progress.update("a", 3_000_000_000)
    assert "0.0 MB/s  --:-- left" in progress.line(101.0)


def test_the_rate_is_that_of_the_last_15_seconds() -> None:
    progress = Progress(10_000_000_000, io.StringIO())
    progress.update("a", 0)
    for second in range(100):
        position = second * 100_000_000 if second < 50 else second * 50_000_000 + 2_500_000_000
        progress.update("a", position)
        line = progress.line(float(second))
    assert "50.0 MB/s" in line


def test_a_terminal_shows_one_changing_line_and_a_file_one_line_a_minute() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress = Progress(10, stream)
        progress.update("a", 5)
        progress.draw()
        progress.draw()
        progress.finish()
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().count("\r") == 3
    assert file.getvalue().count("\n") == 2
    assert "\r" not in file.getvalue()
    assert (Progress(1, terminal).interval, Progress(1, file).interval) == (0.2, 60.0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00"), (59.9, "00:59"), (600, "10:00"), (3725, "1:02:05")])
def test_a_duration_is_formatted(seconds: float, text: str) -> None:
    assert duration(seconds) == text
