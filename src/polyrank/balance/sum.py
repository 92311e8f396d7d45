"""The weighted sum of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.balance.method import BalanceTerm, ScalarBalance, ScaledBalance


@dataclass(frozen=True, kw_only=True)
class Sum(ScaledBalance):
    """L = Σ weight · loss.

    Args:
        normalize: True divides each loss by its constant predictor's on the training rows (entropy
            of the base rate; variance of the target), so that every term starts at 1 whatever its
            kind and rarity. "rows" multiplies it by the share of rows that are its own: the terms
            of a funnel that learn where their parent happened then add up to the log-likelihood of
            a row, in which a rare outcome weighs what it tells. False leaves the mean over its
            rows. The default is chosen by docs/evidence.md.

    Raises:
        ConfigError: another value.

    Examples:
        >>> import torch
        >>> term = BalanceTerm("click @ all", weight=2.0, constant_loss=0.5, exponent=1.0)
        >>> loss = torch.tensor(0.25, requires_grad=True)
        >>> Sum(normalize=True).build([term]).backward({"click @ all": loss}, [])
        tensor(1.)
        >>> loss.grad
        tensor(4.)
    """

    def build(self, terms: Sequence[BalanceTerm]) -> SumModule:
        return SumModule(self.factors(terms))


class SumModule(ScalarBalance):
    """Holds one factor per term."""

    by_value = False

    def __init__(self, factors: Mapping[str, float]) -> None:
        super().__init__()
        self.factors = dict(factors)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([loss * self.factors[name] for name, loss in losses.items()]).sum()
