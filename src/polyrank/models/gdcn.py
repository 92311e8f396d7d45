"""GDCN: cross layers whose products pass a learned gate.

Letters: B rows, W columns of x.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polyrank.models.dcnv2 import CrossNetwork, zeros


@dataclass(frozen=True, kw_only=True)
class GDCN(CrossNetwork):
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) ⊙ σ(G_l x_l) + x_l, with x_0 = x.

    The gate σ(G_l x_l) lets a product pass in some rows and not in others, so that more layers
    add fewer products that are noise. W and b start at zero: training starts from x itself.

    Args:
        layers: number of cross layers.
        structure: "stacked" (the paper's GDCN-S), or "parallel" beside layers of its own (GDCN-P).
        hidden: columns of these layers.
        dropout: of these layers.

    Examples:
        >>> GDCN(layers=2).structure
        'stacked'

    Reference:
        Wang et al., CIKM 2023, "Towards Deeper, Lighter and Interpretable Cross Network for CTR
        Prediction", eq. 2.
    """

    def layer(self, width: int) -> nn.Module:
        return Gated(width)


class Gated(nn.Module):
    """x_0 ⊙ (W x + b) ⊙ σ(G x) + x: (B, W), (B, W) → (B, W); x before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = zeros(nn.Linear(width, width))
        self.gate = nn.Linear(width, width, bias=False)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        return first * self.w(x) * self.gate(x).sigmoid() + x
