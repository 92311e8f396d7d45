"""What the charts of a probability draw: bins and curves of at most a few hundred points.

Pure numpy, in float64. However many rows there are, no row itself is ever drawn. A row of weight 0
is no row; bins and curves weigh the others, and histograms count them.

Letters: N rows, B bins, P points. Labels, predictions and weights are (N,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from polyrank.metrics.areas import bins_of, starts
from polyrank.metrics.binary import ECE_BINS

MOST_POINTS = 300
RARE = 0.05  # below this base rate a linear axis shows one corner
Z_95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True, eq=False)
class Reliability:
    """Rows binned by their prediction, with what happened in each bin; every array (B,)."""

    prediction: np.ndarray  # mean
    observed: np.ndarray  # share of positives
    low: np.ndarray  # of the Wilson 95 % interval of `observed`
    high: np.ndarray
    rows: np.ndarray
    positives: np.ndarray  # how many of the rows have label 1
    weight: np.ndarray  # summed; `rows` where rows have no weights


@dataclass(frozen=True, eq=False)
class Agreement:
    """Rows binned by their estimate, with the true values in each bin; every array (B,)."""

    estimate: np.ndarray  # mean
    truth: np.ndarray  # mean
    low: np.ndarray  # the truth's 10 % quantile
    high: np.ndarray  # its 90 % quantile
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """Predicted and observed values of groups of rows; every array (G,)."""

    names: tuple[str, ...]
    predicted: np.ndarray  # mean
    observed: np.ndarray  # mean
    low: np.ndarray  # the observed 10 % quantile
    high: np.ndarray  # its 90 % quantile
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Histogram:
    """How predictions spread, by label."""

    edges: np.ndarray  # (B + 1,), equally far apart on the axis they are meant for
    negatives: np.ndarray  # (B,), rows with label 0
    positives: np.ndarray  # (B,)


@dataclass(frozen=True, eq=False)
class Residuals:
    """How observed values spread around predicted ones."""

    edges: np.ndarray  # (B + 1,); the first and the last bin hold all rows beyond them too
    rows: np.ndarray  # (B,)
    mean: float  # of observed − predicted, over all rows


def reliability(
    label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None, bins: int = ECE_BINS
) -> Reliability:
    """Return bins of equal count, by rising prediction: the ones whose mean gap is the ECE.

    Rows with one prediction share a bin, so there may be fewer.
    """
    y, p, w = _sorted(label, prediction, weight)
    first = _bins(p, w, bins)
    mass = np.add.reduceat(w, first)
    observed = np.add.reduceat(w * y, first) / mass
    effective = mass**2 / np.add.reduceat(w * w, first)
    low, high = wilson(observed, effective)
    return Reliability(
        prediction=np.add.reduceat(w * p, first) / mass,
        observed=observed,
        low=low,
        high=high,
        rows=np.diff(first, append=len(p)),
        positives=np.add.reduceat((y == 1).astype(np.int64), first),
        weight=mass,
    )


def agreement(
    truth: ArrayLike, estimate: ArrayLike, weight: ArrayLike | None = None, bins: int = ECE_BINS
) -> Agreement:
    """Return how true values lie in bins of equal count of the estimate."""
    true, p, w = _sorted(truth, estimate, weight)
    first = _bins(p, w, bins)
    mass = np.add.reduceat(w, first)
    low, high = np.array([np.quantile(each, (0.1, 0.9)) for each in np.split(true, first[1:])]).T
    return Agreement(
        estimate=np.add.reduceat(w * p, first) / mass,
        truth=np.add.reduceat(w * true, first) / mass,
        low=low,
        high=high,
        rows=np.diff(first, append=len(p)),
    )


def by_group(
    label: ArrayLike,
    prediction: ArrayLike,
    codes: np.ndarray,
    names: Sequence[str],
    weight: ArrayLike | None = None,
) -> GroupMeans:
    """Return the means of each group that has rows, in the order of the names."""
    y, p = np.asarray(label, np.float64), np.asarray(prediction, np.float64)
    w = np.ones(len(p)) if weight is None else np.asarray(weight, np.float64)
    mass = np.bincount(codes, w, minlength=len(names))
    kept = np.flatnonzero(mass > 0)
    predicted, observed = (np.bincount(codes, w * each, len(names))[kept] for each in (p, y))
    counted = codes[w > 0]
    spread = [np.quantile(y[(codes == code) & (w > 0)], (0.1, 0.9)) for code in kept]
    low, high = np.array(spread).reshape(-1, 2).T
    return GroupMeans(
        names=tuple(names[code] for code in kept.tolist()),
        predicted=predicted / mass[kept],
        observed=observed / mass[kept],
        low=low,
        high=high,
        rows=np.bincount(counted, minlength=len(names))[kept],
    )


@dataclass(frozen=True, eq=False)
class Coverage:
    """Shares of labels at or below predicted quantiles, in bins of the middle one; (B,), (B, L)."""

    middle: np.ndarray  # mean of the middle quantile
    shares: np.ndarray
    rows: np.ndarray


def coverage(
    label: ArrayLike, quantiles: np.ndarray, weight: ArrayLike | None = None, bins: int = 10
) -> Coverage:
    """Return how often labels lie at or below quantiles (rows, L), in bins of equal count."""
    y = np.asarray(label, np.float64)
    middle = quantiles[:, quantiles.shape[1] // 2]
    w = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    order = np.argsort(middle, kind="stable")
    first = _bins(middle[order], w[order], bins)
    below = (y[:, None] <= quantiles)[order] * w[order, None]
    mass = np.add.reduceat(w[order], first)
    return Coverage(
        middle=np.add.reduceat((w * middle)[order], first) / mass,
        shares=np.add.reduceat(below, first) / mass[:, None],
        rows=np.diff(first, append=len(y)),
    )


def confusion(place: np.ndarray, chance: np.ndarray, weight: ArrayLike | None = None) -> np.ndarray:
    """Return the mean probabilities (rows, K) of the rows of each place: (K, K), NaN without."""
    w = np.ones(len(place)) if weight is None else np.asarray(weight, np.float64)
    count = chance.shape[1]
    mass = np.bincount(place, w, minlength=count)
    sums = np.stack([np.bincount(place, w * each, minlength=count) for each in chance.T], axis=1)
    with np.errstate(invalid="ignore"):
        return sums / mass[:, None]


def roc(
    label: ArrayLike,
    prediction: ArrayLike,
    weight: ArrayLike | None = None,
    points: int = MOST_POINTS,
) -> tuple[np.ndarray, np.ndarray]:
    """Return at most so many false and true positive rates, spaced evenly along the curve."""
    hits, false = _counts(label, prediction, weight)
    x = np.concatenate([[0.0], false / false[-1]])
    y = np.concatenate([[0.0], hits / hits[-1]])
    kept = _spread(x + y, points)
    return x[kept], y[kept]


def precision_recall(
    label: ArrayLike,
    prediction: ArrayLike,
    weight: ArrayLike | None = None,
    points: int = MOST_POINTS,
) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision from the highest threshold on, spaced evenly in recall."""
    hits, false = _counts(label, prediction, weight)
    recall, precision = hits / hits[-1], hits / (hits + false)
    kept = _spread(recall, points)
    return recall[kept], precision[kept]


