"""The weighted sum of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.balance.method import Balance, BalanceTerm, ScalarBalance


@dataclass(frozen=True, kw_only=True)
class Sum(Balance):
    """L = Σ weight · loss.

    Args:
        normalize: divide each loss by its constant predictor's on the training rows (entropy of
            the base rate; variance of the target), so that every term starts at 1 whatever its
            kind and rarity. The default, by docs/evidence.md.

    Example:
        >>> import torch
        >>> term = BalanceTerm("click @ all", weight=2.0, constant_loss=0.5, exponent=1.0)
        >>> loss = torch.tensor(0.25, requires_grad=True)
        >>> Sum(normalize=True).build([term]).backward({"click @ all": loss}, [])
        tensor(1.)
        >>> loss.grad
        tensor(4.)
    """

    normalize: bool = True

    def build(self, terms: Sequence[BalanceTerm]) -> SumModule:
        # A constant target has loss 0 whatever is done: nothing to divide by.
        scales = [t.constant_loss if self.normalize and t.constant_loss > 0 else 1.0 for t in terms]
        return SumModule({t.name: t.weight / s for t, s in zip(terms, scales, strict=True)})


class SumModule(ScalarBalance):
    """Holds one factor per term."""

    def __init__(self, factors: Mapping[str, float]) -> None:
        super().__init__()
        self.factors = dict(factors)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([loss * self.factors[name] for name, loss in losses.items()]).sum()
