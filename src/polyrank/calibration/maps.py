"""The maps themselves: frozen numbers that take a head's logit to a calibrated one.

A map is strictly increasing, so that it never reorders the rows of its own head, and it works on
the logit, so that no probability becomes 0 or 1 that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from polyrank import spec
from polyrank.errors import ConfigError


@dataclass(frozen=True)
class Platt:
    """A line on the logit: slope · z + intercept.

    Args:
        slope: above 0; below 1 it takes back overconfidence.
        intercept: moves every prediction, as the weight of positives in training did.

    Raises:
        ConfigError: a slope that is not above 0, or a number that is not finite.

    Example:
        >>> Platt(slope=0.5, intercept=-1.0).apply(np.array([0.0, 2.0]))
        array([-1.,  0.])

    Reference:
        Platt, Probabilistic outputs for support vector machines, 1999, eq. 2.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (isfinite(self.slope) and isfinite(self.intercept)):
            raise ConfigError(f"slope and intercept are finite numbers, however: {self!r}")
        if self.slope <= 0:
            raise ConfigError(f"slope must be above 0 to keep the order, however: {self.slope}")

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits.

        Args:
            logits: float64.

        Shape:
            (rows,) -> (rows,)
        """
        return self.slope * logits + self.intercept


@dataclass(frozen=True)
class Isotonic:
    """Knots from logit to logit: linear between them, and of slope 1 beyond the ends.

    Args:
        x: logits, rising.
        y: calibrated logits, rising; as many.

    Raises:
        ConfigError: no knot, a number of y other than that of x, or values that do not rise.

    Example:
        >>> Isotonic(x=(-1.0, 1.0), y=(-4.0, 0.0)).apply(np.array([-2.0, 0.0, 3.0]))
        array([-5., -2.,  2.])

    Reference:
        Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability
        estimates, KDD 2002; the knots in place of its steps are ours.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.y):
            raise ConfigError(
                f"x and y hold the same number of knots, at least 1, however: {len(self.x)} and "
                f"{len(self.y)}"
            )
        for name, values in (("x", self.x), ("y", self.y)):
            if not all(isfinite(each) for each in values):
                raise ConfigError(f"{name} holds finite numbers, however: {values}")
            for low, high in pairwise(values):
                if not low < high:
                    raise ConfigError(f"{name} must rise from knot to knot, however: {low}, {high}")

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits.

        Args:
            logits: float64.

        Shape:
            (rows,) -> (rows,)
        """
        inside = np.clip(logits, self.x[0], self.x[-1])
        return np.interp(inside, self.x, self.y) + (logits - inside)


Map = Platt | Isotonic
MAPS: Mapping[str, type] = {"platt": Platt, "isotonic": Isotonic}


def to_table(found: Map) -> dict[str, Any]:
    """Return what `from_table` reads.

    Example:
        >>> to_table(Platt(1.5, -2.0))
        {'kind': 'platt', 'slope': 1.5, 'intercept': -2.0}
    """
    return spec.chosen(MAPS, found)


def from_table(table: Mapping[str, Any], where: str = "calibrator") -> Map:
    """Read a map.

    Args:
        table: of plain values, with its `kind`.
        where: the table's name in messages.

    Raises:
        ConfigError: an unknown kind or key, with the nearest, or a value that no map can have.

    Example:
        >>> from_table({"kind": "platt", "slope": 1.5, "intercept": -2.0})
        Platt(slope=1.5, intercept=-2.0)
    """
    return spec.choose(MAPS, table, where)
