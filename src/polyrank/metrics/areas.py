"""Rows sorted by score, where equal scores are one run: what the areas under curves are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


def weighted_auc(positive: np.ndarray, negative: np.ndarray, score: np.ndarray) -> float:
    """Return the AUC of rows that each have a weight as a positive and one as a negative."""
    order = np.argsort(score)
    score = score[order]
    ties = np.flatnonzero(starts(score[1:] != score[:-1]))
    return float(_areas(positive[order], negative[order], ties, np.zeros(1, dtype=np.int64))[0])


def areas_by_group(
    positive: np.ndarray, score: np.ndarray, codes: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the code, the AUC and the summed weight of each group with both classes.

    Codes are equal where the groups are; below 0 is of no group. Weights are above 0.
    """
    kept = _in_mixed_group(positive, codes)
    if not kept.all():
        positive, score, codes = positive[kept], score[kept], codes[kept]
        weight = None if weight is None else weight[kept]
    if not len(codes):
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
    order, codes = by_group_and_score(codes, score)
    positive, score = positive[order], score[order]
    mass = np.ones(len(order)) if weight is None else weight[order]
    new_group = starts(codes[1:] != codes[:-1])
    ties = np.flatnonzero(new_group | starts(score[1:] != score[:-1]))
    groups = np.flatnonzero(new_group)
    areas = _areas(mass * positive, mass * ~positive, ties, np.searchsorted(ties, groups))
    return codes[groups], areas, np.add.reduceat(mass, groups)


def by_group_and_score(codes: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows' order by group, then score, and the codes in that order.

    The group and the rank of the score are packed into one integer, because numpy sorts plain
    integers seven times as fast as it argsorts them.
    """
    by_score = np.argsort(score)
    bits = np.int64(len(score).bit_length())
    packed = (codes[by_score] << bits) | np.arange(len(score))
    packed.sort()
    rank = packed & ((np.int64(1) << bits) - 1)
    return by_score[rank], packed >> bits


def starts(changed: np.ndarray) -> np.ndarray:
    """Return which rows differ from the row before; the first does."""
    return np.concatenate([[True], changed])


def bins_of(score: np.ndarray, mass: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each run of equal scores, and which bin of equal mass it falls in.

    The rows are sorted by score. A share of the mass that is a multiple of 1/bins up to rounding
    starts its bin, whatever the order in which equal weights were added.
    """
    ties = np.flatnonzero(starts(score[1:] != score[:-1]))
    share = np.add.reduceat(mass, ties) / mass.sum()
    before = np.cumsum(share) - share
    return ties, np.floor(bins * before + 1e-9).astype(np.int64)


def _in_mixed_group(positive: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return which rows are of a group with both classes."""
    if codes.min() < 0:
        codes = np.where(codes < 0, codes.max() + 1 + np.arange(len(codes)), codes)
    positives = np.bincount(codes[positive], minlength=int(codes.max()) + 1)
    mixed = (positives > 0) & (positives < np.bincount(codes))
    return mixed[codes]


def _areas(
    positive: np.ndarray, negative: np.ndarray, ties: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return the AUC of each group of rows sorted by group, then score.

    `ties` is the first row of each run of rows with one group and one score, `groups` the first run
    of each group.
    """
    lengths = np.diff(groups, append=len(ties))
    p, n = np.add.reduceat(positive, ties), np.add.reduceat(negative, ties)
    # Shares of the group, so that a heavy group costs its neighbours no digits in the running sum.
    p /= np.repeat(np.add.reduceat(p, groups), lengths)
    n /= np.repeat(np.add.reduceat(n, groups), lengths)
    below = np.cumsum(n) - n
    below -= np.repeat(below[groups], lengths)
    return np.clip(np.add.reduceat(p * (below + n / 2), groups), 0.0, 1.0)


class DrawnRanks(NamedTuple):
    """Replicates of ranked rows, by runs of positives with one score, the lowest first: weights.

    Shape:
        negatives (replicates,), the others (replicates, runs)
    """

    gained: np.ndarray  # of the run's positives
    hits: np.ndarray  # of the positives that score at least as much
    below: np.ndarray  # of the negatives that score less
    upto: np.ndarray  # of the negatives that score no more
    negatives: np.ndarray  # of all negatives


@dataclass(frozen=True, eq=False)
class Ranks:
    """Positives and negatives sorted by score once, and where each positive stands."""

    positives: np.ndarray  # the cluster of each, by score
    negatives: np.ndarray  # likewise
    runs: np.ndarray  # the first positive of each run of equal scores
    below: np.ndarray  # how many negatives score less than the run
    upto: np.ndarray  # how many score no more
    positive_weight: np.ndarray | None
    negative_weight: np.ndarray | None

    @classmethod
    def of(
        cls,
        positive: np.ndarray,
        score: np.ndarray,
        weight: np.ndarray | None,
        cluster: np.ndarray,
    ) -> Ranks:
        """Sort rows, among which are both positives and negatives."""
        above, under = np.flatnonzero(positive), np.flatnonzero(~positive)
        above = above[np.argsort(score[above])]
        under = under[np.argsort(score[under])]
        ranked, negative = score[above], score[under]
        runs = np.flatnonzero(starts(ranked[1:] != ranked[:-1]))
        below, upto = (np.searchsorted(negative, ranked[runs], side=s) for s in ("left", "right"))
        weights = (None, None) if weight is None else (weight[above], weight[under])
        return cls(cluster[above], cluster[under], runs, below, upto, *weights)

    def drawn(self, counts: np.ndarray) -> DrawnRanks:
        """Return the weights of each replicate, by the counts (replicates, clusters)."""
        negative = _weighed(counts, self.negatives, self.negative_weight)
        # Integers, where there are no weights, keep the ranks exact.
        kind = np.int64 if self.negative_weight is None else np.float64
        running = np.zeros((len(counts), negative.shape[1] + 1), dtype=kind)
        np.cumsum(negative, axis=1, out=running[:, 1:])
        positive = _weighed(counts, self.positives, self.positive_weight)
        gained = np.add.reduceat(positive, self.runs, axis=1, dtype=kind)
        return DrawnRanks(
            gained,
            np.cumsum(gained[:, ::-1], axis=1)[:, ::-1],
            running[:, self.below],
            running[:, self.upto],
            running[:, -1],
        )


def _weighed(counts: np.ndarray, cluster: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    taken = np.take(counts, cluster, axis=1)
    return taken if weight is None else taken * weight
