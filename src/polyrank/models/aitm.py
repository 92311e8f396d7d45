"""Adaptive information transfer: each task attends to the one that must happen before it.

Letters: B rows, W columns of x, H columns of a tower's output, D columns of the attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from polyrank import spec
from polyrank.errors import ConfigError, did_you_mean
from polyrank.layout import Layout
from polyrank.models.trunk import Trunk, TrunkModule
from polyrank.nn.experts import mixture
from polyrank.nn.mlp import MLP, first_layers
from polyrank.nn.named import Named
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class AITM(Trunk):
    """A tower for each task, and attention to the representation of the task before it.

    - q_k = f_k(x); z_k = q_k for a root, else
    - p = g_k(z_before), z_k = AIT_k(p, q_k) = Σ_u w_u · h1(u) over u in {p, q_k}, with
    - w_u ∝ exp(⟨h2(u), h3(u)⟩ / √D)

    The task before k is its `given`, else its predecessor in `chain`. Several roots and branches
    work as a chain does: each task attends to its own predecessor.

    The paper's heads all predict joint probabilities, and its Behavioral Expectation Calibrator
    keeps P(k) ≤ P(before) by a penalty. Here the head of a `given` task predicts P(k | given), so
    its joint is a product that cannot exceed its parent's: the penalty of such a pair is always 0
    and is left out. It is computed for pairs of events that `chain` alone links, whose heads
    predict P(click) and P(buy) side by side, as in the paper:
    λ · mean over rows of max(P(k) − P(before), 0).

    Args:
        hidden: columns of each layer of a tower f_k.
        dim: D; None takes the tower's last.
        chain: names of tasks that `given` does not link already, in the order in which they happen.
        penalty: λ of the calibrator; 0 turns it off.

    Raises:
        ConfigError: at `build`, a chain that names an unknown task or contradicts `given`.

    Examples:
        >>> AITM(chain=["click", "buy"]).chain
        ('click', 'buy')

    Reference:
        Xi et al., KDD 2021, section 3: the AIT module, the calibrator, and λ = 0.6.
    """

    hidden: Sequence[int] = (64,)
    dim: int | None = None
    chain: Sequence[str] | None = None
    penalty: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.number("AITM: penalty", self.penalty, least=0)
        chain = self.chain
        if chain is None:
            return
        names = isinstance(chain, tuple) and all(isinstance(name, str) for name in chain)
        if not names or len(chain) < 2 or len(set(chain)) < len(chain):
            raise ConfigError(
                f"AITM: chain must be a list of at least two different tasks, got {chain!r}"
            )

    @property
    def sizes(self) -> tuple[str, ...]:
        return ("hidden",) if self.dim is None else ("hidden", "dim")

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> AITMTrunk:
        return AITMTrunk(self, layout.width, tasks)


class Attention(nn.Module):
    """AIT(p, q) = Σ_u w_u · h1(u), w_u ∝ exp(⟨h2(u), h3(u)⟩ / √D): (B, H) twice → (B, D)."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.h1, self.h2, self.h3 = (nn.Linear(inputs, dim, bias=False) for _ in range(3))

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        u = torch.stack([p, q], dim=1)
        scores = (self.h2(u) * self.h3(u)).sum(dim=2) / sqrt(self.h1.out_features)
        return mixture(scores.softmax(dim=1), self.h1(u))


class AITMTrunk(TrunkModule):
    """Towers, and for each task with a predecessor a transfer g_k and an attention AIT_k.

    `shared_parameters` is empty: a tower belongs to its task, though later tasks read it.
    """

    def __init__(self, spec: AITM, inputs: int, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.penalty = spec.penalty
        self.before = before = predecessors(tasks, spec.chain or ())
        self.tower = Named({task.name: MLP(inputs, spec.hidden, **spec.layers) for task in tasks})
        width = self.tower[tasks[0].name].width
        dim = spec.dim or width
        transfer, attention = {}, {}
        for name, earlier in before.items():
            read = dim if earlier in before else width  # a root's z is its tower's output
            transfer[name] = MLP(read, [width], **spec.layers)
            attention[name] = Attention(width, dim)
        self.transfer, self.attention = Named(transfer), Named(attention)
        events = {task.name for task in tasks if task.label_kind.is_event}
        given = {task.name: task.given for task in tasks}
        # For each task with a calibrator, the heads whose product is P(before).
        self.watched = {
            name: (*_path(given, earlier), earlier)
            for name, earlier in before.items()
            if spec.penalty and given[name] is None and {name, earlier} <= events
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        towers = dict(self.tower.items())
        first = first_layers(towers, dict.fromkeys(towers, x))
        z = {name: tower(x, first.get(name)) for name, tower in towers.items()}
        for name, earlier in self.before.items():
            z[name] = self.attention[name](self.transfer[name](z[earlier]), z[name])
        return z

    def penalties(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return λ · mean max(P(k) − P(before), 0) of each pair that `chain` alone links."""
        found = {}
        for name, heads in self.watched.items():
            joint = torch.stack([logsigmoid(logits[head]) for head in heads]).sum(0).exp()
            above = (logits[name].sigmoid() - joint).clamp(min=0).mean()
            found[f"{name} above {heads[-1]}"] = self.penalty * above
        return found


def predecessors(tasks: Sequence[Task], chain: Sequence[str]) -> dict[str, str]:
    """Return each task's predecessor, if it has one; a predecessor's own entry comes first.

    Examples:
        >>> tasks = [Task("buy"), Task("cart", given="click"), Task("click")]
        >>> predecessors(tasks, ["cart", "buy"])
        {'cart': 'click', 'buy': 'cart'}
    """
    given = {task.name: task.given for task in tasks}
    for name in chain:
        if name not in given:
            raise ConfigError(f"AITM: chain: unknown task {name!r}{did_you_mean(name, given)}")
    before = dict(given)
    for earlier, name in pairwise(chain):
        if given[name] not in (None, earlier):
            raise ConfigError(
                f"AITM: chain puts {earlier!r} before {name!r}, whose given is {given[name]!r}: "
                "leave out what given links already"
            )
        before[name] = earlier
    paths = {name: _path(before, name) for name in before}
    return {
        name: path[-1]
        for name, path in sorted(paths.items(), key=lambda item: len(item[1]))
        if path
    }


def _path(before: Mapping[str, str | None], name: str) -> tuple[str, ...]:
    path: list[str] = []
    earlier = before[name]
    while earlier is not None:
        if earlier == name or earlier in path:
            cycle = " → ".join([*reversed(path), name])
            raise ConfigError(f"AITM: chain and given make a cycle: {name} → {cycle}")
        path.append(earlier)
        earlier = before[earlier]
    return tuple(reversed(path))
