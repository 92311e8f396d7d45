"""Embedding tables packed by width, and what is done at the border to the dense part.

The graph is cut at x: the trainer looks up x without gradients, the dense part computes x.grad,
and `row_gradients` hands each pack the rows it must update. `TableEmbedder` is the twin without
packing, one table a name, for export and as the reference in tests.

Letters: F id features, B rows, W columns of x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from polyrank.layout import Layout

DEVIATION = 0.01


class PackedEmbedder(nn.Module):
    """One matrix a width; ids are rows of it.

    Shape:
        - ids: int32 (F, B), rows of the packs
        - dense: (B, D)
        - output: (B, W), in the order of `Layout.slices`
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.pack = nn.ParameterList(
            nn.Parameter(torch.empty(pack.rows, pack.width).normal_(std=DEVIATION))
            for pack in layout.packs
        )

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        """Return x."""
        batch = dense.shape[0]
        looked_up = [
            # (B, fields, width) → (B, fields · width): a row's fields side by side
            embedding(ids[list(pack.fields)].T, weight).reshape(batch, -1)
            for pack, weight in zip(self.layout.packs, self.pack, strict=True)
        ]
        return torch.cat([*looked_up, dense], dim=1)

    def row_gradients(self, ids: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each pack the rows looked up and the gradient of each look-up.

        Shape:
            - ids: (F, B); gradient: (B, W), of x
            - yields: (fields · B,), (fields · B, width); a row may occur many times
        """
        start = 0
        for pack in self.layout.packs:
            stop = start + len(pack.fields) * pack.width
            rows = ids[list(pack.fields)].T.reshape(-1)
            yield rows, gradient[:, start:stop].reshape(-1, pack.width)
            start = stop

    def tables(self) -> dict[str, Tensor]:
        """Return a view of each table: {table: (rows, width)}."""
        return {
            table: weight.detach()[offset : offset + self.layout.vocab.rows[table]]
            for pack, weight in zip(self.layout.packs, self.pack, strict=True)
            for table, offset in pack.offsets.items()
        }


class TableEmbedder(nn.Module):
    """The same look-up from one table a name, for ids local to each table.

    Shape:
        - ids: integer (F, B), rows of each feature's own table
        - dense: (B, D)
        - output: (B, W), equal to the bit to `PackedEmbedder`
    """

    def __init__(self, layout: Layout, tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.fields = [
            (index, layout.schema.id_features[index].table)
            for pack in layout.packs
            for index in pack.fields
        ]
        self.table = nn.ParameterList(nn.Parameter(weight.clone()) for weight in tables.values())
        self.position = {name: position for position, name in enumerate(tables)}

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        """Return x."""
        fields = [
            embedding(ids[index], self.table[self.position[table]]) for index, table in self.fields
        ]
        return torch.cat([*fields, dense], dim=1)
