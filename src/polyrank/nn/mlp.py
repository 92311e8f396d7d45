"""The multi-layer perceptron that towers, bottoms and experts are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, linear, silu
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["none", "batch"]
Activation = Literal["relu", "swish"]
# Swish, x · σ(x), has a gradient below 0 too, so that no unit dies: Ramachandran et al., 2017.
ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "swish": silu}


class RowNorm(_BatchNorm):
    """Batch norm; by the running statistics for a batch of one row, which has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        training = self.training and input.shape[0] > 1
        if training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        return batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            training, self.momentum or 0.0, self.eps,
        )  # fmt: skip


class BatchNorm(RowNorm, nn.BatchNorm1d):
    """Row norm of one layer."""


class MLP(nn.Module):
    """Linear → (norm) → activation → (dropout) for each of `hidden`; without, the identity."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        norm: Norm = "none",
        dropout: float = 0.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.width = widths[-1]
        self.linear = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.norm = nn.ModuleList(
            BatchNorm(width) if norm == "batch" else nn.Identity() for width in hidden
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.activate = ACTIVATIONS[activation]
        self.normed, self.drops = norm == "batch", dropout > 0  # a call that does nothing costs too

    def is_dead(self, x: Tensor) -> bool:
        """Return whether the output is one constant for rows that differ: no gradient ever passes.

        Batch norm, which centres every unit, rules that out.
        """
        if not self.linear or any(isinstance(norm, BatchNorm) for norm in self.norm):
            return False
        out = self(x)
        return bool((out == out[:1]).all()) and not bool((x == x[:1]).all())

    def redraw(self) -> None:
        for layer in self.linear:
            assert isinstance(layer, nn.Linear)
            layer.reset_parameters()

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """Return the last layer's activations; `first` is the first linear map of x, if known."""
        for layer, norm in zip(self.linear, self.norm, strict=True):
            x = layer(x) if first is None else first
            first = None
            if self.normed:
                x = norm(x)
            x = self.activate(x)
            if self.drops:
                x = self.dropout(x)
        return x


def first_layers(mlps: Mapping[str, MLP], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the first linear map of each MLP that shares its input: one matmul reads it once."""
    groups: list[tuple[Tensor, dict[str, nn.Linear]]] = []
    for name, mlp in mlps.items():
        if len(mlp.linear):
            layer, x = mlp.linear[0], inputs[name]
            assert isinstance(layer, nn.Linear)
            for other, group in groups:  # torch 2.9 traces no id() of a tensor
                if other is x:
                    group[name] = layer
                    break
            else:
                groups.append((x, {name: layer}))
    found = {}
    for x, group in groups:
        if len(group) > 1:
            layers = group.values()
            weight = torch.cat([layer.weight for layer in layers])
            bias = torch.cat([layer.bias for layer in layers])
            parts = linear(x, weight, bias).split([layer.out_features for layer in layers], dim=1)
            # Batch norm is slow on columns that do not lie together.
            found |= {name: part.contiguous() for name, part in zip(group, parts, strict=True)}
    return found
