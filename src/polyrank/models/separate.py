"""Separate: tasks share the embeddings and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.layout import Layout
from polyrank.models.shared_bottom import SharedBottomTrunk
from polyrank.models.trunk import Trunk
from polyrank.nn.mlp import MLP
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

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> SharedBottomTrunk:
        return SharedBottomTrunk(MLP(layout.width, []), tasks)  # without layers: x for each task
