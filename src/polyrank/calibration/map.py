"""What a calibration map is: frozen numbers that take a head's logit to a calibrated one.

A map is strictly increasing, so that it never reorders the rows of its own head, and it works on
the logit, so that no probability becomes 0 or 1 that was not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np


@dataclass(frozen=True)
class CalibrationMap(ABC):
    """A map; its fields are plain values, which the bundle keeps.

    Attributes:
        name: as the bundle writes it.
        least_positives: validation positives below which it is no candidate.
        graph: "module:function" from a map to the `nn.Module` of it that an exported graph takes;
            None where `apply` is arithmetic that a tensor does too.
    """

    name: ClassVar[str]
    least_positives: ClassVar[int] = 50
    graph: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def fit(cls, logit: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Self | None:
        """Return the map of the lowest log loss, or None where there is none.

        Args:
            logit: finite, from the lowest to the highest.
            label: 0 or 1.
            weight: sample weights above 0.

        Shape:
            every array (rows,)
        """

    @abstractmethod
    def apply(self, logits: Any) -> Any:
        """Return calibrated logits: float64 (rows,) → (rows,)."""
