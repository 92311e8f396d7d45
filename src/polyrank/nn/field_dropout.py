"""Dropout of whole fields: in training, a row is read without some of its features.

Letters: B rows, W columns of x, S slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polyrank.layout import Layout

FIRST_STAGE = "#"  # begins the name of a slot that a first stage gives to be read


class FieldDropout(nn.Module):
    """Zero all columns of a slot with probability p a row, and divide the others by 1 − p.

    So no feature is relied upon alone. What a first stage gives to be read always stays: it is an
    estimate of the answer, not a fact about the row. In evaluation mode, x is returned as it is.
    """

    keep: Tensor
    slot: Tensor

    def __init__(self, layout: Layout, p: float) -> None:
        super().__init__()
        keep = [1.0 if name.startswith(FIRST_STAGE) else 1 - p for name in layout.slices]
        slot = torch.zeros(layout.width, dtype=torch.int64)
        for at, columns in enumerate(layout.slices.values()):
            slot[columns] = at
        self.register_buffer("keep", torch.tensor(keep), persistent=False)  # of each slot: (S,)
        self.register_buffer("slot", slot, persistent=False)  # of each column: (W,)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        drawn = torch.rand(len(x), len(self.keep), device=x.device)
        # `[:, slot]` would do the same in four times the time.
        return x * ((drawn < self.keep) / self.keep).index_select(1, self.slot)
