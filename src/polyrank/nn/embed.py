"""Embedding tables packed by width, and what is done at the border to the dense part.

The graph is cut at x: the trainer looks up x without gradients, and the dense part computes x.grad.
On the CPU compiled kernels look up and update rows; elsewhere torch does, and `row_gradients` hands
each pack the rows it must update. `LocalEmbedder` is the twin that export captures, for ids local
to each table.

The ids of a sequence are a bag: those of all rows, and where each row's begin. Its embeddings are
pooled to one vector a row, of zeros where the row has none.

Letters: F id features, S sequences, B rows, W columns of x.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from polyrank.features.kind import Pooling
from polyrank.layout import Layout
from polyrank.nn import kernels
from polyrank.nn.lookups import Bags, PackLookups

INITIAL_STD = 0.01  # standard deviation of the initial embeddings
# The ids of all rows and where each row's begin: (total,) and int64 (B + 1,), from 0 to total.
TensorBag = tuple[Tensor, Tensor]


class PackedEmbedder(nn.Module):
    """One matrix a width; ids are rows of it.

    Shape:
        - ids: int32 (F, B), rows of the packs
        - dense: (B, D)
        - bags: S times ids int32 (total,), rows of the packs, and offsets int64 (B + 1,)
        - output: (B, W), in the order of `Layout.slices`
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.pack = nn.ParameterList(
            nn.Parameter(torch.empty(pack.rows, pack.width).normal_(std=INITIAL_STD))
            for pack in layout.packs
        )
        columns = accumulate((len(p.fields) + len(p.bags)) * p.width for p in layout.packs)
        self.lookups = tuple(
            PackLookups.of(layout, pack, end - (len(pack.fields) + len(pack.bags)) * pack.width)
            for pack, end in zip(layout.packs, columns, strict=True)
        )

    def look_up(
        self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = (), out: Tensor | None = None
    ) -> Tensor:
        """Return x without a graph: on the CPU by kernels, and up to rounding that of `forward`.

        Where `out` is an earlier x of the same shape, the kernels write into its memory: allocating
        pages at every step costs a sixth of a step of 4,096 rows.

        Raises:
            IndexError: an id that is no row of its pack.
        """
        if dense.device.type != "cpu":
            with torch.no_grad():
                return self(ids, dense, bags)
        sequences = _with_pooling(self.layout, bags)
        shape = (len(dense), self.layout.width)
        x = torch.empty(shape) if out is None or out.shape != shape else out.detach()
        found, fields = x.numpy(), ids.contiguous().numpy()
        for own, weight in zip(self.lookups, self.pack, strict=True):
            some = Bags.of([bag for bag, _ in sequences], own.sequences)
            with kernels.ONE_AT_A_TIME:
                wrong = kernels.look_up(
                    fields, some.ids, some.starts, own.lookups, weight.detach().numpy(), found,
                    torch.get_num_threads(), kernels.constant(weight.shape[1]),
                )  # fmt: skip
            if wrong:
                raise IndexError(f"{wrong:,} ids of the batch are outside their tables")
        if dense.shape[1]:
            x[:, -dense.shape[1] :] = dense
        return x

    def forward(self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = ()) -> Tensor:
        """Return x."""
        sequences = _with_pooling(self.layout, bags)
        batch = dense.shape[0]
        looked_up = []
        for pack, weight in zip(self.layout.packs, self.pack, strict=True):
            if pack.fields:
                # (B, fields, width) → (B, fields · width): a row's fields side by side
                looked_up.append(embedding(ids[list(pack.fields)].T, weight).reshape(batch, -1))
            looked_up += [pooled(*sequences[index], weight) for index in pack.bags]
        return torch.cat([*looked_up, dense], dim=1)

    def row_gradients(
        self, ids: Tensor, gradient: Tensor, bags: Sequence[TensorBag] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each pack the rows looked up and the gradient of each look-up.

        Shape:
            - ids: (F, B); gradient: (B, W), of x; bags: as in `forward`
            - yields: (looked up,), (looked up, width); a row may occur many times
        """
        sequences = _with_pooling(self.layout, bags)
        start = 0
        for pack in self.layout.packs:
            stop = start + len(pack.fields) * pack.width
            rows = [ids[list(pack.fields)].T.reshape(-1)] if pack.fields else []
            each = [gradient[:, start:stop].reshape(-1, pack.width)] if pack.fields else []
            for index in pack.bags:
                start, stop = stop, stop + pack.width
                found = _spread(*sequences[index], gradient[:, start:stop])
                rows, each = [*rows, found[0]], [*each, found[1]]
            start = stop
            yield (rows[0], each[0]) if len(rows) == 1 else (torch.cat(rows), torch.cat(each))

    def tables(self) -> dict[str, Tensor]:
        """Return a view of each table: {table: (rows, width)}."""
        return {
            table: weight.detach()[offset : offset + self.layout.vocab.rows[table]]
            for pack, weight in zip(self.layout.packs, self.pack, strict=True)
            for table, offset in pack.offsets.items()
        }


class LocalEmbedder(nn.Module):
    """The look-up of a packed embedder for ids local to each table, and for lists in a matrix.

    It looks up in the packs of the other, without a copy, and is made of gathers, sums and
    comparisons alone, which an exported graph has too. An id that is no row of its own table is
    looked up behind the end of the pack, and is refused there: it never meets another table.

    Args:
        embed: whose weights these are.

    Shape:
        - ids: int64 (F, B), rows of each feature's own table
        - dense: (B, D)
        - sequences: S times int64 (B, L), rows of the feature's own table; below 0 is no id
        - output: (B, W), up to the rounding of a pooled sum equal to `PackedEmbedder`
    """

    first: Tensor
    rows: Tensor
    behind: Tensor

    def __init__(self, embed: PackedEmbedder) -> None:
        super().__init__()
        self.layout = embed.layout
        self.pack = embed.pack
        tables = [slot.table for slot in self.layout.schema.lookups]
        places = {
            table: (offset, self.layout.vocab.rows[table], pack.rows)
            for pack in self.layout.packs
            for table, offset in pack.offsets.items()
        }
        # one row per slot: (F + S, 1)
        for at, name in enumerate(("first", "rows", "behind")):
            values = [places[table][at] for table in tables]
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64)[:, None])

    def forward(self, ids: Tensor, dense: Tensor, sequences: Sequence[Tensor] = ()) -> Tensor:
        """Return x.

        Raises:
            IndexError: an id that is no row of its table.
        """
        schema = self.layout.schema
        fields = len(schema.fields)
        if fields:
            ids = self._in_pack(ids, slice(fields))
        looked_up = []
        for pack, weight in zip(self.layout.packs, self.pack, strict=True):
            if pack.fields:
                own = ids if len(pack.fields) == fields else ids[list(pack.fields)]
                # (B, fields, width) → (B, fields · width): a row's fields side by side
                looked_up.append(embedding(own.T, weight).flatten(1))
            for index in pack.bags:
                rows = self._in_pack(sequences[index], slice(fields + index, fields + index + 1))
                rows = torch.where(sequences[index] < 0, -1, rows)
                looked_up.append(pooled_padded(rows, schema.bags[index].pooling, weight))
        return torch.cat([*looked_up, dense], dim=1)

    def _in_pack(self, ids: Tensor, features: slice) -> Tensor:
        """Rows of the pack, and the one behind its last for what is no row of the own table."""
        inside = (ids >= 0) & (ids < self.rows[features])
        return torch.where(inside, ids + self.first[features], self.behind[features])


def pooled(bag: TensorBag, pooling: Pooling, weight: Tensor) -> Tensor:
    """Return the pooled embeddings of each row's ids, zeros where it has none.

    Shape:
        - bag: (total,), (B + 1,); weight: (rows, width)
        - output: (B, width)

    Example:
        >>> bag = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 2, 3])
        >>> pooled(bag, "mean", torch.tensor([[1.0], [3.0]])).tolist()
        [[2.0], [0.0], [3.0]]
    """
    ids, offsets = _last(bag) if pooling == "last" else bag
    mode = "mean" if pooling == "mean" else "sum"  # of one id at most, for the last
    return embedding_bag(ids, weight, offsets, mode=mode, include_last_offset=True)


def pooled_padded(ids: Tensor, pooling: Pooling, weight: Tensor) -> Tensor:
    """Return what `pooled` does, of ids in a matrix that −1 fills up.

    Shape:
        - ids: (B, L); weight: (rows, width)
        - output: (B, width)

    Example:
        >>> ids = torch.tensor([[0, -1, 1], [-1, -1, -1]])
        >>> pooled_padded(ids, "mean", torch.tensor([[1.0], [3.0]])).tolist()
        [[2.0], [0.0]]
    """
    there = ids >= 0
    if pooling == "last":
        after = there.flip(1).long().cumsum(1).flip(1)
        there = there & (after == 1)
    each = embedding(ids.clamp(min=0), weight)
    # Selected and not multiplied: 0 times a weight that is not finite is no 0.
    total = torch.where(there.unsqueeze(2), each, 0.0).sum(1)
    return total / there.sum(1, keepdim=True).clamp(min=1) if pooling == "mean" else total


def _last(bag: TensorBag) -> TensorBag:
    """The last id of each row that has any."""
    ids, offsets = bag
    some = offsets.diff() > 0
    return ids[offsets[1:][some] - 1], torch.cat([offsets[:1], some.cumsum(0)])


def _spread(bag: TensorBag, pooling: Pooling, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ids of a bag that were looked up, and each one's gradient."""
    ids, offsets = _last(bag) if pooling == "last" else bag
    lengths = offsets.diff()
    if pooling == "mean":
        gradient = gradient / lengths.clamp(min=1)[:, None]
    return ids, gradient.repeat_interleave(lengths, dim=0)


def _with_pooling(layout: Layout, bags: Sequence[TensorBag]) -> list[tuple[TensorBag, Pooling]]:
    """Each bag with its pooling."""
    slots = layout.schema.bags
    if len(bags) != len(slots):
        raise ValueError(f"expected {len(slots)} bags, one for each sequence, got {len(bags)}")
    return [(bag, slot.pooling) for bag, slot in zip(bags, slots, strict=True)]
