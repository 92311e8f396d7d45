"""Gradient surgery: conflicting gradients are projected.

Letters: T terms, P of them present in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyrank.balance.gradients import GradientBalance, Present
from polyrank.balance.method import BalanceTerm, ScaledBalance, check_several


@dataclass(frozen=True, kw_only=True)
class PCGrad(ScaledBalance):
    """A gradient that points against another one loses the part that does; then they are added.

    For each term i, and every other term j in random order, where g_i · g_j < 0

    g_i ← g_i − (g_i · g_j) / ‖g_j‖² · g_j

    with the others as they were. Terms that do not conflict give the step of `Sum`. From three
    terms on the order matters; it is drawn from the run's seed.

    Args:
        normalize: what each loss is first multiplied by, as in `Sum`.

    Raises:
        ConfigError: another value of normalize; at `build`, a single term.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> losses = {"a @ all": x[0, 0], "b @ all": x[0, 1] - x[0, 0]}
        >>> PCGrad().build(terms).backward(losses, [x])
        tensor(0.)
        >>> x.grad  # the sum would be [0, 1]
        tensor([[0.5000, 1.5000]])

    Reference:
        Yu et al., NeurIPS 2020, algorithm 1.
    """

    def build(self, terms: Sequence[BalanceTerm]) -> PCGradModule:
        check_several("PCGrad", terms)
        return PCGradModule(self.factors(terms))


class PCGradModule(GradientBalance):
    """Counts its steps, from which the order is drawn."""

    steps: Tensor

    def __init__(self, factors: Mapping[str, float]) -> None:
        super().__init__(factors)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self, present: Present) -> np.ndarray:
        gram, factors = present.gram, present.factors
        generator = np.random.default_rng([self.seed, int(self.steps)])
        self.steps += 1
        every = np.tile(np.arange(len(gram)), (len(gram), 1))
        orders = generator.permuted(every, axis=1) if len(gram) > 2 else every
        return factors * pcgrad(gram * np.outer(factors, factors), orders)


def pcgrad(gram: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return the weights of a sum of projected gradients: (P, P) → (P,).

    Row i of `orders`, (P, P), says in which order gradient i meets the others.

    Examples:
        >>> pcgrad(np.array([[1.0, -1.0], [-1.0, 2.0]]), np.array([[0, 1], [0, 1]]))
        array([2. , 1.5])
    """
    total = np.zeros(len(gram))
    for i, order in enumerate(orders):
        own = np.zeros(len(gram))
        own[i] = 1.0
        for j in order:
            if j != i and (inner := own @ gram[j]) < 0:
                own[j] -= inner / gram[j, j]
        total += own
    return total
