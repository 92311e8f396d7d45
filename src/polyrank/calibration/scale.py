"""What maps map, and how good a prediction on that scale is: one entry a scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from polyrank.calibration.platt import log_loss
from polyrank.labels import LabelKind, Quantile

LEAST = 50  # rows of each kind that the loss is about, below which nothing is fitted


class Scale(ABC):
    """A scale that maps work on.

    Attributes:
        loss_name: of what is compared, as the bundle writes it.
        no_end: why a map may have no best fit in a fold.
    """

    loss_name: ClassVar[str]
    no_end: ClassVar[str] = "a map has no best fit"

    @abstractmethod
    def loss(self, kind: LabelKind, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return each row's loss, whose minimiser is what the prediction stands for: (rows,)."""

    @abstractmethod
    def evidence(self, kind: LabelKind, label: np.ndarray) -> Mapping[str, int]:
        """Return counts, in words, of which each must reach `LEAST`."""

    def positives(self, label: np.ndarray) -> int | None:
        """Return how many rows are above 0, where that says how much they tell."""
        return None


class Logit(Scale):
    """A head's logit, judged by log loss."""

    loss_name = "log_loss"
    no_end = "one label is missing or the logit separates the two, so no map has a best fit"

    def loss(self, kind: LabelKind, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        return log_loss(prediction, label)

    def evidence(self, kind: LabelKind, label: np.ndarray) -> Mapping[str, int]:
        positives = int(label.sum())
        return {"positives": positives, "negatives": len(label) - positives}

    def positives(self, label: np.ndarray) -> int:
        return int(label.sum())


class Amount(Scale):
    """A mean of what is never below 0, judged by Poisson's deviance.

    Its minimiser is the mean, whatever the distribution; an error counts relative to the mean, so
    that a few large amounts do not decide alone, and a label may be 0. A prediction below a
    millionth of the mean label counts as that.

    Reference:
        Gneiting, Making and evaluating point forecasts, JASA 2011, theorem 7 (Bregman functions).
    """

    loss_name = "deviance"

    def loss(self, kind: LabelKind, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        floor = max(1e-6 * float(label.mean()), np.finfo(np.float64).tiny) if len(label) else 1.0
        mean = np.maximum(prediction, floor)
        return 2 * (label * np.log(np.where(label > 0, label, mean) / mean) - (label - mean))

    def evidence(self, kind: LabelKind, label: np.ndarray) -> Mapping[str, int]:
        return {"rows above 0": int((label > 0).sum())}

    def positives(self, label: np.ndarray) -> int:
        return int((label > 0).sum())


class Number(Scale):
    """A mean of any number, judged by squared error."""

    loss_name = "squared_error"

    def loss(self, kind: LabelKind, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        return (prediction - label) ** 2

    def evidence(self, kind: LabelKind, label: np.ndarray) -> Mapping[str, int]:
        return {"rows": len(label)}


class Quantiles(Scale):
    """Quantiles (rows, levels), judged by their mean pinball loss."""

    loss_name = "pinball"

    def loss(self, kind: LabelKind, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        levels, gap = np.array(levels_of(kind)), label[:, None] - prediction
        return np.maximum(levels * gap, (levels - 1) * gap).mean(1)

    def evidence(self, kind: LabelKind, label: np.ndarray) -> Mapping[str, int]:
        levels, rows = levels_of(kind), len(label)
        return {
            "rows that the lowest level puts below it": int(levels[0] * rows + 1e-9),
            "rows that the highest level puts above it": int((1 - levels[-1]) * rows + 1e-9),
        }


def levels_of(kind: LabelKind) -> tuple[float, ...]:
    """Return the levels of a kind whose outputs are quantiles."""
    assert isinstance(kind, Quantile)
    return kind.levels


SCALES: Mapping[str, Scale] = {
    "logit": Logit(),
    "amount": Amount(),
    "number": Number(),
    "quantiles": Quantiles(),
}
