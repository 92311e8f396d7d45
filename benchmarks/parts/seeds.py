"""Paired differences over seeds, as every benchmark's table shows them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from polyrank.metrics.comparison import student_t


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the mean of other − one and the half-width of its 95 % interval (Student's t).

    One pair has no interval: its half-width is infinite.
    """
    each = [b - a for a, b in zip(one, other, strict=True)]
    if len(each) == 1:
        return each[0], float("inf")
    return mean(each), student_t(len(each) - 1) * stdev(each) / len(each) ** 0.5


def shown(one: Sequence[float], other: Sequence[float], digits: int = 4) -> str:
    """Return the difference as text, with a star if the interval excludes 0."""
    middle, half = difference(one, other)
    star = "" if abs(middle) <= half else " *"
    return f"{middle:+.{digits}f} ± {half:.{digits}f}{star}"


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Return mean ± standard deviation as text; of one value the value."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"
