"""Money and other positive numbers with a heavy tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from polyrank.labels.kind import LabelKind, Scale

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class LogNormal(LabelKind):
    """A number above 0 whose logarithm is normal, with a mean μ and a deviation σ of each row.

    It predicts the mean exp(μ + σ²/2). `Task("spend", given="buy", kind="lognormal")` is the
    zero-inflated log-normal: `spend` = p_buy · exp(μ + σ²/2), where a row without a purchase has no
    label. σ lies within .05 and 3 times that of the training rows.

    Examples:
        >>> import polyrank as pr
        >>> LogNormal().allows(np.array([12.5, 0.0]))
        array([ True, False])

    Reference:
        Wang, Liu, Miao: A deep probabilistic model for customer lifetime value prediction, 2019.
    """

    name = "lognormal"
    likelihood = "polyrank.objective.lognormal:LogNormalLikelihood"
    is_ordered = has_zero = True
    default_metric = "rmse"
    metrics = ("rmse", "mae", "bias")
    allowed = "numbers above 0 or null (a row that has none is one whose `given` did not happen)"
    loss_title = "−log density, nats"
    curvature = "gaussian"  # of μ; a deviation of each row has no wide rows

    @classmethod
    def proposed(cls, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> Self | None:
        """Positive numbers, most of them distinct."""
        alike = bool(cls().allows(label).all()) and len(np.unique(label)) > 0.1 * len(label) > 1
        return cls() if alike else None

    @property
    def outputs(self) -> int:
        """Mean and deviation of the logarithm."""
        return 2

    @property
    def is_density(self) -> bool:
        """It is."""
        return True

    @property
    def calibrated(self) -> Scale:
        """Its mean."""
        return "amount"

    @property
    def is_factor(self) -> bool:
        """A mean of what is never below 0 is."""
        return True

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Positive numbers that float32 holds."""
        return (values > 0) & (values <= _LARGEST)

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return `mean` and `deviation` of the logarithm; the deviation of a constant is 1."""
        total = float(weight.sum())
        logs = np.log(label)
        mean = float(weight @ logs) / total if total > 0 else 0.0
        variance = float(weight @ (logs - mean) ** 2) / total if total > 0 else 0.0
        # A rounding is no deviation.
        known = variance > 1e-12 * (1 + mean * mean)
        return {"mean": mean, "deviation": float(np.sqrt(variance)) if known else 1.0}
