"""Where a step's time goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


@dataclass
class Stopwatch:
    """Sums the time of each part of a step; the trainer tells it when one ends.

    On a GPU, work that was only queued counts where its result is waited for.

    Args:
        seconds: of each part, in order of first use.
        steps: how many.
        rows: in these.

    Example:
        >>> watch = Stopwatch()
        >>> for part in ("", "forward", "backward", "", "forward"):
        ...     watch.lap(part)
        >>> list(watch.seconds)
        ['forward', 'backward']
    """

    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    rows: int = 0
    _last: float = 0.0

    def lap(self, part: str) -> None:
        """End a part; the one without a name is not counted."""
        now = perf_counter()
        if part:
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = perf_counter()

    def count(self, rows: int) -> None:
        """End a step."""
        self.steps += 1
        self.rows += rows

    def record(self) -> dict[str, Any]:
        """Return steps, rows a second, and each part's milliseconds a step and share."""
        total = sum(self.seconds.values())
        parts = [
            {
                "part": part,
                "ms_per_step": 1000 * seconds / max(self.steps, 1),
                "share": seconds / total if total > 0 else 0.0,
            }
            for part, seconds in self.seconds.items()
        ]
        return {
            "steps": self.steps,
            "rows_per_second": self.rows / total if total > 0 else 0.0,
            "parts": parts,
        }
