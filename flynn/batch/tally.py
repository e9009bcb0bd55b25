"""How a batch goes: what is done, how fast, how long it may take. No I/O."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Union

    from .results import Result


class Tally:
    """Counts results, from the moment when it is made.

    Attributes:
        before: results that were there already.
        done, failed: what has succeeded and failed since.
        prompt_tokens, cached_tokens, completion_tokens: of those that succeeded; cached ones are prompt tokens too.
    """

    def __init__(self) -> None:
        self.before = self.done = self.failed = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        if result.error is not None:
            self.failed += 1
            return
        self.done += 1
        prompt, cached, completion = result.tokens()
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion

    def line(self, total: Optional[float]) -> str:
        """In one line, of so many requests, if that is known."""
        seconds, finished = self._seconds(), self.done + self.failed
        parts = [f"{self.before + self.done} done", f"{self.failed} failed", *self._speeds(seconds)]
        if total is not None and finished:
            left = max(0.0, total - self.before - finished)
            parts.append(f"{_duration(left * seconds / finished)} left")
        return ", ".join(parts)

    def summary(self) -> str:
        """At the end, in one line."""
        seconds = self._seconds()
        before = f" ({self.before} of them before)" if self.before else ""
        parts = [f"{self.before + self.done} done{before}", f"{self.failed} failed"]
        if self.prompt_tokens:
            tokens = f"{self.prompt_tokens} tokens in ({self.cached_tokens} cached), {self.completion_tokens} out"
            parts += [tokens, *self._speeds(seconds)]
        return ", ".join([*parts, _duration(seconds)])

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _speeds(self, seconds: float) -> List[str]:
        read, written = self.prompt_tokens / seconds, self.completion_tokens / seconds
        return [f"{read:.0f} tokens/s in, {written:.0f} out"] if self.prompt_tokens else []

    def report(self) -> Dict[str, Union[int, float]]:
        """At the end, for a program."""
        seconds = self._seconds()
        return {
            "done": self.done,
            "done_before": self.before,
            "failed": self.failed,
            "seconds": round(seconds, 6),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_per_second": round(self.prompt_tokens / seconds, 3),
            "completion_tokens_per_second": round(self.completion_tokens / seconds, 3),
        }


def _duration(seconds: float) -> str:
    """Example: `_duration(3725.2)` is `"1 h 2 min"`."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
