"""The prior of a number's bins, whose effects lie near a curve: neighbours are alike.

The effects of a field's rows in order are a line, a smooth curve and deviations of their own,

    w = a + b·z + f(z) + e
    a ~ N(0, 10)   b ~ N(0, l)   f ~ GP(0, s·exp(−(z − z')² ÷ 2))   e ~ N(0, v)

where z is the normal score of a row's place among the training rows, so that the scale of the
number does not matter. The variances l, s and v, each with a prior of density 1 ÷ (1 + 20·l)², are
those of the largest evidence on a grid.

Letters: R rows of a field, Q tables.

Reference:
    Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, eq. 2.25, 2.26 and 5.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log1p
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

FREE = 10.0  # variance of what nothing pulls at: the mean, and row 0, which has no place
SLOPES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # tried of l
STRAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # tried of s and of v
START = (1.0, 1e-2, 1e-3)  # of l, s and v, each chosen while the other two stand still
ROUNDS = 2
USUAL = 0.05  # scale of their prior, without which a head of few labels would find any slope
LEAST_OWN = 1e-5  # of v, so that a row of very many look-ups can stray from the curve
MOST_ROWS = 1024  # of a field: time grows with the cube


class Settled(NamedTuple):
    """What a pass makes of the rows of one field and one head.

    Args:
        effect: the posterior's mean in each table: (R, Q).
        centre: what the next pass is to pull the rows to, with the precision `level`, so that the
            pull at the posterior is the gradient of its own prior: (R, Q).
        level: 1 ÷ the mean variance of the ordered rows about their mean, before any row is seen.
        precision: of the posterior of the last table: (R,).
        said: the effects by the rows' own labels in the last table, without any prior: (R,).
    """

    effect: np.ndarray
    centre: np.ndarray
    level: float
    precision: np.ndarray
    said: np.ndarray


class Curve(NamedTuple):
    """Covariances of a field's rows, each (R, R).

    Args:
        free: of a; and of row 0.
        line: of b·z for l = 1.
        smooth: of f for s = 1.
        own: of e for v = 1.
    """

    free: np.ndarray
    line: np.ndarray
    smooth: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, count: np.ndarray) -> Curve:
        """Return the covariances of rows that training looks up as often as `count` says: (R,).

        Row 0 is of missing values; the others are in order.

        Examples:
            >>> Curve.of(np.array([3.0, 10.0, 10.0])).line.round(2).tolist()
            [[0.0, 0.0, 0.0], [0.0, 0.45, -0.45], [0.0, -0.45, 0.45]]
        """
        z = normal_scores(count[1:])
        free, line, smooth, own = (np.zeros((len(count), len(count))) for _ in cls._fields)
        free[0, 0] = free[1:, 1:] = FREE
        line[1:, 1:] = np.outer(z, z)
        smooth[1:, 1:] = np.exp(-(np.subtract.outer(z, z) ** 2) / 2)
        own[1:, 1:] = np.eye(len(z))
        return cls(free, line, smooth, own)

    def with_variances(self, line: float, smooth: float, own: float) -> np.ndarray:
        """Return the covariance of the effects: (R, R)."""
        return self.free + line * self.line + smooth * self.smooth + max(own, LEAST_OWN) * self.own

    def variances(self, said: np.ndarray, curvature: np.ndarray) -> tuple[float, float, float]:
        """Return l, s and v.

        Args:
            said: the effects by the rows' own labels, without any prior: (R,).
            curvature: their precision: (R,); 0 of a row that tells nothing.

        Examples:
            >>> line = np.append(0, normal_scores(np.ones(20)))
            >>> Curve.of(np.ones(21)).variances(line, np.full(21, 100.0))
            (0.1, 0.0, 0.0)
        """
        tells = curvature > 0
        root = np.sqrt(curvature[tells])
        y, whole = root * said[tells], np.ix_(tells, tells)
        found = list(START)
        for _ in range(ROUNDS):
            for at, grid in enumerate((SLOPES, STRAYS, STRAYS)):
                tried = []
                for each in grid:
                    found[at] = each
                    covariance = self.with_variances(*found)[whole]
                    evidence = _evidence(root[:, None] * covariance * root, y)
                    tried.append((evidence - 2 * log1p(each / USUAL), each))
                found[at] = max(tried)[1]
        return found[0], found[1], found[2]

    def settled(
        self, effect: np.ndarray, centre: np.ndarray, curvature: np.ndarray, level: float
    ) -> Settled:
        """Return the posterior of rows that a pass has left at `effect`.

        It ends where what the rows' labels say and the pull are in balance:
        H·(said − w) = λ·(w − centre).

        Args:
            effect: w in each table, the last of all training rows: (R, Q).
            centre: what the pass pulled them to: (R, Q).
            curvature: H of this pass: (R, Q); 0 of a row that tells nothing.
            level: λ of this pass.
        """
        known = np.where(curvature > 0, curvature, np.inf)
        said = effect + level * (effect - centre) / known
        covariance = self.with_variances(*self.variances(said[:, -1], curvature[:, -1]))
        level = 1 / float(np.diag(covariance - self.free)[1:].mean())
        found = [posterior(covariance, *each) for each in zip(said.T, curvature.T, strict=True)]
        mean = np.stack([each.mean for each in found], axis=1)
        return Settled(
            mean, mean - curvature * (said - mean) / level, level, 1 / found[-1].variance,
            said[:, -1],
        )  # fmt: skip


class Curves:
    """The curves of all slots that have one, and where their rows of `centre` lie.

    Args:
        ordered: of each slot, whether its rows are in order.
        count: how often training looks up each row.
        first_rows: where each slot's rows begin, and the end.
        own_rows: the same among the rows that this process holds, which `shift` and `rows` are of;
            where it holds all, as `first_rows`.

    Attributes:
        of_slot: by the slot's place.
        shift: int64 (K,): what takes a row of a slot to its row of `centre`; `nowhere` without one.
        rows: of `centre`.

    Shape:
        ordered: (K,) · count: (R,) of all slots · first_rows, own_rows: (K + 1,)
    """

    def __init__(
        self,
        ordered: Sequence[bool],
        count: np.ndarray,
        first_rows: np.ndarray,
        nowhere: int,
        own_rows: np.ndarray | None = None,
    ) -> None:
        self.of_slot: dict[int, Curve] = {}
        self.shift = np.full(len(ordered), nowhere, dtype=np.int64)
        self.rows = 0
        own_rows = first_rows if own_rows is None else own_rows
        for k, (start, end) in enumerate(pairwise(first_rows.tolist())):
            if is_curved(ordered[k], end - start):
                self.of_slot[k] = Curve.of(count[start:end].astype(np.float64))
                own_start, own_end = own_rows[k : k + 2].tolist()
                self.shift[k] = self.rows - own_start
                self.rows += own_end - own_start


def is_curved(ordered: bool, rows: int) -> bool:
    """Whether a slot of so many rows has a curve, which needs more than a line's two rows."""
    return ordered and 3 < rows <= MOST_ROWS


