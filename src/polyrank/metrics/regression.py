"""How far predicted values lie from observed ones, in the label's own unit: pure numpy, float64.

Every function takes labels, predictions, and optionally sample weights, each (rows,); without
weights every row weighs 1. A weight of 2 is the same as the row twice, and a weight of 0 as no row.
What the rows cannot support raises `Undefined` with the reason; columns of different shapes and
values that are not finite raise `DataError`. Beside each function stands the definition that it
calls: what it needs, and whether higher is better.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import ArrayLike

from polyrank.metrics.metric import Metric, Rows, one

KINDS = ("regression",)


def rmse(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the root of the mean squared error.

    Example:
        >>> rmse([1.0, 2.0], [1.0, 4.0], weight=[3.0, 1.0])
        1.0
    """
    return RMSE(label, prediction, weight)


def _squared_error(rows: Rows) -> np.ndarray:
    return (rows.prediction - rows.label) ** 2


RMSE = Metric(
    name="rmse",
    title="RMSE",
    note="in the label's own unit",
    kinds=KINDS,
    higher_is_better=False,
    sums=(_squared_error, one),
    value=lambda square, rows: np.sqrt(square / rows),
    scale="log",
    roles=("compared",),
)


def mae(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the mean absolute error.

    Example:
        >>> mae([1.0, 2.0], [0.0, 5.0])
        2.0
    """
    return MAE(label, prediction, weight)


MAE = Metric(
    name="mae",
    title="MAE",
    note="likewise",
    kinds=KINDS,
    higher_is_better=False,
    sums=(lambda rows: np.abs(rows.prediction - rows.label), one),
    scale="log",
)


def r2(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the share of the label's variance that the prediction explains, 1 at most.

    0 is worth as much as the mean of these labels, and below 0 is worse than it.

    Example:
        >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
        0.5
    """
    return R2(label, prediction, weight)


def _label(rows: Rows) -> np.ndarray:
    return rows.label


def _centred(rows: Rows) -> np.ndarray:
    # About the mean of all rows, so that the square of a far mean costs no digits.
    return rows.label - rows.total(_label) / rows.total(one)


def _centred_square(rows: Rows) -> np.ndarray:
    return _centred(rows) ** 2


def _needs_variance(rows: Rows) -> str | None:
    y = rows.label
    # Compared exactly: the variance of equal labels is only nearly 0 in floating point.
    if (y == y[0]).all():
        return f"zero variance: the label is {y[0]:g} in all {rows.count}"
    spread, error = rows.total(_centred_square), rows.total(_squared_error)
    with np.errstate(over="ignore"):
        if spread > 0 and isfinite(error / spread):
            return None
    return "zero variance: the labels differ by too little for float64"


def _explained(
    square: np.ndarray, centred: np.ndarray, centred_square: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    return 1 - square / (centred_square - centred**2 / rows)


R2 = Metric(
    name="r2",
    title="R²",
    note="1 at most",
    kinds=KINDS,
    higher_is_better=True,
    sums=(_squared_error, _centred, _centred_square, one),
    value=_explained,
    needs=_needs_variance,
    scale="log of the rest",
)


def bias(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the mean prediction minus the mean label: above 0, too much is predicted.

    Example:
        >>> bias([1.0, 2.0], [2.0, 2.0])
        0.5
    """
    return BIAS(label, prediction, weight)


BIAS = Metric(
    name="bias",
    title="bias",
    note="mean prediction − mean label",
    kinds=KINDS,
    higher_is_better=None,
    best=0,
    sums=(lambda rows: rows.prediction - rows.label, one),
    scale="plain",
)

METRICS = (RMSE, MAE, R2, BIAS)
