"""Impartial multi-task learning, of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.balance.gradients import GradientBalance, Present, sized, weight_factors
from polyrank.balance.method import Balance, BalanceTerm, check_several


@dataclass(frozen=True, kw_only=True)
class IMTLG(Balance):
    """The direction whose projections on all gradients are equally long.

    With n_i = ‖g_i‖, w ∝ G⁺ n; for two terms w ∝ (n_2, n_1). A weight may be negative, where other
    gradients carry a term along. The paper scales to Σ w = 1, which turns the direction around, or
    makes it as long as one likes, where negative weights prevail; here Σ |w| is as for the sum of
    losses, and every loss falls. The tasks' weights are applied after w.

    Raises:
        ConfigError: at `build`, a single term.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> losses = {"a @ all": x[0, 0], "b @ all": 3 * x[0, 1]}
        >>> IMTLG().build(terms).backward(losses, [x])
        tensor(0.)
        >>> x.grad
        tensor([[1.5000, 1.5000]])

    Reference:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, eq. 5-6.
    """

    def build(self, terms: Sequence[BalanceTerm]) -> IMTLGModule:
        check_several("IMTLG", terms)
        return IMTLGModule(weight_factors(terms))


class IMTLGModule(GradientBalance):
    """Has no state."""

    def weights(self, present: Present) -> np.ndarray:
        found = imtl_g(present.gram, present.eps)
        return sized(present.factors * found, present.factors)


def imtl_g(gram: np.ndarray, eps: float) -> np.ndarray:
    """Return weights by which all projections are 1, up to directions that nearly vanish.

    (P, P) → (P,)

    Examples:
        >>> imtl_g(np.array([[1.0, 0.0], [0.0, 4.0]]), 1e-16)
        array([1. , 0.5])
    """
    norms = np.sqrt(np.diag(gram))
    cosines = gram / np.outer(norms, norms)
    ones = np.ones(len(norms))
    return np.linalg.pinv(cosines, rcond=len(norms) * eps, hermitian=True) @ ones / norms
