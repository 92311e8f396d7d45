"""One step of the dense part: from x and labels to x's gradient and updated parameters.

Letters: B rows of the batch, W columns of x, L labels, T terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from polyrank.balance import BalanceModule
from polyrank.models.ranker import Ranker
from polyrank.objective.losses import Supervision
from polyrank.train.optim import set_lr

Lap = Callable[[str], None]


class Stepped(NamedTuple):
    """What a step gives back.

    Args:
        gradient: of x: (B, W).
        losses: of each term, then each penalty: (T + penalties,).
        rows: of each term in the batch: (T,).
    """

    gradient: Tensor
    losses: Tensor
    rows: Tensor


class EagerStep:
    """The step as torch runs it, operation by operation: any balance, any optimiser, any batch.

    What is the same at every step (lists of parameters, the learning rate) is not done again.

    Args:
        ranker: trunk and heads.
        supervision: the terms.
        balance: losses to gradients.
        dense: the optimiser of the dense part and of the balance.
        lap: told the end of each part of the step.
    """

    def __init__(
        self,
        ranker: Ranker,
        supervision: Supervision,
        balance: BalanceModule,
        dense: torch.optim.Optimizer,
        lap: Lap,
    ) -> None:
        self.ranker, self.supervision, self.balance = ranker, supervision, balance
        self.dense, self.lap = dense, lap
        self.names: tuple[str, ...] = ()
        self._behind_x = ranker.dense_parameters()
        self._shared = ranker.shared_parameters()
        self._stepped = [each for group in dense.param_groups for each in group["params"]]
        self._lr: float | None = None

    def __call__(self, x: Tensor, labels: Tensor, weight: Tensor | None, lr: float) -> Stepped:
        """Step on a batch: x (B, W), labels (B, L), weights (B,) or None."""
        x.requires_grad_()
        scores = self.ranker(x)
        losses, rows = self.supervision.losses(scores.logits, labels, weight)
        self.lap("forward")
        for parameter in self._stepped:
            parameter.grad = None
        pull = _gradients(scores.penalties, [x, *self._behind_x]) if scores.penalties else ()
        self.balance.backward(losses, [x, *self._shared])
        for tensor, gradient in pull:  # after the balance, which may set gradients as it likes
            tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient
        self.lap("backward")
        if lr != self._lr:
            set_lr(self.dense, lr)
            self._lr = lr
        self.dense.step()
        self.lap("dense step")
        assert x.grad is not None
        if not self.names:
            self.names = step_names(losses, scores.penalties)
        each = [*losses.values(), *scores.penalties.values()]
        return Stepped(
            x.grad, torch.stack([loss.detach() for loss in each]), torch.stack(list(rows.values()))
        )


def step_names(losses: Mapping[str, Tensor], penalties: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of a step's losses, in order."""
    return (*losses, *(f"penalty {name}" for name in penalties))


def _gradients(
    penalties: Mapping[str, Tensor], leaves: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return the leaves that penalties pull at, with the gradients of their sum."""
    total = torch.stack(list(penalties.values())).sum()
    found = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    return [
        (leaf, gradient)
        for leaf, gradient in zip(leaves, found, strict=True)
        if gradient is not None
    ]
