"""The variance of a field's effects, estimated from what its ids say beyond all others.

Letters: R ids of a field, K fields, T heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FIRST_PRIOR = 10.0  # precision before anything was estimated
PSEUDO = 3.0  # pseudo-estimates by which a field's variance is drawn to the head's mean
LEAST_MEAN, MOST, SPAN = 1e-3, 10.0, 30.0
ITERATIONS = 10


class Moments(NamedTuple):
    """What the ids of one field said of one head in a pass, each (R,)."""

    score: np.ndarray  # Σ v·x·(y − p) + Σ v·x²·p(1 − p)·w: the gradient were the own weight 0
    curvature: np.ndarray  # Σ v·x²·p(1 − p)
    spread: np.ndarray  # Σ v²·x²·p(1 − p), the score's variance; the curvature where v = 1


def variances(fields: Sequence[Moments], before: np.ndarray) -> np.ndarray:
    """Return the variance of each field's effects on one head, by the method of moments.

    E[S²] = J + H²σ² of an id with score S, curvature H and spread J; ids are weighted by the
    precision of S² under the variance before, and a field that tells little is drawn to the mean of
    all. A head of which no row tells anything keeps its variances.

    Args:
        fields: the moments of the ids of each, those with any curvature.
        before: float64 (K,).

    Example:
        >>> h = np.full(1000, 5.0)
        >>> s = np.random.default_rng(0).normal(0, np.sqrt(h + h**2 * 0.5), 1000)
        >>> float(variances([Moments(s, h, h)], np.array([0.1]))[0].round(1))
        0.5
    """
    found = before.astype(np.float64)
    squares = [(m.score.astype(np.float64) ** 2 - m.spread, *_squared(m)) for m in fields]
    for _ in range(ITERATIONS):
        total, information = np.zeros(len(found)), np.zeros(len(found))
        for k, (excess, h2, j) in enumerate(squares):
            omega = h2 / (j + 2 * (j + h2 * found[k]) ** 2)
            total[k] = (omega * excess).sum()
            information[k] = (omega * h2).sum()
        effective = 2 * found**2 * information
        if not effective.sum() > 0:
            return found
        each = total / np.maximum(information, 1e-9)
        mean = max(float((effective * each).sum() / effective.sum()), LEAST_MEAN)
        drawn = (effective * each + PSEUDO * mean) / (effective + PSEUDO)
        found = np.clip(drawn, mean / SPAN, MOST)
    return found


def _squared(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    return moments.curvature.astype(np.float64) ** 2, moments.spread.astype(np.float64)
