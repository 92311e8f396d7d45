"""Separate: tasks share the embeddings and nothing else.

Letters: B rows, W columns of x.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polyrank.layout import Layout
from polyrank.models.trunk import Trunk, TrunkModule
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class Separate(Trunk):
    """Each task's tower reads x itself; with entire-space supervision this is ESMM.

    Example:
        >>> Separate()
        Separate(norm=None, dropout=None)

    Reference:
        Ma et al., SIGIR 2018, figure 2.
    """

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> SeparateTrunk:
        return SeparateTrunk(tasks)


class SeparateTrunk(TrunkModule):
    """Hands x to every task: (B, W) → {task: (B, W)}."""

    def __init__(self, tasks: tuple[Task, ...]) -> None:
        super().__init__()
        self.tasks = [task.name for task in tasks]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, x)
