"""How far predicted values lie from observed ones, in the label's own unit: pure numpy, float64.

Each formula is a `Metric`, which takes labels, predictions, and optionally sample weights, all
(rows,): without weights every row weighs 1; a weight of 2 is the same as the row twice, and a
weight of 0 as no row. What the rows cannot support raises `Undefined` with the reason; columns of
different shapes and values that are not finite raise `DataError`.
"""

from __future__ import annotations

from functools import partial
from math import isfinite

import numpy as np

from polyrank.metrics.metric import Metric, Rows, one

ValueMetric = partial(Metric, kinds=("regression",))


def _squared_error(rows: Rows) -> np.ndarray:
    return (rows.prediction - rows.label) ** 2


@partial(
    ValueMetric,
    title="RMSE",
    note="in the label's own unit",
    higher_is_better=False,
    sums=(_squared_error, one),
    scale="log",
    roles=("compared", "calibration table"),
)
def rmse(squares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the root of the mean squared error.

    Examples:
        >>> rmse([1.0, 2.0], [1.0, 4.0], weight=[3.0, 1.0])
        1.0
    """
    return np.sqrt(squares / rows)


@partial(
    ValueMetric,
    title="MAE",
    note="likewise",
    higher_is_better=False,
    sums=(lambda rows: np.abs(rows.prediction - rows.label), one),
    scale="log",
)
def mae(errors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean absolute error.

    Examples:
        >>> mae([1.0, 2.0], [0.0, 5.0])
        2.0
    """
    return errors / rows


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


@partial(
    ValueMetric,
    title="R²",
    note="1 at most",
    higher_is_better=True,
    sums=(_squared_error, _centred, _centred_square, one),
    needs=_needs_variance,
    scale="log of the rest",
)
def r2(
    squares: np.ndarray, centred: np.ndarray, centred_squares: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the share of the label's variance that the prediction explains.

    0 is worth as much as the mean of these labels, and below 0 is worse than it. Undefined where
    every label is the same.

    Examples:
        >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
        0.5
    """
    return 1 - squares / (centred_squares - centred**2 / rows)


@partial(
    ValueMetric,
    title="bias",
    note="mean prediction − mean label",
    higher_is_better=None,
    best=0,
    sums=(lambda rows: rows.prediction - rows.label, one),
    scale="plain",
)
def bias(errors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean prediction minus the mean label; above 0 is too much predicted.

    Examples:
        >>> bias([1.0, 2.0], [2.0, 2.0])
        0.5
    """
    return errors / rows


METRICS = (rmse, mae, r2, bias)
