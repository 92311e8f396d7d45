"""A number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank.labels.kind import LabelKind

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Regression(LabelKind):
    """A number in a unit of its own, such as a rating or money spent."""

    name = "regression"
    likelihood = "polyrank.objective.regression:RegressionLikelihood"
    default_metric = "rmse"
    allowed = "finite numbers within float32 (±3.4e38) or null"
    loss_title = "squared error, standardised"
    standardised = True
    curvature = "gaussian"

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Every number that float32 holds."""
        return np.abs(values) <= _LARGEST

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return `mean` and `deviation` of the target; the deviation of a constant one is 1."""
        total = float(weight.sum())
        mean = float(weight @ label) / total if total > 0 else 0.0
        variance = float(weight @ (label - mean) ** 2) / total if total > 0 else 0.0
        return {"mean": mean, "deviation": float(np.sqrt(variance)) if variance > 0 else 1.0}
