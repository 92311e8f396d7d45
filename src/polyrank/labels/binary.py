"""Happened or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.labels.kind import LabelKind, Scale


@dataclass(frozen=True, kw_only=True)
class Binary(LabelKind):
    """An event: 1 where it happened, 0 where it did not."""

    name = "binary"
    likelihood = "polyrank.objective.binary:BinaryLikelihood"
    is_event = True
    default_metric = "auc"
    allowed = "0, 1 or null"
    counts = ("rows", "positives")
    loss_title = "log loss, nats"
    curvature = "logistic"

    @property
    def calibrated(self) -> Scale:
        """Its logit."""
        return "logit"

    def stems(self, task: str) -> tuple[str, ...]:
        """`p_click`: a probability."""
        return (f"p_{task}",)

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Only 0 and 1."""
        return (values == 0) | (values == 1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^(−x)), the probability of a logit, accurate in both tails."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))
