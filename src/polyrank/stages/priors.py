"""The variance of a field's effects, estimated from what its ids say beyond all others.

Letters: R ids of a field, K fields, T heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from polyrank.ranks import ALONE, Ranks

FIRST_PRIOR = 10.0  # precision before anything was estimated
PSEUDO = 3.0  # draws that the mean counts as, to which a field's or a head's variance is drawn
LEAST_MEAN, MOST, SPAN = 1e-3, 10.0, 30.0
ITERATIONS = 10


class Moments(NamedTuple):
    """What the ids of one field said of one head in a pass, each (R,)."""

    score: np.ndarray  # Σ v·x·(y − p) + Σ v·x²·p(1 − p)·w: the gradient were the own weight 0
    curvature: np.ndarray  # Σ v·x²·p(1 − p)
    spread: np.ndarray  # Σ v²·x²·p(1 − p), the score's variance; the curvature where v = 1


def variances(
    heads: Sequence[Sequence[Moments]], before: np.ndarray, ranks: Ranks = ALONE
) -> np.ndarray:
    """Return the variance of each field's effects on each head, by the method of moments.

    E[S²] = J + H²σ² of an id with score S, curvature H and spread J; ids are weighted by the
    precision of S² under the variance before. A field that tells little is drawn to the mean of its
    head, and a head that tells little to the mean of all. Where no row tells anything, variances
    stay.

    Args:
        heads: of each head the moments of the ids of each field, those with any curvature.
        before: float64 (K, T).
        ranks: the processes that hold the ids between them, each with the moments of its own.

    Examples:
        >>> h = np.full(1000, 5.0)
        >>> s = np.random.default_rng(0).normal(0, np.sqrt(h + h**2 * 0.5), 1000)
        >>> variances([[Moments(s, h, h)]], np.array([[0.1]])).round(1).tolist()
        [[0.5]]
    """
    found = before.astype(np.float64)
    squares = [
        [(m.score.astype(np.float64) ** 2 - m.spread, *_squared(m)) for m in fields]
        for fields in heads
    ]
    for _ in range(ITERATIONS):
        told, information = np.zeros_like(found), np.zeros_like(found)
        for t, fields in enumerate(squares):
            for k, (excess, h2, j) in enumerate(fields):
                omega = h2 / (j + 2 * (j + h2 * found[k, t]) ** 2)
                information[k, t] = (omega * h2).sum()
                told[k, t] = (omega * excess).sum()
        ranks.total([torch.from_numpy(told), torch.from_numpy(information)])
        each = told / np.maximum(information, 1e-9)
        draws = 2 * found**2 * information
        total = draws.sum(0)
        if not total.sum() > 0:
            return found
        own = np.maximum((draws * each).sum(0) / np.maximum(total, 1e-30), LEAST_MEAN)
        mean = (total * own + PSEUDO * (total @ own) / total.sum()) / (total + PSEUDO)
        worth = 2 * mean**2 * information
        found = np.clip((worth * each + PSEUDO * mean) / (worth + PSEUDO), mean / SPAN, MOST)
    return found


def _squared(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    return moments.curvature.astype(np.float64) ** 2, moments.spread.astype(np.float64)
