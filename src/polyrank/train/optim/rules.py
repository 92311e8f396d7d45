"""The rules that step embedding rows; each is also a compiled one in `nn.kernels`."""

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
    """Adagrad with one step size per row: w ← w − lr · g ÷ (√Σ mean(g²) + eps).

    The mean is over the row, so that its state is one number per row, where Adam has two per
    weight. l2 and lr are as in `Adagrad`.

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


@dataclass(frozen=True, kw_only=True)
class SGD(RowOptimizer):
    """w ← w − lr · g on the rows that a batch touches; g is the gradient plus l2 · row.

    It has no state. Without l2 it is the same as on every row.

    Reference:
        Robbins and Monro, Annals of Mathematical Statistics 22, 1951.
    """

    rule = kernels.SGD

    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        """Return lr."""
        return (lr,)

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        """Step rows in place."""
        weight.sub_(gradient, alpha=numbers[0])
