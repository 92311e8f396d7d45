"""Cross-stitch: a tower for each task, and learned sums of all towers after each layer.

Letters: B rows, W columns of a layer's inputs (of x at the first), H columns of a layer, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyrank.layout import Layout
from polyrank.models.trunk import Trunk, TrunkModule
from polyrank.nn.mlp import MLP, first_layers
from polyrank.nn.named import Named
from polyrank.schema import Task

OWN = 0.9  # of a task's own activations at first; the others share the rest


@dataclass(frozen=True, kw_only=True)
class CrossStitch(Trunk):
    """A tower for each task, whose activations are mixed linearly after each layer.

    - z_k,l = f_k,l(s_k,l−1), with s_k,0 = x and f_k,l a layer of task k
    - s_k,l = Σ_j α_kj,l · z_j,l over all tasks j
    - h_k = s_k,L after the last of L layers

    α_kk starts at 0.9 and the other α_kj at 0.1 ÷ (T − 1): towers that are nearly separate, which
    learn how much to share and at which layer. A single task keeps α = 1 at first.

    Args:
        hidden: columns of each layer of a tower.

    Examples:
        >>> CrossStitch(hidden=[32, 16]).hidden
        (32, 16)

    Reference:
        Misra et al., CVPR 2016, eq. 1.
    """

    hidden: Sequence[int] = (64,)

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> CrossStitchTrunk:
        return CrossStitchTrunk(self, layout.width, [task.name for task in tasks])


class Coefficient(nn.Module):
    """One number α: () → (1,)."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))

    def forward(self) -> Tensor:
        return self.weight


class Stitch(nn.Module):
    """Σ_j α_kj · z_j for each task k: (B, T, H) → (B, T, H); α is kept by the tasks' names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        own, other = (OWN, (1 - OWN) / (len(names) - 1)) if len(names) > 1 else (1.0, 0.0)
        self.task = Named(
            {
                k: Named({j: Coefficient(own if j == k else other) for j in names})
                for k in names
            }
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        each = [coefficient() for _, row in self.task.items() for _, coefficient in row.items()]
        return torch.cat(each).view(z.shape[1], -1) @ z


class CrossStitchTrunk(TrunkModule):
    """Layers of all tasks with a stitch after each: (B, W) → {task: (B, H)}."""

    def __init__(self, spec: CrossStitch, inputs: int, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        layers, width = [], inputs
        for each in spec.hidden:
            layers.append(Named({name: MLP(width, [each], **spec.layers) for name in names}))
            width = each
        self.layer = nn.ModuleList(layers)
        self.stitch = nn.ModuleList(Stitch(names) for _ in spec.hidden)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mixed = dict.fromkeys(self.names, x)
        for layer, stitch in zip(self.layer, self.stitch, strict=True):
            assert isinstance(layer, Named)
            own = dict(layer.items())
            first = first_layers(own, mixed)
            z = [own[name](mixed[name], first.get(name)) for name in self.names]
            mixed = dict(zip(self.names, stitch(torch.stack(z, dim=1)).unbind(1), strict=True))
        return mixed

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the stitches but the last, which all tasks read.

        A row of the last one is its task's alone. So is a tower: other tasks' gradients reach it
        only by what they take of it.
        """
        return [each for stitch in list(self.stitch)[:-1] for each in stitch.parameters()]
