"""How well a probability ranks and how well it is calibrated: pure numpy, in float64.

Each formula is a `Metric`, which takes labels of 0 and 1, predictions, and optionally sample
weights, all (rows,): without weights every row weighs 1; a weight of 2 is the same as the row
twice, and a weight of 0 as no row. What the rows cannot support raises `Undefined` with the reason;
columns of different shapes and values out of their domain raise `DataError`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from polyrank.metrics.areas import DrawnRanks, areas_by_group, bins_of, starts, weighted_auc
from polyrank.metrics.inputs import mean, refuse_beyond_one
from polyrank.metrics.metric import Groups, Metric, Rows, one
from polyrank.metrics.undefined import Undefined

ECE_BINS = 15
EPSILON = float(np.finfo(np.float64).eps)
BinaryMetric = partial(Metric, kinds=("binary",))


def _needs_positive(rows: Rows) -> str | None:
    return None if rows.positive.any() else f"no positive among {rows.count}"


def _needs_both(rows: Rows) -> str | None:
    missing = f"no negative among {rows.count}" if rows.positive.all() else None
    return _needs_positive(rows) or missing


def _positive(rows: Rows) -> np.ndarray:
    return rows.positive.astype(np.float64)


def _negative(rows: Rows) -> np.ndarray:
    return (~rows.positive).astype(np.float64)


def _loss(rows: Rows) -> np.ndarray:
    refuse_beyond_one("prediction", rows.prediction)
    p = np.clip(rows.prediction, EPSILON, 1 - EPSILON)
    return -np.log(np.where(rows.positive, p, 1 - p))


def _drawn_area(drawn: DrawnRanks) -> np.ndarray:
    gained = np.sum(drawn.gained * (drawn.below + drawn.upto), axis=1)
    return gained / (2.0 * drawn.hits[:, 0] * drawn.negatives)


@partial(
    BinaryMetric,
    title="AUC",
    higher_is_better=True,
    needs=_needs_both,
    ranked=_drawn_area,
    scale="logit",
    ranks=True,
    roles=("compared", "diagnosed", "segment table", "calibration table"),
)
def auc(rows: Rows) -> float:
    """Return the probability that a positive outranks a negative; a tie counts one half.

    It is the area under the ROC curve. The prediction may be any score that rises with the
    probability. Undefined with one class only.

    Examples:
        >>> auc([0, 1, 0, 1], [0.1, 0.3, 0.3, 0.8])
        0.875

    Reference:
        Hanley and McNeil, Radiology 1982: the area is the Mann-Whitney statistic.
    """
    positive, score, w = rows.positive, rows.prediction, rows.weight
    if w is not None:
        return weighted_auc(w * positive, w * ~positive, score)
    # Two sorts of plain values and a merge: a fifth of the time of one argsort of all rows.
    above, below = np.sort(score[positive]), np.sort(score[~positive])
    beaten = np.searchsorted(below, above, side="left").sum()
    not_lost = np.searchsorted(below, above, side="right").sum()
    return (int(beaten) + int(not_lost)) / (2 * len(above) * len(below))


@partial(
    BinaryMetric,
    title="grouped AUC",
    higher_is_better=True,
    key="user",
    groups_are="with both classes",
    scale="logit",
    ranks=True,
    roles=("compared",),
)
def gauc(rows: Rows) -> Groups:
    """Return the mean of each user's AUC, weighted by the user's impressions.

    Users without both classes say nothing about ranking and are left out, and so are rows whose
    user is missing. With sample weights a user counts with the sum of theirs. Undefined where no
    user has both classes.

    Examples:
        >>> gauc([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.7], key=["ann", "ann", "bob", "bob"])
        0.5

    Reference:
        Zhou et al., Deep Interest Network, KDD 2018: the user-weighted AUC.
    """
    return Groups(*areas_by_group(rows.positive, rows.prediction, rows.codes["user"], rows.weight))


def _drawn_precision(drawn: DrawnRanks) -> np.ndarray:
    gained, hits, negatives = drawn.gained, drawn.hits, drawn.negatives
    precision = hits / (hits + (negatives[:, None] - drawn.below))
    # A replicate may hold none of a run and nothing above it.
    found = np.where(gained > 0, gained * precision, 0.0).sum(axis=1) / hits[:, 0]
    return np.where(negatives > 0, found, np.nan)


@partial(
    BinaryMetric,
    title="PR-AUC",
    higher_is_better=True,
    needs=_needs_both,
    ranked=_drawn_precision,
    scale="logit",
    ranks=True,
    roles=("compared",),
)
def pr_auc(rows: Rows) -> float:
    """Return the mean precision at each positive's rank: the area under the step PR curve.

    Also called average precision. The prediction may be any score that rises with the probability;
    a random order gives the base rate. Undefined with one class only.

    Examples:
        >>> round(pr_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
        0.8333

    Reference:
        Davis and Goadrich, ICML 2006: precision is not interpolated linearly between ranks.
    """
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


@partial(
    BinaryMetric,
    title="log loss",
    higher_is_better=False,
    sums=(_loss, one),
    scale="log",
    roles=("diagnosed",),
)
def log_loss(losses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean negative log-likelihood in nats.

    Probabilities are clipped to [ε, 1 − ε] with the ε of float64, as scikit-learn does, so that one
    certain error does not make the mean infinite.

    Examples:
        >>> round(log_loss([1, 0], [0.8, 0.2]), 6)
        0.223144
    """
    return losses / rows


@partial(
    BinaryMetric,
    title="NE",
    note="log loss relative to knowing the base rate",
    higher_is_better=False,
    sums=(_loss, _positive, _negative),
    needs=_needs_both,
    scale="log",
    roles=("compared", "diagnosed", "segment table"),
)
def ne(losses: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the normalised entropy: log loss relative to predicting the rows' base rate.

    1 is worth as much as knowing the base rate. Undefined with one class only.

    Examples:
        >>> round(ne([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]), 6)
        1.0

    Reference:
        He et al., Practical lessons from predicting clicks on ads at Facebook, ADKDD 2014, eq. 1.
    """
    # Both shares are summed on their own: 1 − share would round a rare class away.
    rows = positives + negatives
    return losses / -(positives * np.log(positives / rows) + negatives * np.log(negatives / rows))


@partial(
    BinaryMetric,
    title="PCOC",
    note="mean prediction / mean label",
    higher_is_better=None,
    best=1,
    sums=(lambda rows: rows.prediction, _positive),
    needs=_needs_positive,
    scale="log",
    roles=("diagnosed", "segment table", "calibration table"),
)
def pcoc(predicted: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return predicted clicks over clicks: the mean prediction divided by the mean label.

    Above 1 is too many predicted. Undefined without a positive.

    Examples:
        >>> pcoc([1, 0, 0, 1], [0.5, 0.25, 0.25, 0.5])
        0.75
    """
    return predicted / positives


@partial(  # without replicates: resampling widens each of the absolute gaps that it is the mean of
    BinaryMetric,
    title="ECE",
    note=f"mean gap of {ECE_BINS} bins",
    higher_is_better=False,
    roles=("diagnosed", "calibration table"),
)
def ece(rows: Rows) -> float:
    """Return the expected calibration error over 15 bins of equal count.

    It is the mean over bins, by their weight, of |mean prediction − mean label|. Rows are cut at
    quantiles of the prediction, so rows with one prediction share a bin and the order of the rows
    decides nothing; with weights the bins hold equal weight.

    Examples:
        >>> round(ece([0, 1, 0, 1], [0.25, 0.25, 0.75, 0.75]), 6)
        0.25

    Reference:
        Nguyen and O'Connor, EMNLP 2015: bins of equal count.
    """
    positive, p, w = rows.positive, rows.prediction, rows.weight
    refuse_beyond_one("prediction", p)
    order = np.argsort(p)
    p, positive = p[order], positive[order]
    mass = np.ones(len(p)) if w is None else w[order]
    ties, bins = bins_of(p, mass, ECE_BINS)
    gap = np.add.reduceat(mass * (p - positive), ties)
    return np.abs(np.bincount(bins, gap)).sum() / mass.sum()


METRICS = (auc, gauc, pr_auc, log_loss, ne, pcoc, ece)


def soft_auc(p_true: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the AUC expected of labels drawn with the true probabilities.

    Each row is a positive of weight p and a negative of weight 1 − p. The prediction may be any
    score that rises with the probability. The best possible value is `soft_auc(p_true, p_true)`,
    below 1. Undefined where every true probability is 0, or every one is 1.
    """
    rows = Rows.of(p_true, prediction, weight)
    truth, mass = rows.label, one(rows) if rows.weight is None else rows.weight
    refuse_beyond_one("p_true", truth)
    positive, negative = mass * truth, mass * (1 - truth)
    for value, sum_of in ((0, positive.sum()), (1, negative.sum())):
        if sum_of == 0:
            raise Undefined(f"the true probability is {value} in all {rows.count}")
    return weighted_auc(positive, negative, rows.prediction)
