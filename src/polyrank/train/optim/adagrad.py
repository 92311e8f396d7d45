"""Adagrad on the rows of the batch: a step size a weight, or one a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from polyrank.nn import kernels
from polyrank.train.optim.engine import RowOptimizer


@dataclass(frozen=True, kw_only=True)
class Adagrad(RowOptimizer):
    """Adagrad on the rows that a batch touches: w ← w − lr · g ÷ (√Σg² + eps), weight by weight.

    g is the gradient plus l2 · row, on touched rows only. A row that no batch touches has gradient
    0, so that without l2 this is Adagrad on every row. Its steps only shrink: it wants a larger lr
    than Adam, 0.01 to 0.1.

    Args:
        eps: added to the root of the sum of squares.

    Reference:
        Duchi, Hazan and Singer, JMLR 12, 2011, section 1.1 (the diagonal version).
    """

    eps: float = 1e-10

    rule = kernels.ADAGRAD
    state_columns = {"total": None}  # noqa: RUF012 (read only)

    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        """Return lr and eps."""
        return lr, self.eps

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        """Step rows in place."""
        lr, eps = numbers
        (total,) = state
        total.addcmul_(gradient, gradient)
        weight.addcdiv_(gradient, total.sqrt().add_(eps), value=-lr)


@dataclass(frozen=True, kw_only=True)
class RowwiseAdagrad(Adagrad):
    """Adagrad with one step size a row: w ← w − lr · g ÷ (√Σ mean(g²) + eps).

    The mean is over the row, so that its state is one number a row, in place of the two a weight of
    Adam. l2 and lr are as in `Adagrad`.

    Args:
        eps: added to the root of the sum of mean squares.

    Reference:
        Duchi, Hazan and Singer, JMLR 12, 2011; the mean over a row as in Mudigere et al., ISCA
        2022, section 4.1.4.
    """

    rule = kernels.ROWWISE_ADAGRAD
    state_columns = {"total": 1}  # noqa: RUF012 (read only)

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        """Step rows in place."""
        lr, eps = numbers
        (total,) = state
        total.add_(gradient.square().mean(dim=1, keepdim=True))
        weight.sub_(gradient * (lr / (total.sqrt() + eps)))
