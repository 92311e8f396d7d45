"""Aligned multi-task learning: gradients made orthogonal and equally long.

Letters: T terms, P of them present in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.balance.gradients import GradientBalance, Present, weight_factors
from polyrank.balance.method import Balance, BalanceTerm, check_several
from polyrank.errors import ConfigError, did_you_mean

# Which of the eigenvalues, in rising order, all become.
SCALES = {
    "min": lambda values: values[0],
    "median": lambda values: values[(len(values) - 1) // 2],
    "mean": lambda values: values.mean(),
}


@dataclass(frozen=True, kw_only=True)
class Aligned(Balance):
    """Gradients are replaced by the nearest orthogonal ones of equal length; then they are added.

    With the eigenvalues λ and eigenvectors V of the Gram matrix, the step is Σ α_i g_i, where
    α = √λ_0 · V λ^(−1/2) Vᵀ · weight: no term dominates, none conflicts. Eigenvalues that vanish
    next to the largest, as of gradients that depend on each other, are left out.

    Args:
        scale: the λ_0 that sets the step's length: "min", the smallest eigenvalue, the paper's;
            "median" or "mean" of them step further where terms are unlike.

    Raises:
        ConfigError: an unknown scale; at `build`, a single term.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> losses = {"a @ all": x[0, 0], "b @ all": 3 * x[0, 1]}
        >>> Aligned().build(terms).backward(losses, [x])
        tensor(0.)
        >>> x.grad
        tensor([[1., 1.]])

    Reference:
        Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023,
        algorithm 1.
    """

    scale: str = "min"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            known = ", ".join(map(repr, SCALES))
            hint = did_you_mean(str(self.scale), SCALES)
            raise ConfigError(f"Aligned: scale must be one of {known}, got {self.scale!r}{hint}")

    def build(self, terms: Sequence[BalanceTerm]) -> AlignedModule:
        check_several("Aligned", terms)
        return AlignedModule(weight_factors(terms), self.scale)


class AlignedModule(GradientBalance):
    """Has no state."""

    def __init__(self, factors: Mapping[str, float], scale: str) -> None:
        super().__init__(factors)
        self.scale = scale

    def weights(self, present: Present) -> np.ndarray:
        return aligned(present.gram, present.factors, self.scale, present.eps)


def aligned(gram: np.ndarray, shares: np.ndarray, scale: str, eps: float) -> np.ndarray:
    """Return the weights of aligned gradients' sum, each times its share: (P, P), (P,) → (P,).

    Examples:
        >>> aligned(np.array([[1.0, 0.0], [0.0, 4.0]]), np.ones(2), "min", 1e-16)
        array([1. , 0.5])
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > len(values) * eps * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    length = np.sqrt(SCALES[scale](values))
    return length * (vectors / np.sqrt(values)) @ (vectors.T @ shares)
