"""Cross: products of columns of x by low-rank matrices, in the cross network of DCN-v2.

Letters: B rows, W columns of x, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import linear

from polyrank.layout import Layout
from polyrank.models.interaction import Interaction
from polyrank.models.trunk import check_sizes


@dataclass(frozen=True, kw_only=True)
class Cross(Interaction):
    """x_{l+1} = x_0 ⊙ (U_l V_l x_l + b_l) + x_l, with x_0 = x.

    After l layers, each column is a polynomial of degree l + 1 of all columns. U and b start at
    zero: the first step sees x itself, and a product is there once a gradient asks for it.

    Args:
        rank: R, the columns between V and U; below W, since a full matrix has W² weights.
        layers: number of cross layers.

    Raises:
        ConfigError: a rank or a number of layers that is no whole number of at least 1.

    Example:
        >>> Cross(rank=16)
        Cross(rank=16, layers=1)

    Reference:
        Wang et al., WWW 2021, "DCN V2", eq. 1-2.
    """

    rank: int = 32
    layers: int = 1

    def __post_init__(self) -> None:
        check_sizes("Cross: rank", self.rank)
        check_sizes("Cross: layers", self.layers)

    def build(self, layout: Layout) -> CrossLayers:
        return CrossLayers(layout.width, self.rank, self.layers)


class CrossLayers(nn.Module):
    """The layers one after the other: (B, W) → (B, W); the identity before training."""

    def __init__(self, width: int, rank: int, layers: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(LowRank(width, rank) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.layer
        # x ⊙ (U V x + b) + x, in two thirds of the time: it reads and writes (B, W) less often.
        crossed = x * first(x, 1.0)
        for layer in others:
            crossed = x * layer(crossed) + crossed
        return crossed


class LowRank(nn.Module):
    """U V x + b + plus: (B, W) → (B, W); `plus` before training."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.v = nn.Linear(width, rank, bias=False)
        self.u = nn.Linear(rank, width)
        nn.init.zeros_(self.u.weight)
        nn.init.zeros_(self.u.bias)

    def forward(self, x: Tensor, plus: float = 0.0) -> Tensor:
        return linear(self.v(x), self.u.weight, self.u.bias + plus)
