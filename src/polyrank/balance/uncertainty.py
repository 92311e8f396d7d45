"""Homoscedastic uncertainty weighting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyrank.balance.method import Balance, BalanceTerm, ScalarBalance, refuse_densities


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Balance):
    """L = Σ weight · (c·e^(−s)·loss + s/2), with s learned.

    c is 1 for a log-likelihood and ½ for a squared error. s is the logarithm of the term's noise
    variance; it starts at 0 and is not decayed.

    Examples:
        >>> term = BalanceTerm("rating @ all", weight=1.0, constant_loss=1.0, exponent=0.5)
        >>> loss = torch.tensor(3.0, requires_grad=True)
        >>> Uncertainty().build([term]).backward({"rating @ all": loss}, [])
        tensor(1.5000)

    Reference:
        Kendall, Gal and Cipolla, CVPR 2018, eq. 7 and 10.
    """

    def build(self, terms: Sequence[BalanceTerm]) -> UncertaintyModule:
        refuse_densities(terms, "uncertainty")
        return UncertaintyModule(terms)


class UncertaintyModule(ScalarBalance):
    """Holds one s per term, in the terms' order."""

    def __init__(self, terms: Sequence[BalanceTerm]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.log_variance = nn.Parameter(torch.zeros(len(terms)))

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack(
            [
                term.weight * (term.exponent * torch.exp(-s) * losses[term.name] + s / 2)
                for term, s in zip(self.terms, self.log_variance.unbind(), strict=True)
            ]
        ).sum()
