"""Experts and the gates that mix them.

Letters: B rows, W columns of x, E experts, H columns of an expert.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from polyrank.nn.mlp import MLP, Norm


class ExpertBank(nn.ModuleList):
    """Experts of one shape that start different: each draws its own weights.

    Shape:
        - input: (B, W)
        - output: (B, E, H)
    """

    def __init__(
        self, inputs: int, experts: int, hidden: Sequence[int], norm: Norm, dropout: float
    ) -> None:
        super().__init__(MLP(inputs, hidden, norm, dropout) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """Return every expert's output."""
        return torch.stack([expert(x) for expert in self], dim=1)


class Gate(nn.Module):
    """softmax(W·x): weights over experts; no bias, no normalisation, no dropout.

    Shape:
        - input: (B, W)
        - output: (B, E), rows sum to 1

    Reference:
        Ma et al., KDD 2018, eq. 7.
    """

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Linear(inputs, experts, bias=False).weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the weight of each expert."""
        return linear(x, self.weight).softmax(dim=-1)


def mixture(weights: Tensor, outputs: Tensor) -> Tensor:
    """Return Σ_e weights[:, e] · outputs[:, e, :]: (B, E), (B, E, H) → (B, H)."""
    return torch.einsum("be,beh->bh", weights, outputs)
