"""Adam on embedding rows: on those of the batch, or on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from polyrank.nn import kernels
from polyrank.train.optim.engine import RowOptimizer


@dataclass(frozen=True, kw_only=True)
class LazyAdam(RowOptimizer):
    """Adam on the rows that a batch touches; the others keep weight and moments.

    The bias correction counts the steps of the run, not those of the row. l2 acts on touched rows
    only. It is not dense Adam: a row that a batch does not touch neither moves nor decays.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1, applied to the rows of the batch.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    rule = kernels.ADAM
    state_columns = {"first": None, "second": None}  # noqa: RUF012 (read only)

    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        """Return 1 − β₁, β₂, 1 − β₂, lr ÷ (1 − β₁ᵗ), 1 ÷ √(1 − β₂ᵗ) and eps at step t."""
        keep1, keep2 = self.betas
        size, correction = lr / (1 - keep1**steps), 1 / sqrt(1 - keep2**steps)
        return 1 - keep1, keep2, 1 - keep2, size, correction, self.eps

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        """Step rows in place."""
        add1, keep2, add2, size, correction, eps = numbers
        m, v = state
        m.lerp_(gradient, add1)
        v.mul_(keep2).addcmul_(gradient, gradient, value=add2)
        weight.addcdiv_(m, v.sqrt().mul_(correction).add_(eps), value=-size)


@dataclass(frozen=True, kw_only=True)
class DenseAdam(LazyAdam):
    """Adam on every row at every step, by the maths of `torch.optim.Adam`: slow on large tables.

    l2 is coupled, so that a row that no batch touches shrinks at every step.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1.
    """

    every_row = True
