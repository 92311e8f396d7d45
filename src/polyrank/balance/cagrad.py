"""Conflict-averse gradient descent.

Letters: T terms, P of them present in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from polyrank import spec
from polyrank.balance.gradients import GradientBalance, Present
from polyrank.balance.method import BalanceTerm, ScaledBalance, check_several
from polyrank.balance.quadratic import least

MOST_STEPS = 60  # each halves the interval at least
TOLERANCE = 1e-12  # of the length that is sought, relative


@dataclass(frozen=True, kw_only=True)
class CAGrad(ScaledBalance):
    """Near the mean gradient, the direction along which the worst term improves most.

    d maximises min_i g_i · d over ‖d − g_0‖ ≤ c · ‖g_0‖, where g_0 is the mean of the terms'
    gradients: d = g_0 + c · ‖g_0‖ / ‖g_w‖ · g_w, with g_w = Σ w_i g_i and w ≥ 0, Σ w = 1 the
    minimum of g_0 · g_w + c · ‖g_0‖ · ‖g_w‖. The step is T · d, which for c = 0 is that of `Sum`.

    Args:
        c: radius around the mean gradient; 0 is the mean, and from 1 on the step need not descend.
        normalize: what each loss is first multiplied by, as in `Sum`.

    Raises:
        ConfigError: a c out of range, another value of normalize; at `build`, a single term.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> losses = {"a @ all": x[0, 0], "b @ all": x[0, 1] - x[0, 0]}
        >>> CAGrad(c=0.5).build(terms).backward(losses, [x])
        tensor(0.)
        >>> x.grad  # the sum would be [0, 1]
        tensor([[0.5000, 1.0000]])

    Reference:
        Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021, eq. 3-4
        and algorithm 1.
    """

    c: float = 0.4

    def __post_init__(self) -> None:
        spec.number("CAGrad: c", self.c, least=0, below=1)
        super().__post_init__()

    def build(self, terms: Sequence[BalanceTerm]) -> CAGradModule:
        check_several("CAGrad", terms)
        return CAGradModule(self.factors(terms), self.c)


class CAGradModule(GradientBalance):
    """Has no state."""

    def __init__(self, factors: Mapping[str, float], c: float) -> None:
        super().__init__(factors)
        self.c = c

    def weights(self, present: Present) -> np.ndarray:
        factors = present.factors
        return factors * cagrad(present.gram * np.outer(factors, factors), self.c, present.eps)


def cagrad(gram: np.ndarray, c: float, eps: float) -> np.ndarray:
    """Return the weights of P · d: (P, P) → (P,).

    Gradients of which a convex combination vanishes, up to eps, have no direction in common; the
    weights then are those of the sum.

    Examples:
        >>> cagrad(np.array([[1.0, 0.0], [0.0, 1.0]]), 0.5, 1e-16)
        array([1.5, 1.5])
    """
    mean = np.full(len(gram), 1 / len(gram))
    radius = c * sqrt(max(mean @ gram @ mean, 0.0))
    if radius == 0:
        return np.ones(len(gram))
    weights = worst(gram, gram @ mean, radius)
    length = sqrt(max(weights @ gram @ weights, 0.0))
    if length <= len(gram) * sqrt(eps * np.diag(gram).min()):
        return np.ones(len(gram))
    return 1 + len(gram) * radius / length * weights


def worst(gram: np.ndarray, linear: np.ndarray, radius: float) -> np.ndarray:
    """Return the w ≥ 0, Σ w = 1, where linearᵀ w + radius · √(wᵀ gram w) is least.

    For any η > 0, √s ≤ (s / η + η) / 2, with equality at η = √s: for a given η a quadratic program,
    whose own √s is above η where η is too small, and below where it is too large. While the same
    weights are above 0, s is a linear function of η², which gives the next η.
    """
    low, high = 0.0, sqrt(np.diag(gram).max())
    length = high
    weights = np.full(len(gram), 1 / len(gram))
    for _ in range(MOST_STEPS):
        weights = least(radius / length * gram, linear, total=1.0)
        square = max(float(weights @ gram @ weights), 0.0)
        if abs(sqrt(square) - length) <= TOLERANCE * length or high - low <= TOLERANCE * high:
            break
        low, high = (length, high) if square > length**2 else (low, length)
        inside = weights > 0
        shortest = _shortest(gram[np.ix_(inside, inside)])
        rest = 1 - (square - shortest) / length**2
        ahead = sqrt(shortest / rest) if shortest > 0 and rest > 0 else 0.0
        length = ahead if low < ahead < high else (low + high) / 2
    return weights


def _shortest(gram: np.ndarray) -> float:
    """Return the least wᵀ gram w over Σ w = 1, w of any sign."""
    total = float(np.linalg.lstsq(gram, np.ones(len(gram)))[0].sum())
    return 1 / total if total > 0 else 0.0
