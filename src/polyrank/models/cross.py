"""Cross: products of columns of x by low-rank matrices, in the cross network of DCN-v2.

Letters: B rows, W columns of x, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling
from torch.nn.functional import linear

from polyrank.layout import Layout
from polyrank.models.interaction import Interaction
from polyrank.models.trunk import check_sizes

# From so many rows on, (B, W) is larger than a usual cache, and products go by chunks of rows.
MANY_ROWS, CHUNK_ROWS = 2048, 256


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

    Examples:
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
        return CrossLayers(LowRank(layout.width, self.rank) for _ in range(self.layers))


class CrossLayers(nn.Module):
    """Layers (x_0, x_l) → x_{l+1} one after the other, from x_0 = x: (B, W) → (B, W)."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        crossed = x
        for layer in self.layer:
            crossed = layer(x, crossed)
        return crossed


class LowRank(nn.Module):
    """x_0 ⊙ (U V x + b) + x: (B, W), (B, W) → (B, W); x before training."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.v = nn.Linear(width, rank, bias=False)
        self.u = nn.Linear(rank, width)
        nn.init.zeros_(self.u.weight)
        nn.init.zeros_(self.u.bias)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        if first is not x:
            return first * self.u(self.v(x)) + x
        if self.training and not is_compiling() and x.is_cpu and len(x) >= MANY_ROWS:
            return Squared.apply(x, self.v.weight, self.u.weight, self.u.bias)
        # x ⊙ (U V x + (b + 1)), in two thirds of the time: it reads and writes (B, W) less often.
        return x * linear(self.v(x), self.u.weight, self.u.bias + 1)


class Squared(Function):
    """x ⊙ (U V x + b) + x, a few rows at a time, so that (B, W) stays in the cache meanwhile.

    At 4,096 rows of a wide x, what takes most of the time is to read and write them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, u: Tensor, b: Tensor) -> Tensor:
        found, down = torch.empty_like(x), x.new_empty(len(x), len(v))
        plus = b + 1
        for some in _chunks(len(x)):
            torch.mm(x[some], v.T, out=down[some])
            torch.mul(torch.addmm(plus, down[some], u.T), x[some], out=found[some])
        ctx.save_for_backward(x, v, u, plus, down)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:  # pyrefly: ignore
        (gradient,), (x, v, u, plus, down) = grad_outputs, ctx.saved_tensors
        of_x, of_v, of_u, of_b = (torch.zeros_like(each) for each in (x, v, u, plus))
        for some in _chunks(len(x)):
            product = gradient[some] * x[some]
            back = product @ u
            torch.mul(torch.addmm(plus, down[some], u.T), gradient[some], out=of_x[some])
            of_x[some].addmm_(back, v)
            of_v.addmm_(back.T, x[some])
            of_u.addmm_(product.T, down[some])
            of_b += product.sum(0)
        return of_x, of_v, of_u, of_b


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, rows, CHUNK_ROWS))
