"""HoME: a hierarchy of gated experts, first of categories of tasks and then of tasks.

Letters: B rows, W columns of a level's inputs (of x at the first, H after), E experts that a gate
mixes, H columns of an expert, R rank of a feature gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polyrank.errors import ConfigError, did_you_mean
from polyrank.layout import Layout
from polyrank.models.ple import SHARED
from polyrank.models.trunk import Mixing, Trunk, TrunkModule
from polyrank.nn.experts import ExpertBank, Gate, GateOfAll, mixture
from polyrank.nn.mlp import Activation, Norm
from polyrank.nn.named import Named
from polyrank.schema import Task

MAPS = 2  # L, the low-rank maps that a feature gate mixes


@dataclass(frozen=True, kw_only=True)
class HoME(Trunk):
    """Two levels of experts under a hierarchy: categories of tasks, then tasks.

    Every group of experts (a category's, a task's, the shared) reads its input v by a feature gate
    of its own, F(v) = v ⊙ Σ_l softmax(S v)_l · 2σ(B_l A_l v), with L = 2 maps of rank R. So a group
    with few labels chooses its columns, and is not overrun by the others. Its experts are
    Linear → batch norm → Swish.

    - z_c = softmax(G_c x) · [experts of c; shared] + own_c(x): each category c of tasks
    - z_s = softmax(G_s x) · [experts of all categories; shared] + own_s(x)
    - h_k = softmax(G_k u) · [experts of k at z_c; of c at z_c; shared at z_s] + own_k(u), with
      u = [z_c; z_s], for each task k of category c
    - own_g(v) = σ(w_g v) · e_g of a group's one expert e_g, or softmax(W_g v) over its several: the
      self gate, by which a group's gradient never waits for the other gates

    The paper leaves open what the self gate of the second level reads: here it is u, as its gate
    does.

    Args:
        shared_experts: of all tasks, in a level.
        category_experts: of a category, in a level.
        task_experts: of one task.
        hidden: columns of each layer of an expert.
        rank: R of the feature gates.
        categories: the tasks of each category by its name; None makes one of each task without
            `given` and all that follow from it, which has that task's name.

    Raises:
        ConfigError: a wrong size, or at `build` categories that do not have each task once.

    Examples:
        >>> HoME(categories={"watch": ["view", "finish"], "act": ["like"]}).categories["act"]
        ('like',)

    Reference:
        Wang et al., KDD 2025, "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at
        Kuaishou", section 3: expert normalisation and Swish, hierarchy mask, feature and self gate.
    """

    shared_experts: int = 1
    category_experts: int = 1
    task_experts: int = 1
    hidden: Sequence[int] = (16,)
    rank: int = 8
    categories: Mapping[str, Sequence[str]] | None = None
    norm: Norm | None = "batch"
    activation: Activation | None = "swish"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.categories is None:
            return
        if not isinstance(self.categories, Mapping) or not self.categories:
            raise ConfigError(
                "HoME: categories must give the tasks of each category, such as "
                f'{{"watch": ["view", "finish"]}}, got {self.categories!r}'
            )
        for name, tasks in self.categories.items():
            names = isinstance(tasks, list | tuple) and all(isinstance(each, str) for each in tasks)
            if not names or not tasks:
                raise ConfigError(
                    f"HoME: category {name!r} must be a list of at least one task, got {tasks!r}"
                )
        found = {name: tuple(tasks) for name, tasks in self.categories.items()}
        object.__setattr__(self, "categories", found)

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(each for each in super().sizes if each != "categories")

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> HoMETrunk:
        return HoMETrunk(self, layout.width, categories_of(self.categories, tasks))


def categories_of(
    given: Mapping[str, Sequence[str]] | None, tasks: Sequence[Task]
) -> dict[str, str]:
    """Return the category of each task, in the order of tasks.

    Examples:
        >>> tasks = [Task("click"), Task("buy", given="click"), Task("like")]
        >>> categories_of(None, tasks)
        {'click': 'click', 'buy': 'click', 'like': 'like'}
    """
    before = {task.name: task.given for task in tasks}
    if given is None:

        def root(name: str) -> str:
            earlier = before[name]
            return name if earlier is None else root(earlier)

        return {name: root(name) for name in before}
    found: dict[str, str] = {}
    for category, names in given.items():
        for name in names:
            if name not in before:
                hint = did_you_mean(name, before)
                raise ConfigError(f"HoME: category {category!r}: unknown task {name!r}{hint}")
            if name in found:
                raise ConfigError(
                    f"HoME: task {name!r} is in the categories {found[name]!r} and {category!r}: "
                    "name it in one"
                )
            found[name] = category
    for name in before:
        if name not in found:
            raise ConfigError(
                f"HoME: task {name!r} is in no category: name it in one of "
                f"{', '.join(map(repr, given))}, or leave categories out"
            )
    return {name: found[name] for name in before}


class FeatureGate(nn.Module):
    """v ⊙ Σ_l softmax(S v)_l · 2σ(B_l A_l v): (B, W) → (B, W)."""

    def __init__(self, inputs: int, rank: int) -> None:
        super().__init__()
        self.choice = nn.Linear(inputs, MAPS, bias=False)
        self.down = nn.Linear(inputs, MAPS * rank, bias=False)  # all A_l, one below the other
        self.up = nn.Parameter(torch.empty(MAPS, inputs, rank))  # all B_l
        nn.init.uniform_(self.up, -1 / sqrt(rank), 1 / sqrt(rank))  # as a linear layer's

    def forward(self, v: Tensor) -> Tensor:
        low = self.down(v).unflatten(1, (MAPS, -1)).transpose(0, 1)
        gates = 2 * torch.bmm(low, self.up.transpose(1, 2)).sigmoid()  # (L, B, W)
        chosen = self.choice(v).softmax(dim=1).T.unsqueeze(2)
        return v * (chosen * gates).sum(dim=0)


class Group(nn.Module):
    """The experts of one group behind its feature gate: (B, W) → (B, E, H)."""

    def __init__(self, spec: HoME, inputs: int, experts: int) -> None:
        super().__init__()
        self.feature_gate = FeatureGate(inputs, spec.rank)
        self.expert = ExpertBank(inputs, experts, spec.hidden, **spec.layers)

    def forward(self, v: Tensor) -> Tensor:
        return self.expert(self.feature_gate(v))


class SelfGate(nn.Module):
    """σ(w v) · e of one expert, or softmax(W v) over several: (B, W), (B, E, H) → (B, H)."""

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Linear(inputs, experts, bias=False).weight

    def forward(self, v: Tensor, outputs: Tensor) -> Tensor:
        scores = nn.functional.linear(v, self.weight)
        weights = scores.sigmoid() if outputs.shape[1] == 1 else scores.softmax(dim=1)
        return mixture(weights, outputs)


class Mixed(NamedTuple):
    """What one level gives, by group."""

    outputs: dict[str, Tensor]  # of its experts: (B, E, H)
    sees: dict[str, tuple[str, ...]]  # the groups that each gate mixes, in order
    gates: dict[str, Tensor]  # weights of the experts that it sees: (B, those)
    residuals: dict[str, Tensor]  # (B, H)

    def sums(self) -> dict[str, Tensor]:
        """Return what each gate mixes, with its residual: (B, H)."""
        return {
            name: mixture(weights, torch.cat([self.outputs[each] for each in self.sees[name]], 1))
            + self.residuals[name]
            for name, weights in self.gates.items()
        }

    def mixing(self, level: str) -> Mixing:
        """Return the same over all experts of the level, those that a gate does not see at 0."""
        names = {
            group: tuple(f"{group} {at}" for at in range(each.shape[1]))
            for group, each in self.outputs.items()
        }
        experts = tuple(name for group in names.values() for name in group)
        sees = {
            gate: tuple(name for group in groups for name in names[group])
            for gate, groups in self.sees.items()
        }
        gates = {}
        for name, weights in self.gates.items():
            gates[name] = weights.new_zeros(len(weights), len(experts))
            gates[name][:, [experts.index(each) for each in sees[name]]] = weights
        return Mixing(
            experts=experts,
            outputs=torch.cat(list(self.outputs.values()), dim=1),
            gates=gates,
            sees=sees,
            level=level,
            residuals=self.residuals,
        )


class MetaLevel(nn.Module):
    """The level of categories: (B, W) → what they and the shared group mix."""

    def __init__(self, spec: HoME, inputs: int, categories: Sequence[str]) -> None:
        super().__init__()
        shared, own = spec.shared_experts, spec.category_experts
        group = partial(Group, spec, inputs)
        self.category = Named({name: group(own) for name in categories})
        self.shared = group(shared)
        self.gate = Named({name: Gate(inputs, own + shared) for name in categories})
        self.own = Named({name: SelfGate(inputs, own) for name in categories})
        self.shared_gate = GateOfAll(inputs, dict.fromkeys(categories, own), shared)
        self.shared_own = SelfGate(inputs, shared)

    def forward(self, x: Tensor) -> Mixed:
        outputs = {name: group(x) for name, group in self.category.items()}
        outputs[SHARED] = self.shared(x)
        sees: dict[str, tuple[str, ...]] = {name: (name, SHARED) for name in self.category}
        gates = {name: gate(x) for name, gate in self.gate.items()}
        residuals = {name: own(x, outputs[name]) for name, own in self.own.items()}
        sees[SHARED] = tuple(outputs)
        gates[SHARED] = self.shared_gate(x)
        residuals[SHARED] = self.shared_own(x, outputs[SHARED])
        return Mixed(outputs, sees, gates, residuals)


class TaskLevel(nn.Module):
    """The level of tasks: each category's z_c and z_s, (B, H) → what the tasks mix."""

    def __init__(self, spec: HoME, inputs: int, category: Mapping[str, str]) -> None:
        super().__init__()
        self.of = dict(category)
        own = spec.task_experts
        seen = own + spec.category_experts + spec.shared_experts
        group = partial(Group, spec, inputs)
        self.task = Named({name: group(own) for name in category})
        names = dict.fromkeys(category.values())
        self.category = Named({name: group(spec.category_experts) for name in names})
        self.shared = group(spec.shared_experts)
        self.gate = Named({name: Gate(2 * inputs, seen) for name in category})
        self.own = Named({name: SelfGate(2 * inputs, own) for name in category})

    def forward(self, z: Mapping[str, Tensor]) -> Mixed:
        outputs = {name: group(z[self.of[name]]) for name, group in self.task.items()}
        # A category may have the name of a task.
        middle = {name: f"category {name}" for name in self.category}
        outputs |= {middle[name]: group(z[name]) for name, group in self.category.items()}
        outputs[SHARED] = self.shared(z[SHARED])
        u = {name: torch.cat([z[name], z[SHARED]], dim=1) for name in self.category}
        sees: dict[str, tuple[str, ...]] = {
            name: (name, middle[of], SHARED) for name, of in self.of.items()
        }
        gates = {name: gate(u[self.of[name]]) for name, gate in self.gate.items()}
        residuals = {name: own(u[self.of[name]], outputs[name]) for name, own in self.own.items()}
        return Mixed(outputs, sees, gates, residuals)


class HoMETrunk(TrunkModule):
    """Categories, then tasks: (B, W) → {task: (B, H)}."""

    def __init__(self, spec: HoME, inputs: int, category: Mapping[str, str]) -> None:
        super().__init__()
        names = list(dict.fromkeys(category.values()))
        after = spec.hidden[-1] if spec.hidden else inputs
        self.meta = MetaLevel(spec, inputs, names)
        self.task = TaskLevel(spec, after, category)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.task(self.meta(x).sums()).sums()

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        meta = self.meta(x)
        return meta.mixing("meta"), self.task(meta.sums()).mixing("task")

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the shared groups, and of categories of several tasks."""
        of = list(self.task.of.values())
        several = [name for name in self.meta.category if of.count(name) > 1]
        meta, task = self.meta, self.task
        parts: list[nn.Module] = [meta.shared, meta.shared_gate, meta.shared_own, task.shared]
        for name in several:
            parts += [meta.category[name], meta.gate[name], meta.own[name], task.category[name]]
        return [each for part in parts for each in part.parameters()]
