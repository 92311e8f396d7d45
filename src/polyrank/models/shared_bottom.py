"""Shared bottom: one MLP for all tasks, then their towers; and separate towers, without it.

Letters: B rows, W columns of x, H columns of the bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from polyrank.layout import Layout
from polyrank.models.trunk import Trunk, TrunkModule
from polyrank.nn.mlp import MLP
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class SharedBottom(Trunk):
    """h_k = tower_k(f(x)), with one f for all tasks.

    Args:
        hidden: columns of each layer of the bottom.

    Examples:
        >>> SharedBottom(hidden=[64, 32]).hidden
        (64, 32)

    Reference:
        Caruana, Machine Learning 1997; Ma et al., KDD 2018, eq. 1.
    """

    hidden: Sequence[int] = (64,)

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> SharedBottomTrunk:
        return SharedBottomTrunk(MLP(layout.width, self.hidden, **self.layers), tasks)


class SharedBottomTrunk(TrunkModule):
    """One representation for every task: (B, W) → {task: (B, H)}."""

    def __init__(self, bottom: MLP, tasks: tuple[Task, ...]) -> None:
        super().__init__()
        self.bottom = bottom
        self.tasks = [task.name for task in tasks]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, self.bottom(x))

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.bottom.parameters())


@dataclass(frozen=True, kw_only=True)
class Separate(Trunk):
    """Each task's tower reads x itself; with entire-space supervision this is ESMM.

    Examples:
        >>> Separate()
        Separate(norm=None, dropout=None, activation=None)

    Reference:
        Ma et al., SIGIR 2018, figure 2.
    """

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> SharedBottomTrunk:
        return SharedBottomTrunk(MLP(layout.width, []), tasks)  # without layers: x for each task
