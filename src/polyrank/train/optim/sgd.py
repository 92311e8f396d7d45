"""Stochastic gradient descent on the rows of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from polyrank.nn import kernels
from polyrank.train.optim.engine import RowOptimizer


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
