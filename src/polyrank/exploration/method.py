"""What a way of exploring is: it moves the logits of rows that are to be ranked.

Letters: N rows, D draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

MOST = 100.0  # of a factor of a deviation
DRAWS = 1_000  # where nothing is said


class Sure(NamedTuple):
    """The logit of a head, before its calibration map, and how sure the model is of it."""

    logit: np.ndarray  # as served: float64 (N,)
    deviation: np.ndarray  # of the true logit, but what all rows share; above 0: float64 (N,)


@dataclass(frozen=True, kw_only=True)
class Exploration(ABC):
    """Base of the ways of exploring; the fields are what a request may set.

    Another package adds one by `polyrank.register("exploration", kind, cls)`.

    Args:
        by: the output column to rank by; None is the fused score, or without one the only column
            that exploration moves.

    Attributes:
        json: the JSON Schema of each field but `by`.
        required: the fields that a request must have.
        random: whether another draw may give another order, so that each row has a propensity.
    """

    by: str | None = None

    json: ClassVar[Mapping[str, Any]] = {}
    required: ClassVar[tuple[str, ...]] = ()
    random: ClassVar[bool] = False

    @abstractmethod
    def moved(self, heads: Mapping[str, Sure]) -> dict[str, np.ndarray]:
        """Return the logits of each head that rows are ranked by: float64 (N,) each."""

    def chances(self, sure: Sure, first: int) -> np.ndarray | None:
        """Return P(a row is among the `first` largest) of rows ranked by one head: float64 (N,).

        None where draws must tell.
        """
        return None

    @property
    def replicates(self) -> int:
        """How many draws tell how often a row is among the first."""
        return DRAWS

    def again(self, heads: Mapping[str, Sure], draws: int) -> dict[str, np.ndarray]:
        """Return `draws` more of the same, of a random kind: float64 (D, N) each."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")
