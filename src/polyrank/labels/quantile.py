"""Quantiles of a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank import spec
from polyrank.errors import SchemaError
from polyrank.labels.kind import LabelKind, Scale
from polyrank.labels.values import said

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Quantile(LabelKind):
    """A number of which quantiles are predicted, which never cross.

    Its outputs are named by percent: `price_q10`. There is no joint output under `given`: a chance
    times a quantile is a quantile of nothing.

    Args:
        levels: of the quantiles, from the lowest to the highest, each between 0 and 1.

    Raises:
        SchemaError: no levels, or levels out of order or range.

    Examples:
        >>> import polyrank as pr
        >>> from polyrank.terms import output_columns
        >>> output_columns(pr.Task("price", kind=Quantile(levels=[0.05, 0.5])))
        ('price_q5', 'price_q50')

    Reference:
        Koenker and Bassett, Regression quantiles, Econometrica 1978.
    """

    name = "quantile"
    likelihood = "polyrank.objective.quantile:QuantileLikelihood"
    default_metric = "pinball"
    allowed = "finite numbers within float32 (±3.4e38) or null"
    loss_title = "pinball loss, standardised"
    charts = ("coverage",)
    is_average = False
    symbol = "Q[{}]"
    has_joint = False

    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        where = f"kind {self.name!r}: levels"
        if isinstance(self.levels, str) or not isinstance(self.levels, Sequence):
            raise SchemaError(f"{where} must be a list of numbers, got {self.levels!r}")
        found = tuple(spec.number(where, each, above=0, error=SchemaError) for each in self.levels)
        if not found or max(found) >= 1 or list(found) != sorted(set(found)):
            raise SchemaError(
                f"{where} must lie between 0 and 1, from the lowest to the highest, got "
                f"{list(self.levels)!r}"
            )
        object.__setattr__(self, "levels", found)

    @property
    def outputs(self) -> int:
        """The lowest quantile, and the gaps between them."""
        return len(self.levels)

    @property
    def calibrated(self) -> Scale:
        """All of them."""
        return "quantiles"

    def stems(self, task: str) -> tuple[str, ...]:
        """`price_q10` and so on."""
        return tuple(f"{task}_q{said(round(100 * each, 10))}" for each in self.levels)

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Every number that float32 holds."""
        return np.abs(values) <= _LARGEST

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return `quantiles` of the training rows, their `unit` and the `constant_loss`.

        The unit is the label's deviation, 1 of a constant one. Predictions start at the quantiles.
        """
        kept = weight > 0
        label, weight = label[kept], weight[kept]
        if not len(label):
            return {"quantiles": [0.0] * self.outputs, "unit": 1.0, "constant_loss": 0.0}
        order = np.argsort(label, kind="stable")
        reached = np.cumsum(weight[order])
        places = np.searchsorted(reached, np.array(self.levels) * reached[-1])
        found = label[order][places.clip(max=len(label) - 1)]
        mean = float(weight @ label) / reached[-1]
        unit = float(np.sqrt(weight @ (label - mean) ** 2 / reached[-1]))
        unit = unit if unit > 0 else 1.0
        gap = label[:, None] - found
        levels = np.array(self.levels)
        losses = np.maximum(levels * gap, (levels - 1) * gap).mean(1)
        constant = float(weight @ losses) / reached[-1] / unit
        return {"quantiles": found.tolist(), "unit": unit, "constant_loss": constant}
