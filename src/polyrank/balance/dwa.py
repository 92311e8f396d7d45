"""Dynamic weight average.

Letters: T terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank import spec
from polyrank.balance.method import (
    BalanceTerm,
    ScalarBalance,
    ScaledBalance,
    check_several,
    refuse_densities,
)


@dataclass(frozen=True, kw_only=True)
class DWA(ScaledBalance):
    """L = Σ w · factor · loss, where terms whose loss fell less in the last epoch weigh more.

    w = T · softmax(r ÷ temperature), r the ratio of a term's mean training loss in the last epoch
    to that in the one before; 1 in the first two epochs. The factor is that of `Sum`.

    Args:
        temperature: a larger one makes weights more alike.
        normalize: what each loss is first multiplied by, as in `Sum`.

    Raises:
        ConfigError: a temperature that is not above 0, another value of normalize; at `build`, a
            single term.

    Examples:
        >>> balance = DWA().build([BalanceTerm(name, 1.0, 1.0, 1.0) for name in "ab"])
        >>> for losses in ({"a": 1.0, "b": 1.0}, {"a": 0.4, "b": 0.9}):
        ...     balance.end_epoch(losses)
        >>> balance.weight
        tensor([0.8756, 1.1244])

    Reference:
        Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, eq. 7.
    """

    temperature: float = 2.0

    def __post_init__(self) -> None:
        spec.number("DWA: temperature", self.temperature, above=0)
        super().__post_init__()

    def build(self, terms: Sequence[BalanceTerm]) -> DWAModule:
        check_several("DWA", terms)
        refuse_densities(terms, "dwa")
        return DWAModule(self.factors(terms), self.temperature)


class DWAModule(ScalarBalance):
    """Holds the weights, and the losses of the last epoch: buffers, which a graph reads."""

    by_value = False

    weight: Tensor
    last: Tensor

    def __init__(self, factors: Mapping[str, float], temperature: float) -> None:
        super().__init__()
        self.factors, self.temperature = dict(factors), temperature
        self.register_buffer("weight", torch.ones(len(factors)))
        self.register_buffer("last", torch.zeros(len(factors)))  # 0: none, or none of its rows

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        found = torch.stack([losses[name] * factor for name, factor in self.factors.items()])
        return (self.weight * found).sum()

    @torch.no_grad()
    def end_epoch(self, losses: Mapping[str, float]) -> None:
        found = torch.tensor([losses[name] for name in self.factors]).to(self.last)
        known = (self.last > 0) & (found > 0)
        ratio = torch.where(known, found / self.last, torch.ones_like(found))
        self.weight.copy_(len(found) * torch.softmax(ratio / self.temperature, 0))
        self.last.copy_(found)
