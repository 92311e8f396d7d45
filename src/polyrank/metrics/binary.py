"""How well a probability ranks and how well it is calibrated: pure numpy, in float64.

Every function takes labels of 0 and 1, predictions, and optionally sample weights, each (rows,);
without weights every row weighs 1. A weight of 2 is the same as the row twice, and a weight of 0 as
no row. What the rows cannot support, such as an area of one class only, raises `Undefined` with the
reason; columns of different shapes and values out of their domain raise `DataError`. Beside each
function stands the definition that it calls: what it needs, and whether higher is better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from polyrank.metrics.areas import DrawnRanks, areas_by_group, bins_of, starts, weighted_auc
from polyrank.metrics.inputs import mean, refuse_beyond_one
from polyrank.metrics.metric import Groups, Metric, Rows, one
from polyrank.metrics.undefined import Undefined

ECE_BINS = 15
EPSILON = float(np.finfo(np.float64).eps)
KINDS = ("binary",)


def _needs_positive(rows: Rows) -> str | None:
    return None if rows.positive.any() else f"no positive among {rows.count}"


def _needs_both(rows: Rows) -> str | None:
    return _needs_positive(rows) or (
        f"no negative among {rows.count}" if rows.positive.all() else None
    )


def auc(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the probability that a positive outranks a negative; a tie counts one half.

    The prediction may be any score that rises with the probability.

    Example:
        >>> auc([0, 1, 0, 1], [0.1, 0.3, 0.3, 0.8])
        0.875

    Reference:
        Hanley and McNeil, Radiology 1982: the area is the Mann-Whitney statistic.
    """
    return AUC(label, prediction, weight)


def _area(rows: Rows) -> float:
    positive, score, w = rows.positive, rows.prediction, rows.weight
    if w is not None:
        return weighted_auc(w * positive, w * ~positive, score)
    # Two sorts of plain values and a merge: a fifth of the time of one argsort of all rows.
    above, below = np.sort(score[positive]), np.sort(score[~positive])
    beaten = np.searchsorted(below, above, side="left").sum()
    not_lost = np.searchsorted(below, above, side="right").sum()
    return float((int(beaten) + int(not_lost)) / (2 * len(above) * len(below)))


def _drawn_area(drawn: DrawnRanks) -> np.ndarray:
    gained = np.sum(drawn.gained * (drawn.below + drawn.upto), axis=1)
    return gained / (2.0 * drawn.hits[:, 0] * drawn.negatives)


AUC = Metric(
    name="auc",
    title="AUC",
    kinds=KINDS,
    higher_is_better=True,
    whole=_area,
    ranked=_drawn_area,
    needs=_needs_both,
    scale="logit",
    ranks=True,
    roles=("compared", "diagnosed", "segment table", "calibration table"),
)


def grouped_auc(
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike,
    weight: ArrayLike | None = None,
) -> float:
    """Return the mean of each user's AUC, weighted by the user's impressions.

    Users without both classes say nothing about ranking and are left out, and so are rows whose
    user is missing. With sample weights a user counts with the sum of theirs.

    Args:
        label: 0 or 1.
        prediction: any score that rises with the probability.
        user: keys of one type: integers, strings …; null and NaN are missing.
        weight: sample weights.

    Example:
        >>> grouped_auc([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.7], ["ann", "ann", "bob", "bob"])
        0.5

    Reference:
        Zhou et al., Deep Interest Network, KDD 2018: the user-weighted AUC.
    """
    return GAUC(label, prediction, weight, key=user)


def _areas_of_users(rows: Rows) -> Groups:
    users, areas, weights = areas_by_group(
        rows.positive, rows.prediction, rows.codes["user"], rows.weight
    )
    return Groups(areas, weights, users)


GAUC = Metric(
    name="gauc",
    title="grouped AUC",
    kinds=KINDS,
    higher_is_better=True,
    groups=_areas_of_users,
    key="user",
    groups_are="with both classes",
    scale="logit",
    ranks=True,
    roles=("compared",),
)


def average_precision(
    label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None
) -> float:
    """Return the mean precision at each positive's rank: the area under the step PR curve.

    The prediction may be any score that rises with the probability. A random order gives the base
    rate.

    Example:
        >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
        0.8333

    Reference:
        Davis and Goadrich, ICML 2006: precision is not interpolated linearly between ranks.
    """
    return PR_AUC(label, prediction, weight)


def _precision(rows: Rows) -> float:
    positive, score, w = rows.positive, rows.prediction, rows.weight
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


def _drawn_precision(drawn: DrawnRanks) -> np.ndarray:
    gained, hits, negatives = drawn.gained, drawn.hits, drawn.negatives
    precision = hits / (hits + (negatives[:, None] - drawn.below))
    # A replicate may hold none of a run and nothing above it.
    found = np.where(gained > 0, gained * precision, 0.0).sum(axis=1) / hits[:, 0]
    return np.where(negatives > 0, found, np.nan)


PR_AUC = Metric(
    name="pr_auc",
    title="PR-AUC",
    kinds=KINDS,
    higher_is_better=True,
    whole=_precision,
    ranked=_drawn_precision,
    needs=_needs_both,
    scale="logit",
    ranks=True,
    roles=("compared",),
)


