"""Isotonic regression, as knots that a strictly increasing map goes through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.calibration.knots import Knotted
from polyrank.labels import LabelKind

# Each of 10,000 groups of validation rows is far narrower than a block of equal means, and the
# pooling, a loop of Python, then takes milliseconds whatever the number of rows.
GROUPS = 10_000
KNOTS = 256


@dataclass(frozen=True)
class Isotonic(Knotted):
    """Knots from rising logits to rising logits: linear between, and of slope 1 beyond the ends.

    Reference:
        Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability
        estimates, KDD 2002; the knots in place of its steps are ours.
    """

    name = "isotonic"
    least = 1_000  # it has as many parameters as the rows will bear

    @classmethod
    def fit(
        cls,
        prediction: np.ndarray,
        label: np.ndarray,
        weight: np.ndarray | None = None,
        kind: LabelKind | None = None,
    ) -> Isotonic | None:
        """Return the knots of the isotonic regression: each block's mean logit and its mean label.

        A step function ties rows that the model ranked; a line through the middle of its steps
        does not. At most 256 knots are kept. An end block of one label only gets the share
        (positives + ½) / (rows + 1), so that no finite log promises a probability of 0 or 1.

        Reference:
            Ayer et al., Annals of Mathematical Statistics 1955 (pool adjacent violators);
            Krichevsky and Trofimov, IEEE Transactions on Information Theory 1981 (the ½).
        """
        if not len(label) or label.min() == label.max():
            return None
        blocks = bounded(pooled(grouped(prediction, label, weight)))
        blocks, share = _ends_off_zero_and_one(blocks)
        x, y = blocks.logit, np.log(share) - np.log1p(-share)
        # Means of neighbours may round to one number; the first of such knots is kept.
        rising = np.ones(len(x), dtype=bool)
        rising[1:] = (x[1:] > x[:-1]) & (y[1:] > y[:-1])
        return Isotonic(tuple(x[rising].tolist()), tuple(y[rising].tolist()))


@dataclass(frozen=True, eq=False)
class Blocks:
    """Neighbouring rows that share a prediction, from the lowest logit: each field is (blocks,)."""

    logit: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.logit)

    def merged(self, starts: np.ndarray) -> Blocks:
        """Return longer blocks, each of which starts at one of these."""
        weight = np.add.reduceat(self.weight, starts)
        return Blocks(
            np.add.reduceat(self.weight * self.logit, starts) / weight,
            np.add.reduceat(self.weight * self.label, starts) / weight,
            weight,
            np.add.reduceat(self.rows, starts),
        )


def grouped(logit: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> Blocks:
    """Return the rows of each logit as a block; of more than 10,000, groups that part no logit."""
    order = np.argsort(logit, kind="stable")  # linear where the rows are sorted already
    logit = logit[order]
    w = np.ones(len(logit)) if weight is None else weight[order]
    starts = np.flatnonzero(np.concatenate([[True], logit[1:] != logit[:-1]]))
    if len(starts) > GROUPS:
        bins = starts * GROUPS // len(logit)
        starts = starts[np.concatenate([[True], bins[1:] != bins[:-1]])]
    rows = np.ones(len(logit), dtype=np.int64)
    return Blocks(logit, label[order].astype(np.float64), w, rows).merged(starts)


def pooled(groups: Blocks) -> Blocks:
    """Return the blocks of the isotonic regression of label on logit: their labels rise."""
    starts: list[int] = []
    means: list[float] = []
    weights: list[float] = []
    for index, (mean, weight) in enumerate(
        zip(groups.label.tolist(), groups.weight.tolist(), strict=True)
    ):
        start = index
        while means and means[-1] >= mean:
            other = weights.pop()
            mean = (means.pop() * other + mean * weight) / (other + weight)
            weight += other
            start = starts.pop()
        starts.append(start)
        means.append(mean)
        weights.append(weight)
    return groups.merged(np.array(starts))


def bounded(blocks: Blocks) -> Blocks:
    """Return at most 256 blocks: neighbours are merged."""
    if len(blocks) <= KNOTS:
        return blocks
    return blocks.merged(np.unique(np.arange(KNOTS) * len(blocks) // KNOTS))


def _ends_off_zero_and_one(blocks: Blocks) -> tuple[Blocks, np.ndarray]:
    """Return blocks and their shares; an end whose smoothed share breaks the order is merged."""
    share = _smoothed(blocks)
    while len(blocks) > 1 and not share[0] < share[1]:
        blocks = blocks.merged(np.array([0, *range(2, len(blocks))]))
        share = _smoothed(blocks)
    while len(blocks) > 1 and not share[-2] < share[-1]:
        blocks = blocks.merged(np.arange(len(blocks) - 1))
        share = _smoothed(blocks)
    return blocks, share


def _smoothed(blocks: Blocks) -> np.ndarray:
    pure = (blocks.label <= 0) | (blocks.label >= 1)
    return np.where(pure, (blocks.rows * blocks.label + 0.5) / (blocks.rows + 1), blocks.label)
