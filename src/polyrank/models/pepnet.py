"""PEPNet: personalised gates around any trunk.

Letters: B rows, W columns of x, U columns of a gate's input, H columns of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.errors import ConfigError, did_you_mean
from polyrank.layout import Layout
from polyrank.models.shared_bottom import SharedBottom
from polyrank.models.trunk import Mixing, Trunk, TrunkModule, check_sizes, with_defaults
from polyrank.nn.mlp import MLP
from polyrank.nn.named import Named
from polyrank.registry import resolved
from polyrank.schema import Task

KINDS = "polyrank.models.model:TRUNKS"  # which imports this module


@dataclass(frozen=True, kw_only=True)
class PEPNet(Trunk):
    """Another trunk between gates that say, a row at a time, how much each unit counts.

    A gate G(u) = 2σ(W' ReLU(W u + b) + b') lies between 0 and 2. It reads u = [x_g; sg(x)]: the
    columns of the gate features g, and all of x as a constant (sg, stop-gradient), so that what is
    learned through a gate does not disturb the embeddings of other features.

    - x' = x ⊙ G(u), the embedding gate (EPNet), is what the inner trunk reads
    - z_k,0 = the inner trunk's representation of task k
    - z_k,l = f_k,l(z_k,l−1) ⊙ G_k,l(u), layers of each task with gates (PPNet)
    - h_k = z_k,L

    Args:
        trunk: the inner trunk, of a registered kind.
        gates: features whose columns the gates read with their gradient, such as the user's, the
            item's or the domain's id; without any they read x alone.
        embedding: whether there is the embedding gate.
        hidden: columns of each of a task's gated layers; [] leaves them out.
        gate_hidden: columns between W and W'; None takes those of the gate's output.

    Raises:
        ConfigError: a trunk that is not registered, no gate at all, or, at `build`, a gate feature
            that the schema does not have.

    Examples:
        >>> from polyrank.models.mmoe import MMoE
        >>> PEPNet(gates=["user_id"], trunk=MMoE(experts=4)).gates
        ('user_id',)

    Reference:
        Chang et al., KDD 2023, "PEPNet: Parameter and Embedding Personalized Network", eq. 2-8.
    """

    trunk: Trunk = field(default_factory=SharedBottom, metadata={spec.KINDS: KINDS})
    gates: Sequence[str] = ()
    embedding: bool = True
    hidden: Sequence[int] = (16,)
    gate_hidden: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.trunk) not in resolved(KINDS).values():
            raise ConfigError(
                f"PEPNet: trunk must be of a registered kind, such as MMoE(), got {self.trunk!r}"
            )
        if not isinstance(self.gates, tuple) or not all(isinstance(g, str) for g in self.gates):
            raise ConfigError(f"PEPNet: gates must be a list of features, got {self.gates!r}")
        if not isinstance(self.embedding, bool):
            raise ConfigError(f"PEPNet: embedding must be true or false, got {self.embedding!r}")
        if not self.embedding and not self.hidden:
            raise ConfigError(
                "PEPNet: without the embedding gate and without hidden layers it has no gate: use "
                "the inner trunk itself"
            )
        if self.gate_hidden is not None:
            check_sizes("PEPNet: gate_hidden", self.gate_hidden)

    def sets(self, tasks: Sequence[Task]) -> int:
        return self.trunk.sets(tasks)

    @property
    def sizes(self) -> tuple[str, ...]:
        return ("hidden",)

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> PEPNetTrunk:
        inner = with_defaults(self.trunk, self.norm, self.dropout).build(layout, tasks)
        return PEPNetTrunk(self, inner, layout, [task.name for task in tasks])


def columns_of(layout: Layout, names: Sequence[str]) -> list[slice]:
    """Return where features lie in x, all slots of each."""
    features = {feature.name: feature for feature in layout.schema.features}
    for name in names:
        if name not in features:
            hint = did_you_mean(name, features)
            raise ConfigError(
                f"PEPNet: gates: unknown feature {name!r}{hint}: name features of the schema"
            )
        if not features[name].slots:
            raise ConfigError(
                f"PEPNet: gates: feature {name!r} has no columns in x for a gate to read"
            )
        if name in layout.schema.own_towers:
            raise ConfigError(
                f"PEPNet: gates: feature {name!r} has a tower of its own, which alone reads it: "
                "leave one of the two out"
            )
    # The places of a list that is attended to are one slot of what a trunk reads.
    slots = [slot.name for name in names for slot in features[name].slots]
    return [layout.slices[name] for name in slots if name in layout.slices]


class GateUnit(nn.Module):
    """2σ(W' ReLU(W u + b) + b'): (B, U) → (B, outputs)."""

    def __init__(self, inputs: int, outputs: int, hidden: int | None) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden or outputs)
        self.output = nn.Linear(hidden or outputs, outputs)

    def forward(self, u: Tensor) -> Tensor:
        return 2 * self.output(self.hidden(u).relu()).sigmoid()


class GatedLayers(nn.Module):
    """Layers of one task, each ⊙ its gate: (B, H), (B, U) → (B, H of the last)."""

    def __init__(self, spec: PEPNet, inputs: int, gate_inputs: int) -> None:
        super().__init__()
        widths = [inputs, *spec.hidden]
        self.layer = nn.ModuleList(
            MLP(width, [after], **spec.layers)
            for width, after in zip(widths, spec.hidden, strict=False)
        )
        self.gate = nn.ModuleList(
            GateUnit(gate_inputs, after, spec.gate_hidden) for after in spec.hidden
        )

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        for layer, gate in zip(self.layer, self.gate, strict=True):
            z = layer(z) * gate(u)
        return z


class PEPNetTrunk(TrunkModule):
    """The inner trunk between gates: (B, W) → {task: (B, H)}."""

    def __init__(
        self, spec: PEPNet, inner: nn.Module, layout: Layout, names: Sequence[str]
    ) -> None:
        super().__init__()
        self.columns = columns_of(layout, spec.gates)
        inputs = layout.width + sum(each.stop - each.start for each in self.columns)
        gate = partial(GateUnit, inputs, hidden=spec.gate_hidden)
        self.embedding_gate = gate(layout.width) if spec.embedding else None
        self.trunk = inner
        self.task = None
        if spec.hidden:
            widths = _widths(inner, layout.width)
            self.task = Named({name: GatedLayers(spec, widths[name], inputs) for name in names})

    def gate_input(self, x: Tensor) -> Tensor:
        """Return u = [x_g; sg(x)]: (B, W) → (B, U)."""
        return torch.cat([*(x[:, each] for each in self.columns), x.detach()], dim=1)

    def gated(self, x: Tensor) -> Tensor:
        """Return what the inner trunk reads: (B, W) → (B, W)."""
        if self.embedding_gate is None:
            return x
        return x * self.embedding_gate(self.gate_input(x))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.trunk(self.gated(x))
        if self.task is None:
            return z
        u = self.gate_input(x)
        return {name: layers(z[name], u) for name, layers in self.task.items()}

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return those of the embedding gate and of the inner trunk; gated layers are a task's."""
        own = [] if self.embedding_gate is None else list(self.embedding_gate.parameters())
        return own + (self.trunk.shared_parameters() if isinstance(self.trunk, TrunkModule) else [])

    def penalties(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.trunk.penalties(logits) if isinstance(self.trunk, TrunkModule) else {}

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        """Return what the inner trunk's gates do with its experts."""
        return self.trunk.mixing(self.gated(x)) if isinstance(self.trunk, TrunkModule) else ()


def _widths(trunk: nn.Module, inputs: int) -> dict[str, int]:
    """Return the columns that a trunk gives each task."""
    training = trunk.training
    trunk.eval()
    with torch.no_grad():
        found = {name: each.shape[1] for name, each in trunk(torch.zeros(2, inputs)).items()}
    trunk.train(training)
    return found
