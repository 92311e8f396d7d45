"""STEM: embeddings of each task's own beside shared ones.

Letters: B rows, W columns of x, X columns of one set in x (H after the first level), E experts of a
level, H columns of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.models.ple import SHARED
from polyrank.models.trunk import Mixing, Trunk, TrunkModule, check_sizes
from polyrank.nn.experts import ExpertBank, GateOfAll, mixture
from polyrank.nn.mlp import MLP
from polyrank.nn.named import Named
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class STEM(Trunk):
    """Every table holds a set of embeddings for each task and one for all.

    x_k are the columns of task k's set, x_s those of the shared set; columns that are looked up in
    no table, such as numbers, are in every set. At level j, with h_k,0 = x_k and h_s,0 = x_s:

    - E_k,j = [experts of k at h_k,j−1; shared experts at h_s,j−1; sg(experts of each other task)]
    - h_k,j = softmax(G_k,j f_k,j(h_k,j−1 + h_s,j−1)) · E_k,j
    - h_s,j = softmax(G_s,j f_s,j(h_s,j−1)) · [all experts], at every level but the last
    - h_k = h_k,J after the last of J levels

    sg is stop-gradient: a task reads the experts of all, and teaches its own and the shared ones.
    So its embeddings learn from its own labels alone. Tables are T + 1 times as wide: `embed_dim`
    is the width of one set. An interaction before the trunk mixes sets, and gradients with them:
    the paper has none.

    Args:
        levels: J.
        shared_experts: of a level.
        task_experts: of one task in a level.
        hidden: columns of each layer of an expert.
        gate_hidden: columns of each layer of f, the network of a gate; [] for a linear gate.

    Examples:
        >>> STEM(hidden=[32]).sets((Task("click"), Task("buy")))
        3

    Reference:
        Su et al., AAAI 2024, "STEM: Unleashing the Power of Embeddings for Multi-task
        Recommendation", section 4: shared and task-specific embeddings, all forward task-specific
        backward gating.
    """

    levels: int = 1
    shared_experts: int = 1
    task_experts: int = 1
    hidden: Sequence[int] = (16,)
    gate_hidden: Sequence[int] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gate_hidden, tuple):
            raise ConfigError(
                f"STEM: gate_hidden must be a list of widths, got {self.gate_hidden!r}"
            )
        check_sizes("STEM: gate_hidden", self.gate_hidden)

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(each for each in super().sizes if each != "gate_hidden")

    def sets(self, tasks: Sequence[Task]) -> int:
        return len(tasks) + 1

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> STEMTrunk:
        names = [task.name for task in tasks]
        if layout.sets != self.sets(tasks):
            raise ConfigError(
                f"STEM needs tables of {self.sets(tasks)} sets of embeddings, one for each task "
                f"and one for all, and the layout has {layout.sets}: build it by Model.layout"
            )
        columns = dict(zip([*names, SHARED], map(layout.of_set, range(layout.sets)), strict=True))
        width = sum(each.stop - each.start for each in columns[SHARED])
        after = self.hidden[-1] if self.hidden else width
        levels = [
            STEMLevel(self, after if at else width, names, last=at + 1 == self.levels)
            for at in range(self.levels)
        ]
        return STEMTrunk(levels, columns)


class STEMGate(nn.Module):
    """softmax(G f(h)) over all experts of a level: (B, X) → (B, E)."""

    def __init__(self, spec: STEM, inputs: int, names: Sequence[str]) -> None:
        super().__init__()
        self.network = MLP(inputs, spec.gate_hidden, **spec.layers)
        experts = dict.fromkeys(names, spec.task_experts)
        self.choice = GateOfAll(self.network.width, experts, spec.shared_experts)

    def forward(self, h: Tensor) -> Tensor:
        return self.choice(self.network(h))


class STEMLevel(nn.Module):
    """One level: (B, X) of each task and of the shared set → weights and outputs of experts."""

    def __init__(self, spec: STEM, inputs: int, names: Sequence[str], *, last: bool) -> None:
        super().__init__()
        bank = partial(ExpertBank, inputs, hidden=spec.hidden, **spec.layers)
        # The shared set is beside the tasks, not among them: a task may be called "shared".
        self.expert = Named({name: bank(experts=spec.task_experts) for name in names})
        self.shared = bank(experts=spec.shared_experts)
        self.gate = Named({name: STEMGate(spec, inputs, names) for name in names})
        self.shared_gate = None if last else STEMGate(spec, inputs, names)

    def outputs(self, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the experts of each group give: (B, their number, H)."""
        found = {name: bank(h[name]) for name, bank in self.expert.items()}
        return found | {SHARED: self.shared(h[SHARED])}

    def gates(self, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of all experts for each group that mixes them: (B, E)."""
        found = {name: gate(h[name] + h[SHARED]) for name, gate in self.gate.items()}
        return found if self.shared_gate is None else found | {SHARED: self.shared_gate(h[SHARED])}

    def forward(self, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs, gates = self.outputs(h), self.gates(h)
        held = {name: each.detach() for name, each in outputs.items()}
        found = {}
        for name, weights in gates.items():
            live = (name, SHARED) if name != SHARED else tuple(outputs)
            seen = [(outputs if each in live else held)[each] for each in outputs]
            found[name] = mixture(weights, torch.cat(seen, dim=1))
        return found


class STEMTrunk(TrunkModule):
    """The levels one after the other: (B, W) → {task: (B, H)}."""

    def __init__(self, levels: Sequence[STEMLevel], columns: Mapping[str, Sequence[slice]]) -> None:
        super().__init__()
        self.level = nn.ModuleList(levels)
        self.columns = {name: list(each) for name, each in columns.items()}

    def sets_of(self, x: Tensor) -> dict[str, Tensor]:
        """Return the columns of each task's set and of the shared one: (B, X)."""
        return {
            name: torch.cat([x[:, each] for each in columns], dim=1)
            for name, columns in self.columns.items()
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.sets_of(x)
        for level in self.level:
            h = level(h)
        return h

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        h = self.sets_of(x)
        found: list[Mixing] = []
        for number, level in enumerate(self.level):
            assert isinstance(level, STEMLevel)
            outputs = level.outputs(h)
            experts = [
                f"{group} {at}" for group, each in outputs.items() for at in range(each.shape[1])
            ]
            found.append(
                Mixing(
                    experts=tuple(experts),
                    outputs=torch.cat(list(outputs.values()), dim=1),
                    gates=level.gates(h),
                    level=f"level {number}" if len(self.level) > 1 else "",
                )
            )
            h = level(h)
        return tuple(found)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the shared experts and of their gates."""
        found: list[nn.Parameter] = []
        for level in self.level:
            assert isinstance(level, STEMLevel)
            found += level.shared.parameters()
            found += level.shared_gate.parameters() if level.shared_gate is not None else ()
        return found
