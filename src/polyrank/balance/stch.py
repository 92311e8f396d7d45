"""Smooth Tchebycheff scalarisation.

Letters: T terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank import spec
from polyrank.balance.method import (
    Balance,
    BalanceTerm,
    ScalarBalance,
    check_several,
    refuse_densities,
)

ABSENT = -1e30  # in place of a term without rows: no part of the maximum


@dataclass(frozen=True, kw_only=True)
class STCH(Balance):
    """L = T · μ · log Σ exp(weight · loss ÷ (constant's loss · μ)): nearly the largest loss.

    Each loss is divided by that of the term's best constant on the training rows, so that it starts
    near 1 whatever its kind; the ideal point is 0. Terms without rows in a batch are left out, and
    T is the number of all. For a large μ it has the gradient of a sum.

    Args:
        mu: how smooth; towards 0 only the largest term is trained. The paper tries .01, .1, .5
            and 1, and finds no best one.

    Raises:
        ConfigError: a mu that is not above 0; at `build`, a single term.

    Examples:
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> first, second = torch.tensor(1.0, requires_grad=True), torch.tensor(0.5)
        >>> losses = {"a @ all": first, "b @ all": second}
        >>> STCH(mu=0.5).build(terms).backward(losses, [])
        tensor(2.3133)
        >>> first.grad
        tensor(1.4621)

    Reference:
        Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024,
        eq. 7.
    """

    mu: float = 0.5

    def __post_init__(self) -> None:
        spec.number("STCH: mu", self.mu, above=0)

    @property
    def normalizes(self) -> bool:
        return True

    def build(self, terms: Sequence[BalanceTerm]) -> STCHModule:
        check_several("STCH", terms)
        refuse_densities(terms, "stch")
        refuse_densities(terms, "stch")
        return STCHModule({each.name: each.weight * each.scale(True) for each in terms}, self.mu)


class STCHModule(ScalarBalance):
    """Has no state."""

    def __init__(self, factors: Mapping[str, float], mu: float) -> None:
        super().__init__()
        self.factors, self.mu = dict(factors), mu

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        found = torch.stack([losses[name] * factor for name, factor in self.factors.items()])
        present = found != 0
        over = torch.where(present, found / self.mu, ABSENT)
        total = len(self.factors) * self.mu * torch.logsumexp(over, 0)
        return torch.where(present.any(), total, torch.zeros_like(total))