def histogram(
    label: ArrayLike,
    prediction: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    bins: int = 40,
    logarithmic: bool = False,
) -> Histogram:
    """Return how many rows of each label have which prediction.

    Logarithmic bins are equally wide in the logarithm, and predictions of 0 fall into the first.
    """
    y, p, _ = _sorted(label, prediction, weight)
    low, high = float(p.min()), float(p.max())
    if logarithmic:
        above = p[p > 0]
        low = float(above.min()) if len(above) else 1e-12
        high = max(high, low)
    if not high > low:  # one value: a bin around it
        edges = np.array([low * 0.9, max(high * 1.1, low * 0.9 + 1e-12)])
    elif logarithmic:
        edges = np.geomspace(low, high * (1 + 1e-9), bins + 1)
    else:
        edges = np.linspace(low, high, bins + 1)
    inside = np.clip(p, edges[0], edges[-1])
    return Histogram(edges, *(np.histogram(inside[y == each], edges)[0] for each in (0, 1)))


def residuals(
    label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None, bins: int = 40
) -> Residuals:
    """Return how many rows are off by how much; 1 % at either end share the outermost bins."""
    y, p, w = _sorted(label, prediction, weight)
    error = y - p
    low, high = np.quantile(error, (0.01, 0.99))
    if not high > low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, bins + 1)
    rows = np.histogram(np.clip(error, low, high), edges)[0]
    return Residuals(edges, rows, float(np.average(error, weights=w)))


def wilson(share: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson 95 % interval of a share of rows, or of what many equal rows are worth.

    Examples:
        >>> low, high = wilson(np.array([0.0, 0.5]), np.array([10, 10]))
        >>> low.round(4).tolist(), high.round(4).tolist()
        ([0.0, 0.2366], [0.2775, 0.7634])

    Reference:
        Wilson, Journal of the American Statistical Association 1927.
    """
    z2 = Z_95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z_95 * np.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def rare(base_rate: float) -> bool:
    """Whether probabilities of such an event are drawn on a logarithmic axis."""
    return base_rate < RARE


def _sorted(
    value: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, prediction and weight by rising prediction, without rows of weight 0."""
    y, p = np.asarray(value, np.float64), np.asarray(prediction, np.float64)
    w = np.ones(len(p)) if weight is None else np.asarray(weight, np.float64)
    kept = w > 0
    order = np.argsort(p[kept])
    return y[kept][order], p[kept][order], w[kept][order]


def _bins(p: np.ndarray, w: np.ndarray, bins: int) -> np.ndarray:
    """Return the first row of each bin that holds one, of rows sorted by prediction."""
    ties, number = bins_of(p, w, bins)
    return ties[starts(number[1:] != number[:-1])]


def _counts(
    label: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives at or above each distinct prediction."""
    y, p, w = (each[::-1] for each in _sorted(label, prediction, weight))
    ends = np.flatnonzero(np.concatenate([p[1:] != p[:-1], [True]]))
    return np.cumsum(w * y)[ends], np.cumsum(w * (1 - y))[ends]


def _spread(position: np.ndarray, points: int) -> np.ndarray:
    """Return the indices of at most so many points, evenly spaced along a rising position."""
    if len(position) <= points:
        return np.arange(len(position))
    wanted = np.linspace(position[0], position[-1], points - 1)
    found = np.searchsorted(position, wanted, side="left")
    return np.unique(np.concatenate([found, [len(position) - 1]]))
