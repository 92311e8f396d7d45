"""Fast adaptive multitask optimisation.

Letters: T terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank import spec
from polyrank.balance.gradients import weight_factors
from polyrank.balance.method import (
    Balance,
    BalanceTerm,
    ScalarBalance,
    check_several,
    refuse_densities,
)

BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True, kw_only=True)
class FAMO(Balance):
    """L = c · Σ z · log loss, with z learned so that all losses fall at the same rate.

    z = weight · softmax(ξ), and c, held constant, is such that Σ weight · loss would have as large
    a step: gradients of losses are weighed by z ÷ loss, scaled to Σ weight. After each step the
    losses of the same batch are computed once more, with the same draws of dropout, and

    δ_i = log loss_i before − log loss_i after

    is how far each has fallen. ξ goes down the gradient of Σ softmax(ξ)_i · δ_i by Adam with decay:
    who falls less weighs more. It costs one more forward pass a step and no gradient. Losses must
    be above 0; a term without rows in a batch has neither a gradient nor a δ.

    Args:
        lr: step size of ξ.
        decay: added to the gradient of ξ, times ξ. 1e-3 is the paper's algorithm; its code has
            1e-5.

    Raises:
        ConfigError: an lr or a decay out of range; at `build`, a single term.

    Examples:
        >>> balance = FAMO().build([BalanceTerm(name, 1.0, 1.0, 1.0) for name in "ab"])
        >>> losses = {"a": torch.tensor(0.5, requires_grad=True), "b": torch.tensor(2.0)}
        >>> _ = balance.backward(losses, [])
        >>> losses["a"].grad  # z ÷ loss is 1 and 1/4
        tensor(1.6000)
        >>> balance.after_step(torch.tensor([0.5, 2.0]), torch.tensor([0.4, 2.0]))
        >>> balance.logits
        tensor([-0.0250,  0.0250])

    Reference:
        Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, algorithm 2.
    """

    lr: float = 0.025
    decay: float = 1e-3

    def __post_init__(self) -> None:
        spec.number("FAMO: lr", self.lr, least=0)
        spec.number("FAMO: decay", self.decay, least=0)

    def build(self, terms: Sequence[BalanceTerm]) -> FAMOModule:
        check_several("FAMO", terms)
        refuse_densities(terms, "famo")
        return FAMOModule(weight_factors(terms), self.lr, self.decay)


class FAMOModule(ScalarBalance):
    """Holds ξ and the moments of its Adam: buffers, which a graph reads."""

    looks_again = True

    logits: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor
    factors: Tensor

    def __init__(self, factors: Mapping[str, float], lr: float, decay: float) -> None:
        super().__init__()
        self.terms, self.lr, self.decay = tuple(factors), lr, decay
        for name in ("logits", "first", "second"):
            self.register_buffer(name, torch.zeros(len(factors)))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("factors", torch.tensor([*factors.values()]), persistent=False)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        found = torch.stack([losses[name] for name in self.terms])
        present = found > 0
        value = torch.where(present, found, 1.0)  # whose logarithm is 0, and has no gradient
        share = torch.where(present, self.factors * torch.softmax(self.logits, 0), 0.0)
        weight = (share / value).detach().sum()
        scale = self.factors.sum() / torch.where(weight > 0, weight, 1.0)
        return (scale * share * value.log()).sum()

    @torch.no_grad()
    def after_step(self, before: Tensor, after: Tensor) -> None:
        known = (before > 0) & (after > 0) & before.isfinite() & after.isfinite()
        fell = torch.where(known, before.log() - after.log(), 0.0).to(self.logits)
        share = torch.softmax(self.logits, 0)
        slope = share * (fell - (share * fell).sum()) + self.decay * self.logits
        self.steps += 1
        self.first.lerp_(slope, 1 - BETAS[0])
        self.second.lerp_(slope.square(), 1 - BETAS[1])
        first, second = (
            each / (1 - beta**self.steps)
            for each, beta in zip((self.first, self.second), BETAS, strict=True)
        )
        self.logits -= self.lr * first / (second.sqrt() + EPS)
