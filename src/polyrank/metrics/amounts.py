"""How good predicted means of counts and of money are: pure numpy, float64.

See `polyrank.metrics.regression` for what the functions take and raise. The two that rank look at
the order of the predictions alone.

Letters: N rows.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from polyrank.metrics.areas import by_group_and_score, starts
from polyrank.metrics.inputs import refuse_values
from polyrank.metrics.metric import Groups, Metric, Rows, one

_SMALLEST = float(np.finfo(np.float64).tiny)
_COUNTS, _MONEY = ("count",), ("lognormal",)


def _label(rows: Rows) -> np.ndarray:
    return rows.label


def _prediction(rows: Rows) -> np.ndarray:
    return rows.prediction


def _deviance(rows: Rows) -> np.ndarray:
    y, mean = rows.label, rows.prediction
    refuse_values("a predicted count is 0 or above", mean, lambda p: p < 0)
    # A mean of 0 is sure of none: what is observed then costs as much as float64 can tell.
    logs = np.log(np.where(y > 0, y, 1)) - np.log(np.maximum(mean, _SMALLEST))
    return 2 * (np.where(y > 0, y * logs, 0) - (y - mean))


def _needs_counts(rows: Rows) -> str | None:
    refuse_values("counts are 0 or above", rows.label, lambda y: y < 0)
    return None


@partial(
    Metric,
    title="deviance",
    note="of Poisson, mean",
    kinds=_COUNTS,
    higher_is_better=False,
    sums=(_deviance, one),
    needs=_needs_counts,
    scale="log",
    roles=("compared", "calibration table"),
)
def deviance(total: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean of 2·(y·log(y/μ) − (y − μ)): 0 where every count is its prediction.

    It judges the mean μ alone; a negative binomial's is judged by the same.

    Examples:
        >>> round(deviance([0.0, 2.0], [1.0, 1.0]), 4)
        1.3863

    Reference:
        McCullagh and Nelder, Generalized linear models, 1989, section 2.3.
    """
    return total / rows


def _needs_amounts(rows: Rows) -> str | None:
    return None if rows.total(_label) > 0 else f"the labels of {rows.count} add up to 0"


@partial(
    Metric,
    title="mean ratio",
    note="mean prediction ÷ mean label",
    kinds=(*_COUNTS, *_MONEY),
    higher_is_better=None,
    best=1,
    sums=(_prediction, _label),
    needs=_needs_amounts,
    scale="log",
    roles=("calibration table",),
)
def mean_ratio(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the predicted total ÷ the observed one; above 1 is too much predicted.

    Examples:
        >>> mean_ratio([1.0, 3.0], [2.0, 4.0])
        1.5
    """
    return predicted / observed


def _below_less_above(by: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Return the mass of the rows below each row less that of those above, by a number.

    Rows that tie stand halfway.
    """
    order = np.argsort(-by, kind="stable")
    run = np.cumsum(starts(by[order][1:] != by[order][:-1])) - 1
    held = np.bincount(run, mass[order])
    found = np.empty(len(order))
    found[order] = (held.sum() - 2 * (np.cumsum(held) - held) - held)[run]
    return found


def _needs_gini(rows: Rows) -> str | None:
    refuse_values("amounts are 0 or above", rows.label, lambda y: y < 0)
    if (rows.label == rows.label[0]).all():
        return f"the label is {rows.label[0]:g} in all {rows.count}"
    return None


def _gini(rows: Rows) -> np.ndarray:
    """Return the metric plus each row's influence on it, whose weighted mean is the metric.

    The area is Σ w·y·r, with r the share of rows below each row less that above. A row adds its
    own label at its place, and moves all others by one place.
    """
    y = rows.label
    w = np.ones(len(y)) if rows.weight is None else rows.weight
    areas, derivatives = [], []
    for by in (rows.prediction, y):
        place = _below_less_above(by, w) / w.sum()
        areas.append(float(w @ (y * place)))
        derivatives.append(y * place - _below_less_above(by, w * y) / w.sum())
    value = areas[0] / areas[1]
    each = (derivatives[0] - value * derivatives[1]) / areas[1] * w.sum()
    return value + each - (w @ each) / w.sum()


@partial(
    Metric,
    title="Gini",
    note="normalised, 1 at most",
    kinds=_MONEY,
    higher_is_better=True,
    sums=(_gini, one),
    needs=_needs_gini,
    scale="log of the rest",
    ranks=True,
    roles=("compared",),
)
def gini(total: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the normalised Gini coefficient: how early an order finds the money.

    The area between the diagonal and the curve of the money found by the first rows, ÷ that of the
    best order: 1 is the best order, 0 chance. Rows that tie stand halfway.

    Examples:
        >>> gini([0.0, 10.0, 0.0], [1.0, 3.0, 2.0])
        1.0

    Reference:
        Wang, Liu, Miao, 2019, section 4.2.
    """
    return total / rows


def _needs_value(rows: Rows) -> str | None:
    refuse_values("gains are 0 or above", rows.label, lambda y: y < 0)
    hit = ((rows.label > 0) & (rows.codes["request"] >= 0)).any()
    return None if hit else f"no request with a label above 0 among {rows.count}"


def graded_ndcg_at(k: int) -> Metric:
    """Return NDCG@k of graded gains: the label itself is the gain of a place.

    The mean over requests that have any gain; rows that tie in score share their places. See
    `polyrank.metrics.ranking.ndcg_at`.

    Examples:
        >>> round(graded_ndcg_at(10)([3, 0, 1], [0.1, 0.2, 0.3], key=[7, 7, 7]), 4)
        0.6885

    Reference:
        Järvelin and Kekäläinen, TOIS 2002; ties as in McSherry and Najork, ECIR 2008.
    """

    def gains(rows: Rows) -> Groups:
        codes = rows.codes["request"]
        used = codes >= 0
        gain = np.bincount(codes[used], rows.label[used])
        used &= gain[codes.clip(0)] > 0
        y, score, codes = rows.label[used], rows.prediction[used], codes[used]
        own = _discounted(y, score, codes, k) / _discounted(y, y, codes, k)
        code = np.unique(codes)
        weight = None
        if rows.weight is not None:
            _, run = np.unique(codes, return_inverse=True)
            weight = np.bincount(run, rows.weight[used]) / np.bincount(run)
        return Groups(code, own, weight)

    return Metric(
        gains, name=f"value_ndcg@{k}", title=f"NDCG@{k} by value",
        kinds=("lognormal", "count", "ordinal"), higher_is_better=True, key="request",
        needs=_needs_value, ranks=True, groups_are="with a label above 0", scale="logit",
    )  # fmt: skip


def _discounted(gain: np.ndarray, score: np.ndarray, codes: np.ndarray, k: int) -> np.ndarray:
    """Return the discounted gain of the first k places of each code, in the order of the codes."""
    order, codes = by_group_and_score(codes, -score)
    gain, score = gain[order], score[order]
    new_code = starts(codes[1:] != codes[:-1])
    runs = np.flatnonzero(new_code | starts(score[1:] != score[:-1]))
    first = np.flatnonzero(new_code)
    owner = (np.cumsum(new_code) - 1)[runs]
    length = np.diff(np.append(runs, len(codes)))
    place = runs - first[owner]
    summed = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    share = summed[np.minimum(place + length, k)] - summed[np.minimum(place, k)]
    held = np.add.reduceat(gain, runs) * share / length
    return np.bincount(owner, held, minlength=len(first))


METRICS = (deviance, mean_ratio, gini, graded_ndcg_at(10))