def log_loss(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the mean negative log-likelihood in nats.

    Probabilities are clipped to [ε, 1 − ε] with the ε of float64, as scikit-learn does, so that one
    certain error does not make the mean infinite.

    Example:
        >>> round(log_loss([1, 0], [0.8, 0.2]), 6)
        0.223144
    """
    return LOG_LOSS(label, prediction, weight)


def row_losses(positive: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each row, clipped as in `log_loss`."""
    refuse_beyond_one("prediction", p)
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    return -np.log(np.where(positive, clipped, 1 - clipped))


def _loss(rows: Rows) -> np.ndarray:
    return row_losses(rows.positive, rows.prediction)


LOG_LOSS = Metric(
    name="log_loss",
    title="log loss",
    kinds=KINDS,
    higher_is_better=False,
    sums=(_loss, one),
    scale="log",
    roles=("diagnosed",),
)


def normalized_entropy(
    label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None
) -> float:
    """Return the log loss relative to always predicting the base rate of the same rows.

    Probabilities are clipped as in `log_loss`; 1 is worth as much as knowing the base rate.

    Example:
        >>> round(normalized_entropy([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]), 6)
        1.0

    Reference:
        He et al., Practical lessons from predicting clicks on ads at Facebook, ADKDD 2014, eq. 1.
    """
    return NE(label, prediction, weight)


def _positive(rows: Rows) -> np.ndarray:
    return rows.positive.astype(np.float64)


def _negative(rows: Rows) -> np.ndarray:
    return (~rows.positive).astype(np.float64)


def _over_entropy(loss: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    # Both shares are summed on their own: 1 − share would round a rare class away.
    total = positive + negative
    return loss / -(positive * np.log(positive / total) + negative * np.log(negative / total))


NE = Metric(
    name="ne",
    title="NE",
    note="log loss relative to knowing the base rate",
    kinds=KINDS,
    higher_is_better=False,
    sums=(_loss, _positive, _negative),
    value=_over_entropy,
    needs=_needs_both,
    scale="log",
    roles=("compared", "diagnosed", "segment table"),
)


def pcoc(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return predicted clicks over clicks: the mean prediction divided by the mean label.

    1 is best; above it, too many are predicted.

    Example:
        >>> pcoc([1, 0, 0, 1], [0.5, 0.25, 0.25, 0.5])
        0.75
    """
    return PCOC(label, prediction, weight)


PCOC = Metric(
    name="pcoc",
    title="PCOC",
    note="mean prediction / mean label",
    kinds=KINDS,
    higher_is_better=None,
    best=1,
    sums=(lambda rows: rows.prediction, _positive),
    needs=_needs_positive,
    scale="log",
    roles=("diagnosed", "segment table", "calibration table"),
)


def ece(label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the expected calibration error: the mean |prediction − label| of 15 bins.

    Rows are cut into bins of equal count, or weight, at quantiles of the prediction, so rows with
    one prediction share a bin and the order of the rows decides nothing.

    Example:
        >>> round(ece([0, 1, 0, 1], [0.25, 0.25, 0.75, 0.75]), 6)
        0.25

    Reference:
        Nguyen and O'Connor, EMNLP 2015: bins of equal count.
    """
    return ECE(label, prediction, weight)


def _mean_gap(rows: Rows) -> float:
    positive, p, w = rows.positive, rows.prediction, rows.weight
    refuse_beyond_one("prediction", p)
    order = np.argsort(p)
    p, positive = p[order], positive[order]
    mass = np.ones(len(p)) if w is None else w[order]
    ties, bins = bins_of(p, mass, ECE_BINS)
    gap = np.add.reduceat(mass * (p - positive), ties)
    return float(np.abs(np.bincount(bins, gap)).sum() / mass.sum())


ECE = Metric(  # a mean of absolute gaps, each of which resampling widens: it has no replicates
    name="ece",
    title="ECE",
    note=f"mean gap of {ECE_BINS} bins",
    kinds=KINDS,
    higher_is_better=False,
    whole=_mean_gap,
    roles=("diagnosed", "calibration table"),
)

METRICS = (AUC, GAUC, PR_AUC, LOG_LOSS, NE, PCOC, ECE)


def soft_auc(p_true: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the AUC expected of labels drawn with the true probabilities.

    Each row is a positive of weight p and a negative of weight 1 − p. The prediction may be any
    score that rises with the probability; the best value is `soft_auc(p_true, p_true)`, below 1.

    Example:
        >>> round(soft_auc([0.25, 0.75], [0.1, 0.9]), 6)
        0.75
    """
    rows = Rows.of(p_true, prediction, weight)
    truth, mass = rows.label, one(rows) if rows.weight is None else rows.weight
    refuse_beyond_one("p_true", truth)
    positive, negative = mass * truth, mass * (1 - truth)
    for value, sum_of in ((0, positive.sum()), (1, negative.sum())):
        if sum_of == 0:
            raise Undefined(f"the true probability is {value} in all {rows.count}")
    return weighted_auc(positive, negative, rows.prediction)
