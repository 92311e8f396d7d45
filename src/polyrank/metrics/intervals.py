"""Intervals of metrics: where they would lie on other test rows from the same source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from polyrank.labels.binary import sigmoid
from polyrank.metrics.bootstrap import bootstrap, clusters_of
from polyrank.metrics.metric import Metric, Rows
from polyrank.metrics.registry import METRICS
from polyrank.text import counted

NEEDED = 50  # of each class, and of the users where users are drawn
Z = 1.96  # standard errors that hold 95 % of a normal distribution
_Map = Callable[[np.ndarray], np.ndarray]


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
        values: each metric's value on all rows; metrics that have a scale.
        label: as the metrics take it.
        prediction: as the metrics take it.
        user: keys; users are drawn whole. None draws rows.
        weight: sample weights.
        replicates: how many times the rows are drawn, at least 2.
        seed: of the draws.

    Returns:
        `{name: (low, high)}`, and reasons: under "interval" the one of all metrics, else under
        "auc interval" that of the AUC. There is no interval below 50 positives, negatives or
        users, nor where the value is the end of its scale.

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
    known = [METRICS[name] for name in values]
    few, reasons = too_few(known, label, prediction, user, weight)
    if few is not None:
        return {}, {"interval": few}
    for each in known:
        if not np.isfinite(_scaled(each, values[each.name])):
            reasons[each.name] = f"{values[each.name]:g} is the end of its scale"
    measured = [name for name in values if name not in reasons]
    found = {}
    if measured:
        samples = bootstrap(
            label, prediction, user, weight, measured, replicates=replicates, seed=seed
        )
        for name in measured:
            ends, reason = interval(METRICS[name], values[name], samples[name])
            if ends is None:
                reasons[name] = str(reason)
            else:
                found[name] = ends
    return found, {f"{name} interval": reasons[name] for name in values if name in reasons}


def interval(
    metric: Metric, value: float, samples: np.ndarray
) -> tuple[tuple[float, float] | None, str | None]:
    """Return low and high, or None and the reason, by a value and its replicates.

    Example:
        >>> ends, _ = interval(METRICS["pcoc"], 1.0, np.array([0.5, 1.0, 2.0]))
        >>> [round(end, 2) for end in ends]
        [0.26, 3.89]
    """
    scaled = _scaled(metric, samples)
    fit = int(np.isfinite(scaled).sum())
    if fit < len(samples):
        return None, f"{len(samples) - fit} of {len(samples)} replicates are at its scale's end"
    assert metric.scale is not None
    ends = _scaled(metric, value) + Z * scaled.std(ddof=1) * np.array([-1.0, 1.0])
    low, high = sorted(_SCALES[metric.scale][1](ends).tolist())
    return (low, high), None


def too_few(
    metrics: Sequence[Metric],
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None,
    weight: ArrayLike | None,
) -> tuple[str | None, dict[str, str]]:
    """Return why these rows are too few for any interval, or None, and why for some metrics."""
    rows = Rows.of(label, prediction, weight, {"user": clusters_of(user, len(np.asarray(label)))})
    if any(each.of_events for each in metrics):
        counts = {"positive": (rows.label == 1).sum(), "negative": (rows.label == 0).sum()}
    else:
        counts = {"row": len(rows.label)}
    if user is not None:
        counts["user"] = len(np.unique(rows.codes["user"]))
    for name, count in counts.items():
        if count < NEEDED:
            return f"{counted(count, name)}; an interval takes {NEEDED}", {}
    reasons = {}
    for each in metrics:
        if each.groups is not None and (count := len(each.groups(rows).value)) < NEEDED:
            who = f"{counted(count, str(each.key))} {each.groups_are}"
            reasons[each.name] = f"{who}; an interval takes {NEEDED}"
    return None, reasons


# To each scale, and the way back.
_SCALES: Mapping[str, tuple[_Map, _Map]] = {
    "logit": (lambda x: np.log(x) - np.log1p(-x), sigmoid),
    "log": (np.log, np.exp),
    "log of the rest": (lambda x: np.log(1 - x), lambda z: 1 - np.exp(z)),
    "plain": (lambda x: x, lambda z: z),
}


def _scaled(metric: Metric, values: ArrayLike) -> np.ndarray:
    assert metric.scale is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        return _SCALES[metric.scale][0](np.asarray(values, dtype=np.float64))
