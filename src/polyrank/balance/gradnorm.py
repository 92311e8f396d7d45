"""Gradient normalisation.

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
    BalanceModule,
    BalanceTerm,
    joined_norms,
    refuse_densities,
)

LOWEST_WEIGHT = 1e-3  # a large step must not turn a loss around


@dataclass(frozen=True, kw_only=True)
class GradNorm(Balance):
    """L = Σ weight · w · loss, with w learned so that terms train at similar rates.

    At the shared tensors together (x, the trunk's shared parameters) term i has the gradient norm
    G_i = w_i · ‖∇ loss_i‖ and the inverse training rate r_i = (loss_i / first loss_i) ÷ the mean of
    these. w goes down the gradient of Σ |G_i − Ḡ · r_i^α| ÷ Ḡ, where Ḡ, the mean norm, and the
    targets are held constant; then it is scaled back to Σ w = T.

    The division by Ḡ is ours: losses of another unit then move w just as far. The tasks' weights
    are applied after w, so they still say how much a task counts. A term without rows in a batch
    has loss 0: its w stays as it is, and the others are balanced among themselves.

    Args:
        alpha: how strongly a term that trains slower than the others is pulled up; 0 makes all
            norms equal.
        lr: step size of w.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> balance = GradNorm(lr=0.1).build(terms)
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> balance.backward({"a @ all": x.sum(), "b @ all": 3 * x.sum()}, [x])
        tensor(4.)
        >>> balance.weight  # b's gradient is the larger one
        tensor([1.1053, 0.8947])

    Reference:
        Chen et al., ICML 2018, eq. 1-2 and algorithm 1.
    """

    alpha: float = 0.16
    lr: float = 0.025

    def __post_init__(self) -> None:
        for name in ("alpha", "lr"):
            spec.number(f"GradNorm: {name}", getattr(self, name), least=0)

    def build(self, terms: Sequence[BalanceTerm]) -> GradNormModule:
        refuse_densities(terms, "gradnorm")
        return GradNormModule(terms, self.alpha, self.lr)


class GradNormModule(BalanceModule):
    """w and the first loss of each term: buffers, since w has a rule and a step size of its own."""

    by_ranks = True

    weight: Tensor
    first_loss: Tensor
    importance: Tensor

    def __init__(self, terms: Sequence[BalanceTerm], alpha: float, lr: float) -> None:
        super().__init__()
        self.terms = [term.name for term in terms]
        self.alpha, self.lr = alpha, lr
        self.register_buffer("weight", torch.ones(len(terms)))
        self.register_buffer("first_loss", torch.zeros(len(terms)))  # 0: not seen yet
        importance = torch.tensor([term.weight for term in terms])
        self.register_buffer("importance", importance, persistent=False)

    def backward(self, losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([losses[name] for name in self.terms])
        gradients = [_gradients(losses[name], shared) for name in self.terms]
        norms = torch.stack([each.norm() for each in joined_norms(gradients, self.ranks)])
        # The step is taken with the w that it was measured with (algorithm 1).
        total = (self.importance * self.weight * stacked).sum()
        total.backward()
        self._move(stacked.detach(), norms)
        return total.detach()

    def _move(self, losses: Tensor, norms: Tensor) -> None:
        present = norms > 0  # a term without rows, or behind layers that are 0, has no gradient
        self.first_loss = torch.where(self.first_loss == 0, losses, self.first_loss)
        ratio = _zero_unless(present, losses / self.first_loss)
        rate = ratio / _mean(ratio, present)
        own = self.weight * norms
        mean = _mean(own, present)
        pull = torch.sign(own - mean * rate**self.alpha) * norms / mean
        moved = (self.weight - self.lr * _zero_unless(present & (mean > 0), pull)).clamp(
            min=LOWEST_WEIGHT
        )
        # Over the terms that are present, so that the others keep theirs and Σ w stays T.
        scale = _zero_unless(present, self.weight).sum() / _zero_unless(present, moved).sum()
        self.weight = torch.where(present, moved * scale, self.weight)


def _gradients(loss: Tensor, shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)


def _zero_unless(condition: Tensor, value: Tensor) -> Tensor:
    return torch.where(condition, value, torch.zeros_like(value))


def _mean(value: Tensor, present: Tensor) -> Tensor:
    return _zero_unless(present, value).sum() / present.sum()
