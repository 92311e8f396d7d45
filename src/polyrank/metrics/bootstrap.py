"""What a metric would have been on other test rows: a Poisson bootstrap, one sort for all of it.

A replicate gives each cluster, a user or a row, a Poisson(1) count that multiplies the weights of
its rows. Most metrics are ratios of sums over rows; their sums are taken once a cluster, and one
matrix product gives all replicates. AUC and PR-AUC take a pass over rows that were sorted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, factorial

import numpy as np
from numpy.typing import ArrayLike

from polyrank.errors import ConfigError, did_you_mean
from polyrank.metrics.areas import areas_by_group, starts
from polyrank.metrics.binary import row_losses
from polyrank.metrics.inputs import checked, checked_binary, user_codes, weighing
from polyrank.metrics.registry import METRICS

BLOCK = 1 << 22  # rows times replicates in memory at a time
SLICE = 1 << 14  # clusters that are multiplied at a time


def bootstrap(
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    metrics: Sequence[str] = ("auc",),
    *,
    replicates: int = 200,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return each metric's value on resampled test rows.

    The draws depend on the seed, the number of rows and which of them share a user, never on the
    prediction: of two models that scored the same rows, the differences of their replicates are
    the replicates of their difference.

    Args:
        label: as the metrics take it.
        prediction: as the metrics take it.
        user: keys; users are drawn whole, and a row whose user is missing on its own. None draws
            rows.
        weight: sample weights; None weighs every row 1.
        metrics: names, of one kind of label. `ece` is not among them: it is a mean of absolute
            gaps, each of which resampling widens, so its replicates lie above its value.
        replicates: how many.
        seed: of the draws.

    Returns:
        By name, values that equal the metric with each row's weight times its count; NaN for a
        replicate that does not support the metric.

    Raises:
        Undefined: no rows.
        ConfigError: a metric that has no replicates, or `gauc` without users.
        DataError: shapes differ, or a value is out of its domain.

    Shape:
        (rows,) each -> (replicates,) each

    Example:
        >>> random = np.random.default_rng(0)
        >>> p = random.random(2_000)
        >>> clicked = random.random(2_000) < p
        >>> found = bootstrap(clicked, p, metrics=["auc", "pcoc"])
        >>> found["auc"].shape, round(float(found["auc"].std()), 3)
        ((200,), 0.008)

    Reference:
        Chamandy et al., Estimating uncertainty for massive data streams, Google 2012: counts that
        are Poisson(1) and independent in place of the multinomial's.
    """
    _check(metrics, user)
    rows = _rows(label, prediction, user, weight, binary=metrics[0] in METRICS["binary"])
    ratios = {name: RATIOS[name] for name in metrics if name in RATIOS}
    needed = list(dict.fromkeys(part for ratio in ratios.values() for part in ratio.parts))
    sums = np.column_stack([PARTS[part](rows) for part in needed]) if needed else None
    ranks = _Ranks.of(rows) if not RANKED.isdisjoint(metrics) else None
    totals, areas = [], []
    step = max(1, BLOCK // max(rows.clusters, len(rows.label)))
    for counts in draws(rows.clusters, replicates, seed, step):
        if sums is not None:
            totals.append(_product(counts, sums))
        if ranks is not None:
            areas.append(ranks.areas(counts))
    found = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        if sums is not None:
            by_part = dict(zip(needed, np.concatenate(totals).T, strict=True))
            for name, ratio in ratios.items():
                found[name] = ratio.value(*(by_part[part] for part in ratio.parts))
    if ranks is not None:
        found["auc"], found["pr_auc"] = np.concatenate(areas, axis=1)
    return {name: np.where(np.isfinite(found[name]), found[name], np.nan) for name in metrics}


def draws(clusters: int, replicates: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """Yield the Poisson(1) counts of all replicates, `step` at a time, which decides no draw.

    Shape:
        uint8 (up to step, clusters) each time

    Example:
        >>> [counts.shape for counts in draws(10, 3, seed=0, step=2)]
        [(2, 10), (1, 10)]
    """
    words = -(-clusters // 4)  # of 64 bits, for four draws each
    generator = np.random.SFC64(seed)
    for first in range(0, replicates, step):
        some = min(step, replicates - first)
        random = generator.random_raw(some * words).astype("<u8", copy=False).view("<u2")
        yield QUANTILES[random.reshape(some, 4 * words)[:, :clusters]]


def clusters_of(user: ArrayLike | None, rows: int) -> np.ndarray:
    """Return each row's cluster: its user, numbered as they first appear, or the row itself.

    Example:
        >>> clusters_of(["bob", "ann", None, "bob"], 4).tolist()
        [0, 1, 2, 0]
    """
    number = np.arange(rows)
    if user is None or not rows:
        return number
    codes = user_codes(user, rows=rows)
    first = np.empty(int(codes.max()) + 1, dtype=np.int64)
    first[codes[::-1]] = number[::-1]  # of the rows of one code, the last to be written stays
    leader = first[codes]
    return (np.cumsum(leader == number) - 1)[leader]


def _poisson_quantiles() -> np.ndarray:
    """Return the count of each 16-bit word."""
    probabilities = np.array([exp(-1) / factorial(count) for count in range(12)])
    middles = (np.arange(1 << 16) + 0.5) / (1 << 16)
    return np.searchsorted(np.cumsum(probabilities), middles).astype(np.uint8)


QUANTILES = _poisson_quantiles()


@dataclass(frozen=True, eq=False)
class _Rows:
    """Checked rows of weight above 0, and how many clusters there are with the others."""

    label: np.ndarray
    prediction: np.ndarray
    weight: np.ndarray | None
    cluster: np.ndarray
    clusters: int

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted sum of each cluster."""
        weighted = values if self.weight is None else values * self.weight
        return np.bincount(self.cluster, weighted, minlength=self.clusters)

    @cached_property
    def grouped(self) -> tuple[np.ndarray, np.ndarray]:
        """The weight of each user with both classes, and its AUC times that; 0 for the others."""
        users, areas, masses = areas_by_group(
            self.label, self.prediction, self.cluster, self.weight
        )
        area, mass = np.zeros(self.clusters), np.zeros(self.clusters)
        area[users], mass[users] = areas * masses, masses
        return mass, area


def _check(metrics: Sequence[str], user: ArrayLike | None) -> None:
    known = [*RANKED, *RATIOS]
    for name in metrics:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"bootstrap: no replicates of a metric {name!r}{hint}")
    kinds = {kind for kind, names in METRICS.items() for name in metrics if name in names}
    if len(kinds) != 1:
        raise ConfigError(f"bootstrap: metrics of one kind of label, however: {list(metrics)}")
    if "gauc" in metrics and user is None:
        raise ConfigError("bootstrap: 'gauc' needs the users")


def _rows(
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None,
    weight: ArrayLike | None,
    *,
    binary: bool,
) -> _Rows:
    y, p, w = (checked_binary if binary else checked)(label, prediction, weight)
    rows = np.shape(label)[0]
    cluster = clusters_of(user, rows)
    kept = weighing(weight, rows=rows)[0]
    return _Rows(y, p, w, cluster[kept], int(cluster.max()) + 1)


def _product(counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return the sums of each replicate, without the counts as float64 all at once."""
    total = np.zeros((len(counts), sums.shape[1]))
    for first in range(0, len(sums), SLICE):
        some = slice(first, first + SLICE)
        total += counts[:, some].astype(np.float64) @ sums[some]
    return total


@dataclass(frozen=True, eq=False)
class _Ranks:
    """Positives and negatives sorted by score, and where each positive stands.

    Args:
        positives: the cluster of each positive, by score.
        negatives: the cluster of each negative, by score.
        runs: the first positive of each run of equal scores.
        below: how many negatives score less than the run.
        upto: how many negatives score no more than the run.
        positive_weight: of each positive, or None.
        negative_weight: of each negative, or None.
    """

    positives: np.ndarray
    negatives: np.ndarray
    runs: np.ndarray
    below: np.ndarray
    upto: np.ndarray
    positive_weight: np.ndarray | None
    negative_weight: np.ndarray | None

    @classmethod
    def of(cls, rows: _Rows) -> _Ranks:
        above, under = np.flatnonzero(rows.label), np.flatnonzero(~rows.label)
        above = above[np.argsort(rows.prediction[above])]
        under = under[np.argsort(rows.prediction[under])]
        score, negative = rows.prediction[above], rows.prediction[under]
        runs = np.flatnonzero(starts(score[1:] != score[:-1])) if len(score) else above
        w = rows.weight
        return cls(
            rows.cluster[above],
            rows.cluster[under],
            runs,
            np.searchsorted(negative, score[runs], side="left"),
            np.searchsorted(negative, score[runs], side="right"),
            None if w is None else w[above],
            None if w is None else w[under],
        )

    def areas(self, counts: np.ndarray) -> np.ndarray:
        """Return AUC and average precision of each replicate: (2, replicates)."""
        if not len(self.runs) or not len(self.negatives):
            return np.full((2, len(counts)), np.nan)
        below, upto, negatives = self._false(counts)
        positive = _weighed(counts, self.positives, self.positive_weight)
        gained = np.add.reduceat(positive, self.runs, axis=1, dtype=below.dtype)
        hits = np.cumsum(gained[:, ::-1], axis=1)[:, ::-1]
        positives = hits[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            auc = np.sum(gained * (below + upto), axis=1) / (2.0 * positives * negatives)
            precision = hits / (hits + (negatives[:, None] - below))
            # A replicate may hold none of a run and nothing above it.
            found = np.where(gained > 0, gained * precision, 0.0).sum(axis=1) / positives
        return np.stack([auc, np.where(negatives > 0, found, np.nan)])

    def _false(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the negatives' weight below each run, up to each run, and in all."""
        negative = _weighed(counts, self.negatives, self.negative_weight)
        # Integers, where there are no weights, keep the ranks exact.
        kind = np.int64 if self.negative_weight is None else np.float64
        running = np.zeros((len(counts), negative.shape[1] + 1), dtype=kind)
        np.cumsum(negative, axis=1, out=running[:, 1:])
        return running[:, self.below], running[:, self.upto], running[:, -1]


def _weighed(counts: np.ndarray, cluster: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    taken = np.take(counts, cluster, axis=1)
    return taken if weight is None else taken * weight


@dataclass(frozen=True)
class _Ratio:
    """A metric that is a function of sums over rows."""

    parts: tuple[str, ...]
    value: Callable[..., np.ndarray]


def _centred(rows: _Rows) -> np.ndarray:
    return rows.label - rows.label.mean()  # so that the square of a far mean costs no digits


def _entropy_ratio(loss: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    total = positive + negative
    return loss / -(positive * np.log(positive / total) + negative * np.log(negative / total))


def _explained(
    square: np.ndarray, centred: np.ndarray, centred_square: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    return 1 - square / (centred_square - centred**2 / rows)


PARTS: Mapping[str, Callable[[_Rows], np.ndarray]] = {
    "rows": lambda rows: rows.summed(np.ones(len(rows.label))),
    "loss": lambda rows: rows.summed(row_losses(rows.label, rows.prediction)),
    "positive": lambda rows: rows.summed(rows.label.astype(np.float64)),
    "negative": lambda rows: rows.summed((~rows.label).astype(np.float64)),
    "prediction": lambda rows: rows.summed(rows.prediction),
    "area": lambda rows: rows.grouped[1],
    "grouped": lambda rows: rows.grouped[0],
    "square": lambda rows: rows.summed((rows.prediction - rows.label) ** 2),
    "absolute": lambda rows: rows.summed(np.abs(rows.prediction - rows.label)),
    "error": lambda rows: rows.summed(rows.prediction - rows.label),
    "centred": lambda rows: rows.summed(_centred(rows)),
    "centred square": lambda rows: rows.summed(_centred(rows) ** 2),
}
RANKED = frozenset({"auc", "pr_auc"})
RATIOS: Mapping[str, _Ratio] = {
    "gauc": _Ratio(("area", "grouped"), np.divide),
    "log_loss": _Ratio(("loss", "rows"), np.divide),
    "ne": _Ratio(("loss", "positive", "negative"), _entropy_ratio),
    "pcoc": _Ratio(("prediction", "positive"), np.divide),
    "rmse": _Ratio(("square", "rows"), lambda square, rows: np.sqrt(square / rows)),
    "mae": _Ratio(("absolute", "rows"), np.divide),
    "r2": _Ratio(("square", "centred", "centred square", "rows"), _explained),
    "bias": _Ratio(("error", "rows"), np.divide),
}
