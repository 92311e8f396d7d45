"""How well a probability ranks and how well it is calibrated: pure numpy, in float64.

Every function takes labels of 0 and 1, predictions, and optionally sample weights. A weight of 2 is
the same as the row twice, and a weight of 0 as no row. What the rows cannot support raises
`Undefined` with the reason.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from polyrank.metrics.areas import areas_by_group, starts, weighted_auc
from polyrank.metrics.inputs import (
    checked,
    checked_binary,
    counted,
    mean,
    refuse_beyond_one,
    user_codes,
    weighing,
)
from polyrank.metrics.undefined import Undefined

ECE_BINS = 15
EPSILON = float(np.finfo(np.float64).eps)


def auc(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the probability that a positive outranks a negative; a tie counts one half.

    Args:
        label: 0 or 1.
        prediction: any score that rises with the probability.
        weight: sample weights; None weighs every row 1.

    Returns:
        The area under the ROC curve, within 0 and 1; higher is better.

    Raises:
        Undefined: one class only, or no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> auc([0, 1, 0, 1], [0.1, 0.3, 0.3, 0.8])
        0.875

    Reference:
        Hanley and McNeil, Radiology 1982: the area is the Mann-Whitney statistic.
    """
    positive, score, w = checked_binary(label, prediction, weight)
    _need_both(positive)
    if w is not None:
        return weighted_auc(w * positive, w * ~positive, score)
    # Two sorts of plain values and a merge: a fifth of the time of one argsort of all rows.
    above, below = np.sort(score[positive]), np.sort(score[~positive])
    beaten = np.searchsorted(below, above, side="left").sum()
    not_lost = np.searchsorted(below, above, side="right").sum()
    return float((int(beaten) + int(not_lost)) / (2 * len(above) * len(below)))


def grouped_auc(
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike,
    weight: ArrayLike | None = None,
) -> float:
    """Return the mean of each user's AUC, weighted by the user's impressions.

    Users without both classes say nothing about ranking and are left out, and so are rows whose
    user is missing.

    Args:
        label: 0 or 1.
        prediction: any score that rises with the probability.
        user: keys of one type: integers, strings …; null and NaN are missing.
        weight: sample weights; a user counts with the sum of theirs.

    Returns:
        The grouped AUC, within 0 and 1; higher is better.

    Raises:
        Undefined: no user with both classes, or no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        label (rows,), prediction (rows,), user (rows,), weight (rows,)

    Example:
        >>> grouped_auc([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.7], ["ann", "ann", "bob", "bob"])
        0.5

    Reference:
        Zhou et al., Deep Interest Network, KDD 2018: the user-weighted AUC.
    """
    positive, score, w = checked_binary(label, prediction, weight)
    rows = np.shape(label)[0]
    codes = user_codes(user, rows=rows)[weighing(weight, rows=rows)[0]]
    _, areas, masses = areas_by_group(positive, score, codes, w)
    if not len(areas):
        raise Undefined(f"no user with both classes among {counted(len(positive))}")
    return mean(areas, masses)