class Posterior(NamedTuple):
    """Of a field's effects, each (R,)."""

    mean: np.ndarray
    variance: np.ndarray


def posterior(covariance: np.ndarray, said: np.ndarray, curvature: np.ndarray) -> Posterior:
    """Return the posterior of effects with a prior of this covariance.

    Args:
        covariance: (R, R).
        said: the effects by the rows' own labels: (R,).
        curvature: their precision: (R,); 0 of a row that tells nothing.

    Examples:
        >>> found = posterior(np.eye(1), np.array([1.0]), np.array([3.0]))
        >>> float(found.mean[0]), float(found.variance[0])
        (0.75, 0.25)
    """
    root = np.sqrt(curvature)
    half = covariance * root  # C·H^½
    inner = np.eye(len(root)) + root[:, None] * half
    gain = np.linalg.solve(inner, half.T).T  # C·H^½·(I + H^½·C·H^½)^−1
    variance = np.diag(covariance) - (gain * half).sum(1)
    return Posterior(gain @ (root * said), np.maximum(variance, LEAST_OWN / 10))


def normal_scores(count: np.ndarray) -> np.ndarray:
    """Return the quantile of the normal law at the middle of each row's share: (R,).

    Examples:
        >>> normal_scores(np.array([1.0, 2.0, 1.0])).round(2).tolist()
        [-1.15, 0.0, 1.15]
    """
    share = count / count.sum()
    middle = np.cumsum(share) - share / 2
    return np.array([NormalDist().inv_cdf(each) for each in middle])


def _evidence(signal: np.ndarray, y: np.ndarray) -> float:
    """Return log N(y; 0, I + signal), but for a constant."""
    lower = np.linalg.cholesky(np.eye(len(y)) + signal)
    return -float(np.log(np.diag(lower)).sum() + (np.linalg.solve(lower, y) ** 2).sum() / 2)
