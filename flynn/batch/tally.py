"""Running totals of a batch: the progress and the summary for a person, a report for a program."""

from __future__ import annotations

import time
from typing import Dict, List, Optional, Union

from .results import Result


class Tally:
    """Counts results and the seconds since it was created.

    Attributes:
        before: results that the output held already.
        done, failed: requests that have succeeded and failed since.
        truncated: answers among those that succeeded that were cut at the limit of tokens.
        prompt_tokens, cached_tokens, completion_tokens: of requests that succeeded; cached ones are prompt tokens too.
    """

    def __init__(self) -> None:
        self.before = self.done = self.failed = self.truncated = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        if result.error is not None:
            self.failed += 1
            return
        self.done += 1
        self.truncated += result.truncated
        prompt, cached, completion = result.tokens()
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion

    def line(self, left: Optional[float]) -> str:
        """Return the progress in one line.

        Args:
            left: requests that are still to be done; None if that is unknown.
        """
        seconds = self._seconds()
        parts = [f"{self.before + self.done} done", f"{self.failed} failed", *self._speeds(seconds)]
        if left is not None and self.done:
            # Failures do not count as work: they may have taken no time at all, or all of it.
            parts.append(f"{_duration(left * seconds / self.done)} left")
        return ", ".join(parts)

    def summary(self) -> str:
        """Return the summary in one line."""
        seconds = self._seconds()
        before = f" ({self.before} of them before)" if self.before else ""
        parts = [f"{self.before + self.done} done{before}", f"{self.failed} failed"]
        if self.truncated:
            parts.append(f"{self.truncated} cut off at the limit of tokens (see --max-tokens)")
        if self.prompt_tokens:
            tokens = f"{self.prompt_tokens} tokens in ({self.cached_tokens} cached), {self.completion_tokens} out"
            parts += [tokens, *self._speeds(seconds)]
        return ", ".join([*parts, _duration(seconds)])

    def report(self) -> Dict[str, Union[int, float]]:
        """Return the totals, for a program."""
        seconds = self._seconds()
        return {
            "done": self.done,
            "done_before": self.before,
            "failed": self.failed,
            "truncated": self.truncated,
            "seconds": round(seconds, 6),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_per_second": round(self.prompt_tokens / seconds, 3),
            "completion_tokens_per_second": round(self.completion_tokens / seconds, 3),
        }

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-6)

    def _speeds(self, seconds: float) -> List[str]:
        read, written = self.prompt_tokens / seconds, self.completion_tokens / seconds
        return [f"{read:.0f} tokens/s in, {written:.0f} out"] if self.prompt_tokens else []


def _duration(seconds: float) -> str:
    """Example: `_duration(3725.2)` is `"1 h 2 min"`."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
