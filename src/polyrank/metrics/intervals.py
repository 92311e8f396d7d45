"""Intervals of metrics: where they would lie on other test rows from the same source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from polyrank.metrics.bootstrap import bootstrap, clusters_of
from polyrank.metrics.inputs import checked, weighing
from polyrank.metrics.registry import METRICS, Metric

NEEDED = 50  # of each class, and of the users where users are drawn
Z = 1.96  # standard errors that hold 95 % of a normal distribution


def intervals(
    values: Mapping[str, float],
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Return the 95 % interval of each metric, and why others have none.

    An interval is the value ± 1.96 standard errors, which are the standard deviation of `bootstrap`
    replicates, on a scale without ends: logit for areas, log for losses and ratios. It covers the
    sampling of the test rows, not what another training would give: seeds show that.

    Args:
        values: each metric's value on all rows, of one kind of label; those whose `scale` the
            registry has.
        label: as the metrics take it.
        prediction: as the metrics take it.
        user: keys; users are drawn whole. None draws rows.
        weight: sample weights; None weighs every row 1.
        replicates: how many times the rows are drawn, at least 2.
        seed: of the draws.

    Returns:
        `{name: (low, high)}`, and reasons: under "interval" the one of all metrics, else under
        "auc interval" that of the AUC. There is no interval below 50 positives, negatives or
        users, nor where the value is the end of its scale.

    Raises:
        DataError: shapes differ, or a value is out of its domain.

    Example:
        >>> random = np.random.default_rng(0)
        >>> p = random.random(2_000)
        >>> clicked = random.random(2_000) < p
        >>> from polyrank.metrics.binary import auc
        >>> found, reasons = intervals({"auc": auc(clicked, p)}, clicked, p)
        >>> [round(end, 2) for end in found["auc"]], reasons
        ([0.82, 0.86], {})

    Reference:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, sections 12.6 and 13.3:
        intervals on a transformed scale.
    """
    if not values:
        return {}, {}
    known = next(metrics for metrics in METRICS.values() if metrics.keys() >= values.keys())
    binary = known is METRICS["binary"]
    few = _too_few(label, prediction, user, weight, binary=binary)
    if few is not None:
        return {}, {"interval": few}
    reasons = {name: _unfit(known[name], value) for name, value in values.items()}
    if "gauc" in values and user is not None and reasons["gauc"] is None:
        reasons["gauc"] = _too_few_mixed(label, user, weight)
    measured = [name for name, reason in reasons.items() if reason is None]
    found = {}
    if measured:
        samples = bootstrap(
            label, prediction, user, weight, measured, replicates=replicates, seed=seed
        )
        for name in measured:
            found[name], reasons[name] = interval(known[name], values[name], samples[name])
    return (
        {name: ends for name, ends in found.items() if ends is not None},
        {f"{name} interval": reason for name, reason in reasons.items() if reason is not None},
    )


@dataclass(frozen=True)
class _Scale:
    """A scale without ends, and the way back."""

    forth: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


_SCALES: Mapping[str, _Scale] = {
    "logit": _Scale(lambda x: np.log(x) - np.log1p(-x), lambda z: 1 / (1 + np.exp(-z))),
    "log": _Scale(np.log, np.exp),
    "log of the rest": _Scale(lambda x: np.log(1 - x), lambda z: 1 - np.exp(z)),
    "plain": _Scale(lambda x: x, lambda z: z),
}


def _scaled(metric: Metric, values: ArrayLike) -> np.ndarray:
    assert metric.scale is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        return _SCALES[metric.scale].forth(np.asarray(values, dtype=np.float64))


def interval(
    metric: Metric, value: float, samples: np.ndarray
) -> tuple[tuple[float, float] | None, str | None]:
    """Return low and high, or None and the reason.

    Args:
        metric: one with a scale.
        value: on all rows.
        samples: its replicates, as `bootstrap` returns them.

    Shape:
        samples (replicates,)

    Example:
        >>> ends, _ = interval(METRICS["binary"]["pcoc"], 1.0, np.array([0.5, 1.0, 2.0]))
        >>> [round(end, 2) for end in ends]
        [0.26, 3.89]
    """
    scaled = _scaled(metric, samples)
    fit = int(np.isfinite(scaled).sum())
    if fit < len(samples):
        return None, f"{len(samples) - fit} of {len(samples)} replicates are at its scale's end"
    assert metric.scale is not None
    ends = _scaled(metric, value) + Z * scaled.std(ddof=1) * np.array([-1.0, 1.0])
    low, high = sorted(_SCALES[metric.scale].back(ends).tolist())
    return (low, high), None


def _unfit(metric: Metric, value: float) -> str | None:
    if np.isfinite(_scaled(metric, value)):
        return None
    return f"{value:g} is the end of its scale"


def _too_few(
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None,
    weight: ArrayLike | None,
    *,
    binary: bool,
) -> str | None:
    y, _, _ = checked(label, prediction, weight)
    if binary:
        counts = {"positive": int((y == 1).sum()), "negative": int((y == 0).sum())}
    else:
        counts = {"row": len(y)}
    if user is not None:
        counts["user"] = len(np.unique(_users(user, weight, np.shape(label)[0])))
    for name, count in counts.items():
        if count < NEEDED:
            return f"{_counted(count, name)}; an interval takes {NEEDED}"
    return None


def _too_few_mixed(label: ArrayLike, user: ArrayLike, weight: ArrayLike | None) -> str | None:
    rows = np.shape(label)[0]
    users = _users(user, weight, rows)
    positive = np.asarray(label)[weighing(weight, rows=rows)[0]] == 1
    mixed = len(np.intersect1d(users[positive], users[~positive]))
    if mixed < NEEDED:
        return f"{_counted(mixed, 'user')} with both classes; an interval takes {NEEDED}"
    return None


def _users(user: ArrayLike, weight: ArrayLike | None, rows: int) -> np.ndarray:
    return clusters_of(user, rows)[weighing(weight, rows=rows)[0]]


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"
