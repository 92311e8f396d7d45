"""Isotonic regression of a mean: counts, money, and other numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank import spec
from polyrank.calibration.isotonic import Blocks, bounded, grouped, pooled
from polyrank.calibration.knots import Knotted
from polyrank.labels import LabelKind


@dataclass(frozen=True)
class IsotonicMean(Knotted):
    """Knots from predicted means to observed ones: linear between.

    Of an amount the line starts at (0, 0), so that nothing becomes negative, and goes on with the
    last knot's ratio of observed to predicted; of any number it goes on with slope 1.

    Args:
        above: the slope above the last knot.

    Reference:
        Ayer et al., Annals of Mathematical Statistics 1955. Its blocks minimise every loss whose
        minimiser is the mean: Barlow and Brunk, JASA 1972, section 3.
    """

    above: float = 1.0

    name = "isotonic_mean"
    scales = ("amount", "number")
    least = 1_000  # it has as many parameters as the rows will bear

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.number("above", self.above, above=0)  # which keeps the order

    @property
    def slope_above(self) -> float:
        """The last knot's ratio, or 1."""
        return self.above

    @classmethod
    def fit(
        cls, prediction: np.ndarray, label: np.ndarray, weight: np.ndarray | None, kind: LabelKind
    ) -> IsotonicMean | None:
        """Return the knots of the isotonic regression: each block's mean prediction and label.

        At most 256 knots are kept. A block of an amount whose labels are all 0 joins the next: no
        finite log promises that nothing will come. None where all labels are equal.
        """
        if not len(label) or label.min() == label.max():
            return None
        blocks = bounded(pooled(grouped(prediction, label, weight)))
        is_amount = kind.calibrated == "amount"
        if is_amount and blocks.label[0] <= 0:
            blocks = blocks.merged(np.array([0, *range(2, len(blocks))]))
        while not (rising := _rising(blocks)).all():  # means of neighbours may round to one number
            blocks = blocks.merged(np.flatnonzero(rising))
        x, y = blocks.logit, blocks.label
        if not is_amount:
            return cls(tuple(x.tolist()), tuple(y.tolist()))
        above = float(y[-1] / x[-1]) if x[-1] > 0 else 1.0
        if x[0] > 0:
            x, y = np.append(0.0, x), np.append(0.0, y)
        return cls(tuple(x.tolist()), tuple(y.tolist()), above)


def _rising(blocks: Blocks) -> np.ndarray:
    """Return which blocks are above the one before, in both means; the first one is."""
    both = (np.diff(blocks.logit) > 0) & (np.diff(blocks.label) > 0)
    return np.append(True, both)
