"""How good several outputs of one head are: quantiles, and probabilities of categories.

Each takes all outputs of the head, (N, outputs), and its kind of label beside label and weight; see
`polyrank.metrics.regression` for the rest. Pure numpy, float64.

Letters: N rows, K categories.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from polyrank.errors import DataError
from polyrank.labels.categorical import Categorical
from polyrank.labels.quantile import Quantile
from polyrank.metrics.inputs import refuse_beyond_one
from polyrank.metrics.metric import Metric, Rows, one

_QUANTILES, _CATEGORIES = ("quantile",), ("categorical",)
_SMALLEST = float(np.finfo(np.float64).tiny)


def _quantiles(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted quantiles (N, levels) and their levels (levels,)."""
    if not isinstance(rows.kind, Quantile):
        raise DataError("a metric of quantiles needs their kind of label, `kind=Quantile(…)`")
    found = rows.prediction[:, None] if rows.outputs is None else rows.outputs
    return found, np.array(rows.kind.levels)


def _pinball(rows: Rows) -> np.ndarray:
    found, levels = _quantiles(rows)
    gap = rows.label[:, None] - found
    return np.maximum(levels * gap, (levels - 1) * gap).mean(1)


@partial(
    Metric,
    title="pinball loss",
    note="mean over levels, in the label's own unit",
    kinds=_QUANTILES,
    higher_is_better=False,
    sums=(_pinball, one),
    scale="log",
    roles=("compared", "calibration table"),
)
def pinball(losses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean of max(a·(y − q), (a − 1)·(y − q)) over the levels a, in the label's unit.

    Examples:
        >>> kind = Quantile(levels=[0.25, 0.75])
        >>> pinball([2.0], [1.0], outputs=[[1.0, 3.0]], kind=kind)
        0.25

    Reference:
        Koenker and Bassett, Econometrica 1978.
    """
    return losses / rows


def _inside(rows: Rows) -> np.ndarray:
    found, levels = _quantiles(rows)
    below_top = rows.label <= found[:, -1]
    if len(levels) == 1:
        return below_top - levels[0]
    return (below_top & (rows.label > found[:, 0])) - (levels[-1] - levels[0])


@partial(
    Metric,
    title="coverage gap",
    note="share between the outer quantiles − what they promise",
    kinds=_QUANTILES,
    higher_is_better=None,
    best=0,
    sums=(_inside, one),
    scale="plain",
    roles=("calibration table",),
)
def coverage_gap(inside: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the share of labels between the lowest and the highest quantile, less the promised.

    Of a single level it is the share at or below it, less the level. Above 0 is too wide.

    Examples:
        >>> kind = Quantile(levels=[0.25, 0.75])
        >>> coverage_gap([2.0, 9.0], [1.0, 1.0], outputs=[[1.0, 3.0], [1.0, 3.0]], kind=kind)
        0.0
    """
    return inside / rows


def _places(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (N, K) and the place of each label (N,)."""
    if not isinstance(rows.kind, Categorical) or rows.outputs is None:
        raise DataError("a metric of categories needs `kind=Categorical(…)` and all outputs")
    refuse_beyond_one("prediction", rows.outputs.reshape(-1))
    return rows.outputs, rows.kind.places(rows.label)


def _own(rows: Rows) -> np.ndarray:
    found, place = _places(rows)
    return np.take_along_axis(found, place[:, None], axis=1)[:, 0]


@partial(
    Metric,
    title="log loss",
    note="nats",
    kinds=_CATEGORIES,
    higher_is_better=False,
    sums=(lambda rows: -np.log(np.maximum(_own(rows), _SMALLEST)), one),
    scale="log",
    roles=("compared",),
)
def cross_entropy(losses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean of −log p of the category that it was.

    Examples:
        >>> kind = Categorical(values=[1, 2])
        >>> round(cross_entropy([1, 2], [0, 0], outputs=[[0.5, 0.5], [0.5, 0.5]], kind=kind), 4)
        0.6931
    """
    return losses / rows


def top_accuracy(k: int) -> Metric:
    """Return top-k accuracy: how often the category is among the k most likely ones.

    Of categories that tie for the last place, each counts with its share of it.

    Examples:
        >>> kind = Categorical(values=[1, 2])
        >>> top_accuracy(1)([1, 2], [0, 0], outputs=[[0.9, 0.1], [0.5, 0.5]], kind=kind)
        0.75
    """

    def found(rows: Rows) -> np.ndarray:
        chance, own = _places(rows)[0], _own(rows)[:, None]
        above, tied = (chance > own).sum(1), (chance == own).sum(1)
        return np.clip((k - above) / tied, 0, 1)

    return Metric(
        lambda hits, rows: hits / rows, name=f"accuracy@{k}", title=f"top-{k} accuracy",
        kinds=_CATEGORIES, higher_is_better=True, sums=(found, one), scale="logit",
    )  # fmt: skip


def _present(rows: Rows) -> list[int]:
    place = _places(rows)[1]
    found = np.unique(place)
    return [] if len(found) < 2 else found.tolist()


def _needs_two(rows: Rows) -> str | None:
    return None if _present(rows) else f"one category in all {rows.count}"


def _areas(rows: Rows) -> np.ndarray:
    """Return the macro AUC plus each row's influence on it, whose weighted mean is the metric."""
    chance, place = _places(rows)
    w = np.ones(len(place)) if rows.weight is None else rows.weight
    present, total, found = _present(rows), w.sum(), np.zeros(len(place))
    for category in present:
        score, yes = chance[:, category], place == category
        order = np.argsort(score, kind="stable")
        run = np.cumsum(np.append(True, score[order][1:] != score[order][:-1])) - 1
        placed = np.empty(len(place))
        # Of each row the share of the other class that it stands above, ties halfway.
        for mine, others in ((yes, ~yes), (~yes, yes)):
            held = np.bincount(run, (w * others)[order])
            share = np.empty(len(place))
            share[order] = ((np.cumsum(held) - held / 2) / held.sum())[run]
            placed = np.where(mine, share, placed)
        above = np.where(yes, placed, 1 - placed)
        area = float(np.average(above[yes], weights=w[yes]))
        own = np.where(yes, w @ yes, w @ ~yes)
        found += area + (above - area) * total / own
    return found / len(present)


@partial(
    Metric,
    title="macro AUC",
    note="mean over categories, one against the rest",
    kinds=_CATEGORIES,
    higher_is_better=True,
    sums=(_areas, one),
    needs=_needs_two,
    scale="logit",
)
def macro_auc(total: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean AUC of each category's probability, of the categories that occur.

    Examples:
        >>> kind = Categorical(values=[1, 2])
        >>> macro_auc([1, 2], [0, 0], outputs=[[0.9, 0.1], [0.2, 0.8]], kind=kind)
        1.0

    Reference:
        Hand and Till, Machine Learning 2001, section 2 (one against the rest).
    """
    return total / rows


METRICS = (pinball, coverage_gap, cross_entropy, top_accuracy(1), top_accuracy(3), macro_auc)
