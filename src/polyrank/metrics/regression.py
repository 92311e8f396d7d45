"""How far predicted values lie from observed ones, in the label's own unit: pure numpy, float64.

Every function takes labels, predictions, and optionally sample weights. A weight of 2 is the same
as the row twice, and a weight of 0 as no row.
"""

from __future__ import annotations

from math import isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike

from polyrank.metrics.inputs import checked, counted, mean
from polyrank.metrics.undefined import Undefined


def rmse(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the root of the mean squared error.

    Args:
        label: observed values.
        prediction: predicted values, in the same unit.
        weight: sample weights; None weighs every row 1.

    Returns:
        The error in the label's unit, from 0; lower is better.

    Raises:
        Undefined: no rows.
        DataError: shapes differ, or a value is not finite.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> rmse([1.0, 2.0], [1.0, 4.0], weight=[3.0, 1.0])
        1.0
    """
    y, p, w = checked(label, prediction, weight)
    return sqrt(mean((p - y) ** 2, w))


def mae(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the mean absolute error.

    Args:
        label: observed values.
        prediction: predicted values, in the same unit.
        weight: sample weights; None weighs every row 1.

    Returns:
        The error in the label's unit, from 0; lower is better.

    Raises:
        Undefined: no rows.
        DataError: shapes differ, or a value is not finite.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> mae([1.0, 2.0], [0.0, 5.0])
        2.0
    """
    y, p, w = checked(label, prediction, weight)
    return mean(np.abs(p - y), w)


def r2(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the share of the label's variance that the prediction explains.

    Args:
        label: observed values.
        prediction: predicted values, in the same unit.
        weight: sample weights; None weighs every row 1.

    Returns:
        The coefficient of determination, up to 1; 0 is worth as much as the mean of these labels,
        and below 0 is worse than it.

    Raises:
        Undefined: every label is the same, or no rows.
        DataError: shapes differ, or a value is not finite.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
        0.5
    """
    y, p, w = checked(label, prediction, weight)
    # Compared exactly: the variance of equal labels is only nearly 0 in floating point.
    if (y == y[0]).all():
        raise Undefined(f"zero variance: the label is {y[0]:g} in all {counted(len(y))}")
    variance = mean((y - mean(y, w)) ** 2, w)
    unexplained = mean((p - y) ** 2, w) / variance if variance else float("inf")
    if not isfinite(unexplained):
        raise Undefined("zero variance: the labels differ by too little for float64")
    return 1 - unexplained


def bias(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the mean prediction minus the mean label.

    Args:
        label: observed values.
        prediction: predicted values, in the same unit.
        weight: sample weights; None weighs every row 1.

    Returns:
        The bias in the label's unit; 0 is best, above 0 is too much predicted.

    Raises:
        Undefined: no rows.
        DataError: shapes differ, or a value is not finite.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> bias([1.0, 2.0], [2.0, 2.0])
        0.5
    """
    y, p, w = checked(label, prediction, weight)
    return mean(p - y, w)
