"""A number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from polyrank import spec
from polyrank.errors import SchemaError, did_you_mean
from polyrank.labels.kind import Curvature, LabelKind, Scale

Loss = Literal["squared", "huber"]
Transform = Literal["none", "log1p"]
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Regression(LabelKind):
    """A number in a unit of its own, such as a rating or money spent.

    Args:
        loss: of the standardised label: "squared", whose minimiser is the mean, or "huber", which
            grows only linearly beyond `delta`, so that outliers count less; its minimiser lies
            between mean and median.
        delta: of "huber", in standard deviations of the training rows.
        transform: "log1p" learns log(1 + label), for labels of at least 0 with a long tail. The
            way back is learned too, by a second head, so that the prediction is a mean: exp of the
            mean of the logs alone would be too low.

    Raises:
        SchemaError: an unknown loss or transform, or a delta that is not above 0.

    Examples:
        >>> Regression(transform="log1p").outputs
        2
    """

    name = "regression"
    likelihood = "polyrank.objective.regression:likelihood"
    is_ordered = True
    default_metric = "rmse"
    allowed = "finite numbers within float32 (±3.4e38) or null"
    loss_title = "squared error, standardised"
    standardised = True
    curvature = "gaussian"
    words = ("dwell", "stay", "停留")

    @classmethod
    def proposed(cls, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> Self | None:
        """Times of no known bound, which have a long tail."""
        alike = label.min(initial=0) >= 0 and len(np.unique(label)) > 2
        return cls(transform="log1p") if alike else None

    loss: Loss = "squared"
    delta: float = 1.0
    transform: Transform = "none"

    def __post_init__(self) -> None:
        where = f"kind {self.name!r}"
        for field, known in (("loss", get_args(Loss)), ("transform", get_args(Transform))):
            value = getattr(self, field)
            if value not in known:
                raise SchemaError(
                    f"{where}: unknown {field} {value!r}{did_you_mean(str(value), known)}"
                )
        delta = spec.number(f"{where}: delta", self.delta, above=0, error=SchemaError)
        object.__setattr__(self, "delta", delta)

    @property
    def outputs(self) -> int:
        """Of "log1p" the log, and the way back from it; else the number."""
        return 2 if self.transform == "log1p" else 1

    @property
    def curvatures(self) -> tuple[Curvature | None, ...]:
        """A Huber loss has no curvature in its tails; the way back from a log starts at the log."""
        return super().curvatures if self.loss == "squared" else (None,) * self.outputs

    @property
    def calibrated(self) -> Scale | None:
        """Its mean; what "huber" predicts is none, on purpose."""
        if self.loss == "huber":
            return None
        return "amount" if self.transform == "log1p" else "number"

    @property
    def is_factor(self) -> bool:
        """Labels of at least 0 have a mean of at least 0."""
        return self.transform == "log1p"

    @property
    def rule(self) -> str:
        """What its label may hold, in the words of a message."""
        if self.transform == "log1p":
            return "finite numbers of at least 0 (transform 'log1p') or null"
        return self.allowed

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Every number that float32 holds; of "log1p", from 0 on."""
        within = np.abs(values) <= _LARGEST
        return within & (values >= 0) if self.transform == "log1p" else within

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return `mean` and `deviation` of the target; the deviation of a constant one is 1.

        Of "log1p" also the mean of 1 + label, `scale`. Where it is not the variance, the loss of
        this constant: `constant_loss`.
        """
        target = np.log1p(label) if self.transform == "log1p" else label
        total = float(weight.sum())
        mean = float(weight @ target) / total if total > 0 else 0.0
        variance = float(weight @ (target - mean) ** 2) / total if total > 0 else 0.0
        deviation = float(np.sqrt(variance)) if variance > 0 else 1.0
        found = {"mean": mean, "deviation": deviation}
        if self.loss == "squared" and self.transform == "none":
            return found
        gap = np.abs(target - mean) / deviation
        near = np.minimum(gap, self.delta) if self.loss == "huber" else gap
        losses = near * (2 * gap - near)
        if self.transform == "log1p":
            scale = float(weight @ (1 + label)) / total if total > 0 else 1.0
            found["scale"] = scale
            losses += (1 + label) / scale * np.log((1 + label) / scale)
        found["constant_loss"] = float(weight @ losses) / total if total > 0 else 0.0
        return found
