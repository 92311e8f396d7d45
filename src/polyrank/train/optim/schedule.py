"""Schedules of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from polyrank.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The learning rate stays."""

    def factor(self, step: int, steps: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The learning rate falls to 0 along half a cosine, after a linear warm-up.

    Args:
        warmup: share of the steps that rise linearly from 0.

    Example:
        >>> [round(Cosine().factor(step, 4), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]

    Reference:
        Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts.
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"Cosine: warmup is a share of the steps, however: {self.warmup}")

    def factor(self, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by at one of `steps` steps."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + cos(pi * (step - rising) / max(steps - rising, 1))) / 2
