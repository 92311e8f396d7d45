"""DCN-v2: cross layers with full matrices, below the trunk or beside layers of their own.

Letters: B rows, W columns of x, H columns of the deep layers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from polyrank.errors import ConfigError, did_you_mean
from polyrank.layout import Layout
from polyrank.models.cross import CrossLayers
from polyrank.models.interaction import Interaction
from polyrank.models.trunk import check_layers, check_sizes
from polyrank.nn.mlp import MLP

Structure = Literal["stacked", "parallel"]


@dataclass(frozen=True, kw_only=True)
class CrossNetwork(Interaction):
    """Base of the cross networks with full matrices, which differ in their layer.

    Args:
        layers: number of cross layers, L.
        structure: "stacked": the trunk is the deep network and reads x_L. "parallel": it reads
            x_L + P f(x), with f an MLP of its own. This is the paper's linear map of [x_L ; f(x)],
            its part of x_L held at the identity, so that each feature keeps its place in x.
        hidden: columns of each layer of f; read by "parallel" alone.
        dropout: of the layers of f.

    Raises:
        ConfigError: a size that is no whole number of at least 1, an unknown structure, or one that
            contradicts `hidden`.
    """

    layers: int = 3
    structure: Structure = "stacked"
    hidden: Sequence[int] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_sizes(f"{name}: layers", self.layers)
        if self.structure not in get_args(Structure):
            hint = did_you_mean(str(self.structure), get_args(Structure))
            raise ConfigError(f"{name}: unknown structure {self.structure!r}{hint}")
        if not isinstance(self.hidden, list | tuple):
            raise ConfigError(f"{name}: hidden must be a list of widths, got {self.hidden!r}")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_sizes(f"{name}: hidden", self.hidden)
        check_layers(name, None, self.dropout)
        if (self.structure == "parallel") != bool(self.hidden):
            raise ConfigError(
                f"{name}: hidden are the layers beside the cross network, which "
                'structure="parallel" needs and "stacked" has none of, got '
                f"hidden={list(self.hidden)} with structure={self.structure!r}"
            )

    @abstractmethod
    def layer(self, width: int) -> nn.Module:
        """Return a layer: x_0 (B, W), x_l (B, W) → x_{l+1} (B, W)."""

    def build(self, layout: Layout) -> nn.Module:
        cross = CrossLayers(self.layer(layout.width) for _ in range(self.layers))
        if not self.hidden:
            return cross
        return Parallel(cross, MLP(layout.width, self.hidden, dropout=self.dropout), layout.width)


@dataclass(frozen=True, kw_only=True)
class DCNv2(CrossNetwork):
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, with x_0 = x and a full W_l.

    After l layers, each column is a polynomial of degree l + 1 of all columns, as after `Cross`,
    whose W_l = U_l V_l has a rank; here it has W² weights. W and b start at zero: training starts
    from x itself.

    Args:
        layers: number of cross layers.
        structure: "stacked", below the trunk, or "parallel", beside layers of its own.
        hidden: columns of these layers.
        dropout: of these layers.

    Examples:
        >>> DCNv2(layers=2, structure="parallel", hidden=[64]).hidden
        (64,)

    Reference:
        Wang et al., WWW 2021, "DCN V2", eq. 1 and figure 1.
    """

    def layer(self, width: int) -> nn.Module:
        return FullRank(width)


class FullRank(nn.Module):
    """x_0 ⊙ (W x + b) + x: (B, W), (B, W) → (B, W); x before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = zeros(nn.Linear(width, width))

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        return first * self.w(x) + x


class Parallel(nn.Module):
    """cross(x) + P f(x): (B, W) → (B, W); P starts at zero and has no bias."""

    def __init__(self, cross: CrossLayers, deep: MLP, width: int) -> None:
        super().__init__()
        self.cross, self.deep = cross, deep
        self.output = zeros(nn.Linear(deep.width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.cross(x) + self.output(self.deep(x))


def zeros(layer: nn.Linear) -> nn.Linear:
    """Return a linear layer whose weights start at zero."""
    for each in layer.parameters():
        nn.init.zeros_(each)
    return layer
