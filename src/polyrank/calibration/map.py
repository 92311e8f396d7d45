"""What a calibration map is: frozen numbers that take a prediction to a calibrated one.

A map is strictly increasing, so that it never reorders the rows of its own head. Of an event it
works on the logit, so that no probability becomes 0 or 1 that was not; of other kinds on what they
predict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from polyrank.errors import ConfigError
from polyrank.labels import LabelKind

_DOUBLINGS, _HALVINGS = 64, 100  # more than float64 tells apart


@dataclass(frozen=True)
class CalibrationMap(ABC):
    """A map; its fields are plain values, which the bundle keeps.

    Attributes:
        name: as the bundle writes it.
        scales: what it maps, by the names of `polyrank.calibration.scale.SCALES`.
        least: rows that tell most, such as positives of an event, below which it is no candidate.
        graph: "module:function" from a map to the `nn.Module` of it that an exported graph takes;
            None where `apply` is arithmetic that a tensor does too.
    """

    name: ClassVar[str]
    scales: ClassVar[tuple[str, ...]] = ("logit",)
    least: ClassVar[int] = 50
    graph: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def fit(
        cls, prediction: np.ndarray, label: np.ndarray, weight: np.ndarray, kind: LabelKind
    ) -> Self | None:
        """Return the map of the lowest loss of its scale, or None where there is none.

        Args:
            prediction: finite; a logit (rows,), from the lowest to the highest; likewise a mean; or
                quantiles (rows, levels).
            label: (rows,); 0 or 1 of a logit.
            weight: sample weights above 0: (rows,).
            kind: of the label, with its options.
        """

    @abstractmethod
    def apply(self, values: Any) -> Any:
        """Return what is calibrated.

        Shape:
            float64 (rows,) → (rows,); of quantiles, columns (rows,) from the lowest level on → as
            many
        """

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Return the logits that `apply` takes to `values`, by bisection; of maps of a logit.

        Shape:
            float64 (rows,) → (rows,)
        """
        low, high = values - 1.0, values + 1.0
        for _ in range(_DOUBLINGS):  # an interval that holds the answer
            below, above = self.apply(low) > values, self.apply(high) < values
            if not (below.any() or above.any()):
                break
            width = high - low
            low, high = np.where(below, low - width, low), np.where(above, high + width, high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            less = self.apply(middle) < values
            low, high = np.where(less, middle, low), np.where(less, high, middle)
        return (low + high) / 2

    def words(self, number: Callable[[float], str] = str) -> str:
        """Return what it is, in a few words; `number` writes figures as the reader has them."""
        return self.name

    def check(self, kind: LabelKind, where: str) -> None:
        """Refuse a kind of label that it has no meaning for.

        Raises:
            ConfigError: the kind has another scale, or none.
        """
        if kind.calibrated not in self.scales:
            has = "has no map" if kind.calibrated is None else f"has maps of {kind.calibrated!r}"
            raise ConfigError(
                f"{where}: the map {self.name!r} is of {' or '.join(map(repr, self.scales))}, and "
                f"a label of kind {kind.name!r} {has}"
            )