def soft_auc(p_true: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the AUC expected of labels drawn with the true probabilities.

    Each row is a positive of weight p and a negative of weight 1 − p.

    Args:
        p_true: the true probability of each row.
        prediction: any score that rises with the probability.
        weight: sample weights; None weighs every row 1.

    Returns:
        The area, within 0 and 1; the best possible value is `soft_auc(p_true, p_true)`, below 1.

    Raises:
        Undefined: every true probability is 0, or every one is 1, or no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        p_true (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> round(soft_auc([0.25, 0.75], [0.1, 0.9]), 6)
        0.75
    """
    truth, score, w = checked(p_true, prediction, weight)
    refuse_beyond_one("p_true", truth)
    mass = np.ones(len(truth)) if w is None else w
    positive, negative = mass * truth, mass * (1 - truth)
    for value, sum_of in ((0, positive.sum()), (1, negative.sum())):
        if sum_of == 0:
            raise Undefined(f"the true probability is {value} in all {counted(len(truth))}")
    return weighted_auc(positive, negative, score)


def average_precision(
    label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None
) -> float:
    """Return the mean precision at each positive's rank: the area under the step PR curve.

    Args:
        label: 0 or 1.
        prediction: any score that rises with the probability.
        weight: sample weights; None weighs every row 1.

    Returns:
        The average precision, above 0 and up to 1; a random order gives the base rate.

    Raises:
        Undefined: one class only, or no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
        0.8333

    Reference:
        Davis and Goadrich, ICML 2006: precision is not interpolated linearly between ranks.
    """
    positive, score, w = checked_binary(label, prediction, weight)
    _need_both(positive)
    if w is None:
        above, below = np.sort(score[positive]), np.sort(score[~positive])
        hits = len(above) - np.searchsorted(above, above, side="left")
        false = len(below) - np.searchsorted(below, above, side="left")
        return float(np.mean(hits / (hits + false)))
    order = np.argsort(-score)
    score = score[order]
    ties = np.flatnonzero(starts(score[1:] != score[:-1]))
    gained = np.add.reduceat((w * positive)[order], ties)
    hits = np.cumsum(gained)
    false = np.cumsum(np.add.reduceat((w * ~positive)[order], ties))
    return mean(hits / (hits + false), gained)


def log_loss(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the mean negative log-likelihood in nats.

    Args:
        label: 0 or 1.
        prediction: probabilities, clipped to [ε, 1 − ε] with the ε of float64, as scikit-learn
            does, so that one certain error does not make the mean infinite.
        weight: sample weights; None weighs every row 1.

    Returns:
        The log loss, from 0; lower is better.

    Raises:
        Undefined: no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> round(log_loss([1, 0], [0.8, 0.2]), 6)
        0.223144
    """
    positive, p, w = checked_binary(label, prediction, weight)
    return mean(row_losses(positive, p), w)


def normalized_entropy(
    label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None
) -> float:
    """Return the log loss relative to always predicting the base rate of the same rows.

    Args:
        label: 0 or 1.
        prediction: probabilities, clipped as in `log_loss`.
        weight: sample weights; None weighs every row 1.

    Returns:
        The normalised entropy: 1 is worth as much as knowing the base rate; lower is better.

    Raises:
        Undefined: one class only, or no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> round(normalized_entropy([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]), 6)
        1.0

    Reference:
        He et al., Practical lessons from predicting clicks on ads at Facebook, ADKDD 2014, eq. 1.
    """
    positive, p, w = checked_binary(label, prediction, weight)
    _need_both(positive)
    # Both shares are summed on their own: 1 − share would round a rare class away.
    shares = np.array([mean(positive, w), mean(~positive, w)])
    entropy = -float(np.dot(shares, np.log(shares)))
    return mean(row_losses(positive, p), w) / entropy


def pcoc(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return predicted clicks over clicks: the mean prediction divided by the mean label.

    Args:
        label: 0 or 1.
        prediction: probabilities.
        weight: sample weights; None weighs every row 1.

    Returns:
        The ratio; 1 is best, above 1 is too many predicted.

    Raises:
        Undefined: no positive, or no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> pcoc([1, 0, 0, 1], [0.5, 0.25, 0.25, 0.5])
        0.75
    """
    positive, p, w = checked_binary(label, prediction, weight)
    if not positive.any():
        raise Undefined(f"no positive among {counted(len(positive))}")
    return mean(p, w) / mean(positive, w)


def ece(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the expected calibration error over 15 bins of equal count.

    Rows are cut at quantiles of the prediction, so rows with one prediction share a bin and the
    order of the rows decides nothing; with weights the bins hold equal weight.

    Args:
        label: 0 or 1.
        prediction: probabilities.
        weight: sample weights; None weighs every row 1.

    Returns:
        The mean over bins, by their weight, of |mean prediction − mean label|; lower is better.

    Raises:
        Undefined: no rows.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        label (rows,), prediction (rows,), weight (rows,)

    Example:
        >>> round(ece([0, 1, 0, 1], [0.25, 0.25, 0.75, 0.75]), 6)
        0.25

    Reference:
        Nguyen and O'Connor, EMNLP 2015: bins of equal count.
    """
    positive, p, w = checked_binary(label, prediction, weight)
    refuse_beyond_one("prediction", p)
    order = np.argsort(p)
    p, positive = p[order], positive[order]
    mass = np.ones(len(p)) if w is None else w[order]
    ties = np.flatnonzero(starts(p[1:] != p[:-1]))
    share = np.add.reduceat(mass, ties) / mass.sum()
    before = np.cumsum(share) - share
    # A share that is a multiple of 1/15 up to rounding starts its bin, whatever the order in which
    # equal weights were added.
    bins = np.floor(ECE_BINS * before + 1e-9).astype(np.int64)
    gap = np.add.reduceat(mass * (p - positive), ties)
    return float(np.abs(np.bincount(bins, gap)).sum() / mass.sum())


def row_losses(positive: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each row; probabilities are clipped as in `log_loss`.

    Raises:
        DataError: a prediction that is no probability.
    """
    refuse_beyond_one("prediction", p)
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    return -np.log(np.where(positive, clipped, 1 - clipped))


def _need_both(positive: np.ndarray) -> None:
    for name, missing in (("positive", not positive.any()), ("negative", positive.all())):
        if missing:
            raise Undefined(f"no {name} among {counted(len(positive))}")
