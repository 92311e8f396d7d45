"""A strictly increasing line through knots, which two maps are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from polyrank.calibration.map import CalibrationMap
from polyrank.errors import ConfigError


@dataclass(frozen=True)
class Knotted(CalibrationMap):
    """Knots from rising values to rising values: linear between, and of slope 1 below the first."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    graph = "polyrank.serve.export.twin:Knots"

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.y):
            raise ConfigError(
                f"x and y must hold the same number of knots, at least 1, got {len(self.x)} and "
                f"{len(self.y)}"
            )
        for name, values in (("x", self.x), ("y", self.y)):
            if not all(isfinite(each) for each in values):
                raise ConfigError(f"{name} must hold finite numbers, got {values}")
            for low, high in pairwise(values):
                if not low < high:
                    raise ConfigError(f"{name} must rise from knot to knot, got {low}, {high}")

    @property
    def slope_above(self) -> float:
        """Of the line above the last knot."""
        return 1.0

    def words(self, number: Callable[[float], str] = str) -> str:
        """Return its name and size."""
        return f"{self.name.replace('_', ' ')}, {len(self.x)} knots"

    def apply(self, values: Any) -> Any:
        inside = np.clip(values, self.x[0], self.x[-1])
        beyond = values - inside
        slope = np.where(beyond > 0, self.slope_above, 1.0)
        return np.interp(inside, self.x, self.y) + slope * beyond

    def inverse(self, values: np.ndarray) -> np.ndarray:
        inside = np.clip(values, self.y[0], self.y[-1])
        beyond = values - inside
        slope = np.where(beyond > 0, self.slope_above, 1.0)
        return np.interp(inside, self.y, self.x) + beyond / slope
