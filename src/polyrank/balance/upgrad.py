"""Unconflicting projection of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.balance.gradients import GradientBalance, Present
from polyrank.balance.method import BalanceTerm, ScaledBalance, check_several
from polyrank.balance.quadratic import least


@dataclass(frozen=True, kw_only=True)
class UPGrad(ScaledBalance):
    """Each gradient becomes the nearest one along which no loss rises; then they are added.

    The nearest is Σ v_j g_j with v the solution of min vᵀGv over v ≥ e_i, a small quadratic
    program a term. For two terms it is `PCGrad`; for more there is no order, and the sum never
    conflicts with any term. Terms that do not conflict give the step of `Sum`.

    Args:
        normalize: what each loss is first multiplied by, as in `Sum`.

    Raises:
        ConfigError: another value of normalize; at `build`, a single term.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> losses = {"a @ all": x[0, 0], "b @ all": x[0, 1] - x[0, 0]}
        >>> UPGrad().build(terms).backward(losses, [x])
        tensor(0.)
        >>> x.grad
        tensor([[0.5000, 1.5000]])

    Reference:
        Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, section 3 and
        proposition 1.
    """

    def build(self, terms: Sequence[BalanceTerm]) -> UPGradModule:
        check_several("UPGrad", terms)
        return UPGradModule(self.factors(terms))


class UPGradModule(GradientBalance):
    """Has no state."""

    def weights(self, present: Present) -> np.ndarray:
        factors = present.factors
        return factors * upgrad(present.gram * np.outer(factors, factors))


def upgrad(gram: np.ndarray) -> np.ndarray:
    """Return the weights of a sum of gradients, each projected on the dual cone: (P, P) → (P,).

    Examples:
        >>> upgrad(np.array([[1.0, -1.0], [-1.0, 2.0]]))
        array([2. , 1.5])
    """
    if (gram >= 0).all():
        return np.ones(len(gram))
    return 1.0 + np.sum([least(gram, row) for row in gram], axis=0)
