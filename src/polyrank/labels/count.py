"""How many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import lgamma, log
from typing import Any, Literal, Self, get_args

import numpy as np

from polyrank.errors import SchemaError, did_you_mean
from polyrank.labels.kind import LabelKind, Scale

Distribution = Literal["poisson", "negative_binomial"]
_LARGEST = 2.0**24  # whole numbers that float32 holds
_USUAL = 1000  # more than that of one event is rather a number with a unit
_LEAST = 1e-3  # of a dispersion: below it, nothing tells the distribution from Poisson's


@dataclass(frozen=True, kw_only=True)
class Count(LabelKind):
    """A whole number of at least 0, such as items bought.

    Args:
        distribution: "poisson", whose variance is its mean μ, or "negative_binomial", whose
            variance is μ + a·μ², with a dispersion a of its own for each row.

    Raises:
        SchemaError: an unknown distribution.

    Examples:
        >>> import polyrank as pr
        >>> task = pr.Task("items", kind=Count(distribution="negative_binomial"), given=None)
        >>> task.label_kind.outputs
        2

    Reference:
        Cameron and Trivedi, Regression analysis of count data, 2013, sections 3.2 and 3.3 (NB2).
    """

    name = "count"
    likelihood = "polyrank.objective.count:likelihood"
    is_ordered = has_zero = True
    default_metric = "deviance"
    metrics = ("rmse", "mae", "bias")
    allowed = "whole numbers from 0 to 16,777,216 or null"
    loss_title = "negative log-likelihood, nats"
    curvature = "poisson"  # of the mean; a dispersion of each row has no wide rows

    distribution: Distribution = "poisson"

    def __post_init__(self) -> None:
        if self.distribution not in get_args(Distribution):
            hint = did_you_mean(str(self.distribution), get_args(Distribution))
            raise SchemaError(
                f"kind {self.name!r}: unknown distribution {self.distribution!r}{hint}"
            )

    @classmethod
    def proposed(cls, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> Self | None:
        """Whole numbers, some of them above 1."""
        alike = bool(cls().allows(label).all()) and 1 < label.max(initial=0) <= _USUAL
        return cls() if alike else None

    @property
    def outputs(self) -> int:
        """The log of the mean, and of a negative binomial that of the dispersion."""
        return 1 if self.distribution == "poisson" else 2

    @property
    def calibrated(self) -> Scale:
        """Its mean."""
        return "amount"

    @property
    def is_factor(self) -> bool:
        """A mean of what is never below 0 is."""
        return True

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Whole numbers of at least 0."""
        return (values >= 0) & (values <= _LARGEST) & (values == np.floor(values))

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return the `mean`, the `dispersion` by moments, and the `constant_loss` of both.

        The mean is smoothed by one row with half an event, so that it is never 0.
        """
        kept = weight > 0
        label, weight = label[kept], weight[kept]
        total = float(weight.sum())
        rows = len(label)
        observed = float(weight @ label) / total if total > 0 else 0.0
        mean = (observed * rows + 0.5) / (rows + 1)
        variance = float(weight @ (label - mean) ** 2) / total if total > 0 else mean
        dispersion = max((variance - mean) / mean**2, _LEAST)
        values, places = np.unique(label, return_inverse=True)
        share = np.bincount(places, weight, minlength=len(values)) / total if rows else values
        each = [self.loss(value, mean, dispersion) for value in values.tolist()]
        constant = float(share @ np.array(each)) if rows else 0.0
        return {"mean": mean, "dispersion": dispersion, "constant_loss": constant}

    def loss(self, y: float, mean: float, dispersion: float) -> float:
        """Return −log P(y)."""
        if self.distribution == "poisson":
            return mean - y * log(mean) + lgamma(y + 1)
        r = 1 / dispersion
        own = lgamma(r) + lgamma(y + 1) - lgamma(y + r)
        return own + r * log(1 + mean / r) + y * (log(r + mean) - log(mean))
