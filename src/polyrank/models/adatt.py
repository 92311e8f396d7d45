"""AdaTT: every task fuses the experts of all tasks, beside a residual of its own.

Letters: B rows, W columns of a level's inputs (of x at the first, H after), E experts of a level,
H columns of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.layout import Layout
from polyrank.models.ple import SHARED
from polyrank.models.trunk import Mixing, Trunk, TrunkModule
from polyrank.nn.experts import ExpertBank, GateOfAll, mixture
from polyrank.nn.named import Named
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class AdaTT(Trunk):
    """Adaptive task-to-task fusion, level by level.

    At level j, task k and the shared group s have experts of their own, which read their group's
    representation; at level 1 that is x for all: h_k,0 = h_s,0 = x.

    - E_j = [experts of every task at h_k,j−1; shared experts at h_s,j−1]
    - h_k,j = softmax(G_k,j h_k,j−1) · E_j + Σ_i v_k,j,i · e_k,j,i: a task fuses all experts of the
      level, and adds a linear combination of its own e_k,j,i; of a single one, v = 1
    - h_s,j likewise at every level but the last, where nothing would read it
    - h_k = h_k,J after the last of J levels

    PLE's tasks see their own and the shared experts; here they see everybody's, and the residual
    keeps what is their own.

    Args:
        levels: J.
        shared_experts: of a level; 0 leaves the shared group out (the paper's AdaTT-sp).
        task_experts: of one task in a level.
        hidden: columns of each layer of an expert.

    Examples:
        >>> AdaTT(levels=1, shared_experts=0).task_experts
        2

    Reference:
        Li et al., KDD 2023, section 3: fusion of all experts and of the native ones.
    """

    levels: int = 2
    shared_experts: int = 1
    task_experts: int = 2
    hidden: Sequence[int] = (16,)

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.whole("AdaTT: shared_experts", self.shared_experts, least=0)

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(each for each in super().sizes if each != "shared_experts")

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> AdaTTTrunk:
        names = [task.name for task in tasks]
        after = self.hidden[-1] if self.hidden else layout.width
        levels = [
            AdaTTLevel(self, after if at else layout.width, names, last=at + 1 == self.levels)
            for at in range(self.levels)
        ]
        return AdaTTTrunk(levels, names)


class Combination(nn.Module):
    """Σ_i v_i · e_i: (B, m, H) → (B, H); v is drawn from U(±1 ÷ √m), and is 1 of one expert."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.weight = None
        if experts > 1:
            self.weight = nn.Parameter(torch.empty(experts).uniform_(-1, 1) / sqrt(experts))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(1) if self.weight is None else self.weight @ outputs


class Fused(NamedTuple):
    """What one level gives, by group."""

    outputs: dict[str, Tensor]  # of its experts: (B, m, H)
    gates: dict[str, Tensor]  # weights of all experts: (B, E)
    residuals: dict[str, Tensor]  # of its own experts: (B, H)

    @property
    def experts(self) -> Tensor:
        """The outputs of all experts: (B, E, H)."""
        return torch.cat(list(self.outputs.values()), dim=1)

    def mixed(self) -> dict[str, Tensor]:
        """Return what each gate mixes, with its residual: (B, H)."""
        experts = self.experts
        return {
            name: mixture(weights, experts) + self.residuals[name]
            for name, weights in self.gates.items()
        }


class AdaTTLevel(nn.Module):
    """One level: each group's (B, W) → what its experts, gates and residuals give."""

    def __init__(self, spec: AdaTT, inputs: int, names: Sequence[str], *, last: bool) -> None:
        super().__init__()
        shared = spec.shared_experts
        bank = partial(ExpertBank, inputs, hidden=spec.hidden, **spec.layers)
        gate = partial(GateOfAll, inputs, dict.fromkeys(names, spec.task_experts), shared)
        # The shared group is beside the tasks, not among them: a task may be called "shared".
        self.expert = Named({name: bank(experts=spec.task_experts) for name in names})
        self.shared = bank(experts=shared) if shared else None
        self.gate = Named({name: gate() for name in names})
        self.own = Named({name: Combination(spec.task_experts) for name in names})
        fused = shared > 0 and not last
        self.shared_gate = gate() if fused else None
        self.shared_own = Combination(shared) if fused else None

    def forward(self, h: Mapping[str, Tensor]) -> Fused:
        outputs = {name: bank(h[name]) for name, bank in self.expert.items()}
        gates = {name: gate(h[name]) for name, gate in self.gate.items()}
        residuals = {name: own(outputs[name]) for name, own in self.own.items()}
        if self.shared is not None:
            outputs[SHARED] = self.shared(h[SHARED])
        if self.shared_gate is not None and self.shared_own is not None:
            gates[SHARED] = self.shared_gate(h[SHARED])
            residuals[SHARED] = self.shared_own(outputs[SHARED])
        return Fused(outputs, gates, residuals)


class AdaTTTrunk(TrunkModule):
    """The levels one after the other: (B, W) → {task: (B, H)}."""

    def __init__(self, levels: Sequence[AdaTTLevel], tasks: Sequence[str]) -> None:
        super().__init__()
        self.level = nn.ModuleList(levels)
        self.tasks = list(tasks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = dict.fromkeys([*self.tasks, SHARED], x)
        for level in self.level:
            h = level(h).mixed()
        return h

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        h = dict.fromkeys([*self.tasks, SHARED], x)
        found: list[Mixing] = []
        for number, level in enumerate(self.level):
            fused = level(h)
            names = [
                f"{group} {at}"
                for group, each in fused.outputs.items()
                for at in range(each.shape[1])
            ]
            found.append(
                Mixing(
                    experts=tuple(names),
                    outputs=fused.experts,
                    gates=fused.gates,
                    level=f"level {number}" if len(self.level) > 1 else "",
                    residuals=fused.residuals,
                )
            )
            h = fused.mixed()
        return tuple(found)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the shared group; a task's experts are its own, as in PLE."""
        found: list[nn.Parameter] = []
        for level in self.level:
            assert isinstance(level, AdaTTLevel)
            for part in (level.shared, level.shared_gate, level.shared_own):
                found += part.parameters() if part is not None else ()
        return found
