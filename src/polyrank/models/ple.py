"""Progressive layered extraction: levels of shared and task-specific experts.

Letters: B rows, W columns of a level's inputs (of x at the first, H after), T tasks, E experts that
a gate mixes, H columns of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from polyrank.layout import Layout
from polyrank.models.trunk import Mixing, Trunk, TrunkModule
from polyrank.nn.experts import ExpertBank, Gate, GateOfAll, mixture
from polyrank.nn.named import Named
from polyrank.schema import Task

SHARED = "shared group"  # is no identifier, so no task has this name


@dataclass(frozen=True, kw_only=True)
class PLE(Trunk):
    """Levels of customised gate control, each fed by the one before.

    At level j, task k and the shared group s have experts of their own, which read their own
    group's representation; at level 1 that is x for all: g_k,0 = g_s,0 = x.

    - S_k,j = [experts of k at g_k,j−1; shared experts at g_s,j−1]
    - g_k,j = softmax(W_k,j g_k,j−1) · S_k,j: a task mixes its own and the shared experts
    - S_s,j = [experts of every task; shared experts]
    - g_s,j = softmax(W_s,j g_s,j−1) · S_s,j: the shared group mixes all experts of the level
    - h_k = g_k,J after the last of J levels, whose shared gate nothing would read: it has none

    With one level this is CGC, customised gate control.

    Args:
        levels: J.
        shared_experts: of a level.
        task_experts: of one task in a level.
        hidden: columns of each layer of an expert.

    Examples:
        >>> PLE(levels=3, hidden=[32]).hidden
        (32,)

    Reference:
        Tang et al., RecSys 2020, sections 4.1 (CGC) and 4.2 (PLE), figures 4 and 5.
    """

    levels: int = 2
    shared_experts: int = 2
    task_experts: int = 2
    hidden: Sequence[int] = (16,)

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> PLETrunk:
        names = [task.name for task in tasks]
        after = self.hidden[-1] if self.hidden else layout.width
        levels = [
            PLELevel(self, after if number else layout.width, names, last=number + 1 == self.levels)
            for number in range(self.levels)
        ]
        return PLETrunk(levels, names)


class PLELevel(nn.Module):
    """One level of extraction: {task: (B, W)}, (B, W) → {task: (B, H)}, (B, H) or None."""

    def __init__(self, spec: PLE, inputs: int, names: Sequence[str], *, last: bool) -> None:
        super().__init__()
        bank = partial(ExpertBank, inputs, hidden=spec.hidden, **spec.layers)
        # The shared group is beside the tasks, not among them: a task may be called "shared".
        self.expert = Named({name: bank(experts=spec.task_experts) for name in names})
        self.shared = bank(experts=spec.shared_experts)
        seen = spec.task_experts + spec.shared_experts
        self.gate = Named({name: Gate(inputs, seen) for name in names})
        experts = dict.fromkeys(names, spec.task_experts)
        self.shared_gate = None if last else GateOfAll(inputs, experts, spec.shared_experts)

    def forward(
        self, own: Mapping[str, Tensor], common: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        shared = self.shared(common)
        expert = {name: bank(own[name]) for name, bank in self.expert.items()}
        mixed = {
            name: mixture(self.gate[name](own[name]), torch.cat([outputs, shared], dim=1))
            for name, outputs in expert.items()
        }
        if self.shared_gate is None:
            return mixed, None
        everyone = torch.cat([*expert.values(), shared], dim=1)
        return mixed, mixture(self.shared_gate(common), everyone)

    def mixing(self, own: Mapping[str, Tensor], common: Tensor, level: str) -> Mixing:
        """Return what the tasks' gates and the shared one do with all experts of the level."""
        outputs = {name: bank(own[name]) for name, bank in self.expert.items()}
        outputs[SHARED] = self.shared(common)
        names = {
            group: tuple(f"{group} {number}" for number in range(each.shape[1]))
            for group, each in outputs.items()
        }
        experts = tuple(name for group in names.values() for name in group)
        sees = {name: names[name] + names[SHARED] for name in self.gate}
        gates = {}
        for name, seen in sees.items():
            chosen = self.gate[name](own[name])
            columns = [experts.index(each) for each in seen]
            gates[name] = chosen.new_zeros(len(chosen), len(experts))
            gates[name][:, columns] = chosen
        if self.shared_gate is not None:
            gates[SHARED] = self.shared_gate(common)
        return Mixing(
            experts=experts,
            outputs=torch.cat(list(outputs.values()), dim=1),
            gates=gates,
            sees=sees,
            level=level,
        )


class PLETrunk(TrunkModule):
    """The levels one after the other: (B, W) → {task: (B, H)}."""

    def __init__(self, levels: Sequence[PLELevel], tasks: Sequence[str]) -> None:
        super().__init__()
        self.level = nn.ModuleList(levels)
        self.tasks = list(tasks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        own, common = dict.fromkeys(self.tasks, x), x
        for level in self.level:
            own, common = level(own, common)
        return own

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        own, common = dict.fromkeys(self.tasks, x), x
        found: list[Mixing] = []
        for number, level in enumerate(self.level):
            assert isinstance(level, PLELevel)
            name = f"level {number}" if len(self.level) > 1 else ""
            found.append(level.mixing(own, common, name))
            outputs, gates = found[-1].outputs, found[-1].gates
            own = {gate: mixture(weights, outputs) for gate, weights in gates.items()}
            common = own.pop(SHARED, common)
        return tuple(found)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the shared experts and the shared gates.

        Other tasks' gradients reach a task's own experts too, through shared gates of lower levels,
        but so little that a balance which scaled the experts to them would starve them.
        """
        found: list[nn.Parameter] = []
        for level in self.level:
            assert isinstance(level, PLELevel)
            found += level.shared.parameters()
            found += level.shared_gate.parameters() if level.shared_gate is not None else ()
        return found
