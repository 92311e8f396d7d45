"""The Nash bargaining solution between terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.balance.gradients import GradientBalance, Present, sized, weight_factors
from polyrank.balance.method import Balance, BalanceTerm, check_several

MOST_STEPS = 100  # of Newton; 19 were the most in 1,000 random problems of 2 to 20 terms
NEAR = 0.25  # Newton decrement below which a full step converges quadratically
LARGEST = 1e7  # weight of a unit gradient: beyond, gradients cancel and there is no solution


@dataclass(frozen=True, kw_only=True)
class Nash(Balance):
    """The direction that maximises Σ weight_i · log(g_i · d): proportional fairness.

    It is d = Σ w_i g_i with w_i · (Gw)_i = weight_i, the minimum of the convex
    ½ wᵀGw − Σ weight_i log w_i, found by damped Newton steps. For two terms of one weight,
    w_i = 1 / (‖g_i‖ · √(1 + cos)). The scale of a loss does not matter. The paper's d has a length
    of its own whatever the gradients' are; here Σ w is as for the sum of losses.

    Raises:
        ConfigError: at `build`, a single term.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> losses = {"a @ all": x[0, 0], "b @ all": 3 * x[0, 1]}
        >>> Nash().build(terms).backward(losses, [x])
        tensor(0.)
        >>> x.grad
        tensor([[1.5000, 1.5000]])

    Reference:
        Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, claim 3.1; with weights,
        the asymmetric solution of Kalai, International Journal of Game Theory 1977. Damped
        steps: Nesterov, Lectures on Convex Optimization, 2018, section 5.2.
    """

    def build(self, terms: Sequence[BalanceTerm]) -> NashModule:
        check_several("Nash", terms)
        return NashModule(weight_factors(terms))


class NashModule(GradientBalance):
    """Has no state."""

    def weights(self, present: Present) -> np.ndarray:
        return sized(nash(present.gram, present.factors), present.factors)


def nash(gram: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the w > 0 with w_i · (gram w)_i = share_i: (P, P), (P,) → (P,).

    Gradients that cancel have no solution; the weights then are finite, and nearly cancel them.

    Examples:
        >>> nash(np.array([[1.0, 0.0], [0.0, 4.0]]), np.ones(2))
        array([1. , 0.5])
    """
    norms, lowest = np.sqrt(np.diag(gram)), shares.min()
    cosines, shares = gram / np.outer(norms, norms), shares / lowest
    weights = np.sqrt(shares)
    for _ in range(MOST_STEPS):
        slope = cosines @ weights - shares / weights
        step = np.linalg.solve(cosines + np.diag(shares / weights**2), slope)
        decrement = np.sqrt(max(slope @ step, 0.0))
        weights = weights - step / (1 + decrement if decrement > NEAR else 1.0)
        if decrement < 1e-12 or weights.max() > LARGEST:
            break
    return weights * np.sqrt(lowest) / norms
