"""Experts and the gates that mix them.

Letters: B rows, W columns of x, E experts, H columns of an expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from polyrank.nn.bank import Bank
from polyrank.nn.named import Named


class ExpertBank(Bank):
    """Experts of one shape that start different: each draws its own weights.

    Shape:
        - input: (B, W)
        - output: (B, E, H)
    """


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
    return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)


def mixtures(gate: Named, x: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Return each gate's mixture of the same experts: (B, W), (B, E, H) → {name: (B, H)}.

    What `mixture(gate[name](x), outputs)` is for each name, in one matmul for all the gates and
    one for all the mixtures.
    """
    weight = torch.cat([_weight(gate[name]) for name in gate])
    scores = linear(x, weight).view(x.shape[0], -1, outputs.shape[1])
    mixed = torch.bmm(scores.softmax(dim=2), outputs)
    return dict(zip(gate, mixed.unbind(1), strict=True))


def _weight(gate: nn.Module) -> Tensor:
    assert isinstance(gate, Gate)
    return gate.weight
