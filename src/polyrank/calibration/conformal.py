"""Quantiles that cover what they promise, without crossing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank import spec
from polyrank.calibration.map import CalibrationMap
from polyrank.calibration.scale import levels_of
from polyrank.errors import ConfigError
from polyrank.labels import LabelKind


@dataclass(frozen=True)
class Conformal(CalibrationMap):
    """The middle quantile is shifted; the gaps from it to the others are scaled, level by level.

    The shift is the conformal quantile of y − q over the rows: the ⌈a·(n + 1)⌉-th smallest of n.
    Each factor is that of the distance from the calibrated neighbour to y, in units of the gap. So
    of the rows that it is fitted on, ⌈a·(n + 1)⌉ lie at or below each level a. A shift of each
    quantile by itself would let narrow rows cross; a factor above 0 cannot, and a row whose spread
    is larger is moved further. For one level, P(y ≤ q) ≥ a holds exactly for exchangeable rows; for
    the others up to 1/n a level, since a factor rests on its neighbour's.

    Args:
        shift: of the middle quantile, the upper one of an even number, in the label's unit.
        factors: of the gaps, from the lowest on, each above 0; one fewer than levels.

    Reference:
        Romano, Patterson and Candès, Conformalized quantile regression, NeurIPS 2019; Sesia and
        Candès, A comparison of some conformal quantile regression methods, Stat 2020 (gaps as the
        unit); the order of the levels is ours.
    """

    shift: float
    factors: tuple[float, ...]

    name = "conformal"
    scales = ("quantiles",)

    def __post_init__(self) -> None:
        spec.number("shift", self.shift)
        for each in self.factors:
            spec.number("factors", each, above=0)  # which keeps quantiles from crossing

    def words(self, number: Callable[[float], str] = str) -> str:
        """Return its shift and its factors."""
        factors = ", ".join(number(each) for each in self.factors)
        return f"conformal, shift {number(self.shift)}" + (f", gaps × {factors}" if factors else "")

    def check(self, kind: LabelKind, where: str) -> None:
        """Refuse another number of levels too."""
        super().check(kind, where)
        if len(self.factors) + 1 != len(levels_of(kind)):
            raise ConfigError(
                f"{where}: factors must be one fewer than the {len(levels_of(kind))} levels, got "
                f"{len(self.factors)}"
            )

    @classmethod
    def fit(
        cls, prediction: np.ndarray, label: np.ndarray, weight: np.ndarray | None, kind: LabelKind
    ) -> Conformal | None:
        """Return the shift and the factors; None where rows that tie leave a factor of 0.

        With weights, n rows count as their share of the whole weight.
        """
        levels, rows = levels_of(kind), len(label)
        if not rows:
            return None
        w = np.ones(rows) if weight is None else weight * (rows / weight.sum())
        middle = len(levels) // 2
        shift = _conformal(label - prediction[:, middle], w, levels[middle])
        factors = np.ones(len(levels) - 1)
        at = prediction[:, middle] + shift
        for upper in range(middle + 1, len(levels)):
            gap = prediction[:, upper] - prediction[:, upper - 1]
            factors[upper - 1] = _conformal(_ratio(label - at, gap), w, levels[upper])
            at = at + factors[upper - 1] * gap
        at = prediction[:, middle] + shift
        for lower in range(middle - 1, -1, -1):
            gap = prediction[:, lower + 1] - prediction[:, lower]
            # y ≤ at − factor · gap as often as the level says: a rank from above.
            factors[lower] = -_conformal(_ratio(label - at, gap), w, levels[lower])
            at = at - factors[lower] * gap
        if not (np.isfinite(shift) and np.isfinite(factors).all() and (factors > 0).all()):
            return None
        return cls(float(shift), tuple(factors.tolist()))

    def apply(self, values: Sequence[Any]) -> Any:
        """Return the calibrated quantiles (rows,) each, as a tuple, from the lowest level on."""
        middle = len(values) // 2
        found = [*values]
        found[middle] = values[middle] + self.shift
        for upper in range(middle + 1, len(values)):
            gap = values[upper] - values[upper - 1]
            found[upper] = found[upper - 1] + self.factors[upper - 1] * gap
        for lower in range(middle - 1, -1, -1):
            gap = values[lower + 1] - values[lower]
            found[lower] = found[lower + 1] - self.factors[lower] * gap
        return tuple(found)


def _ratio(distance: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Return distance ÷ gap; of no gap, which no factor changes, an infinity of its sign."""
    open_ = gap > 0
    return np.where(
        open_, distance / np.where(open_, gap, 1.0), np.where(distance > 0, np.inf, -np.inf)
    )


def _conformal(scores: np.ndarray, weight: np.ndarray, level: float) -> float:
    """Return the smallest score that level · (n + 1) of the weight n reaches, +∞ if none does."""
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weight[order])
    # Less a rounding of the sums: .3 · 10 is 3 rows.
    place = int(np.searchsorted(reached, level * (len(scores) + 1) * (1 - 1e-12)))
    return float(scores[order[place]]) if place < len(scores) else np.inf
