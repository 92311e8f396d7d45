"""Multi-gate mixture of experts.

Letters: B rows, W columns of x, E experts, H columns of an expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from polyrank.layout import Layout
from polyrank.models.trunk import Mixing, Trunk, TrunkModule
from polyrank.nn.experts import ExpertBank, Gate, mixtures
from polyrank.nn.named import Named
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class MMoE(Trunk):
    """f_k(x) = Σ_e g_k(x)_e · f_e(x) with g_k(x) = softmax(W_k x).

    Args:
        experts: shared by all tasks.
        hidden: columns of each layer of an expert.

    Examples:
        >>> MMoE(experts=4, hidden=[16]).hidden
        (16,)

    Reference:
        Ma et al., KDD 2018, eq. 6-7.
    """

    experts: int = 8
    hidden: Sequence[int] = (16,)

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> MMoETrunk:
        expert = ExpertBank(layout.width, self.experts, self.hidden, **self.layers)
        gate = {task.name: Gate(layout.width, self.experts) for task in tasks}
        return MMoETrunk(expert, Named(gate))


class MMoETrunk(TrunkModule):
    """Each task's mixture of the same experts, by its own gate: (B, W) → {task: (B, H)}."""

    def __init__(self, expert: ExpertBank, gate: Named[Gate]) -> None:
        super().__init__()
        self.expert, self.gate = expert, gate

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return mixtures(self.gate, x, self.expert(x))

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.expert.parameters())  # a gate belongs to its task

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        experts = tuple(str(number) for number in range(len(self.expert)))
        gates = {name: gate(x) for name, gate in self.gate.items()}
        return (Mixing(experts=experts, outputs=self.expert(x), gates=gates),)
