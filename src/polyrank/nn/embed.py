"""Embedding tables packed by width, and what is done at the border to the dense part.

The graph is cut at x: the trainer looks up x without gradients, and the dense part computes x.grad.
On the CPU compiled kernels look up and update rows; elsewhere torch does, and `row_gradients` hands
each pack the rows it must update. `LocalEmbedder` is the twin that export captures, for ids local
to each table.

The ids of a sequence are a bag: those of all rows, where each row's begin, and the weight of each
id where the feature has weights. Its embeddings are pooled to one vector a row, of zeros where the
row has none: with embeddings e and weights w (all 1 without), `sum` is Σ w·e, `mean` Σ w·e ÷ Σ |w|
and `last` the last w·e.

Letters: F id features, S sequences, B rows, W columns of x.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from polyrank.features.bags import Bag
from polyrank.features.kind import Pooling
from polyrank.layout import WHOLE, Held, Layout, Pack
from polyrank.nn import kernels

# Of bags without weights, and with them.
POOLINGS = (
    {"sum": kernels.SUM, "mean": kernels.MEAN, "last": kernels.LAST},
    {
        "sum": kernels.WEIGHTED_SUM,
        "mean": kernels.WEIGHTED_MEAN,
        "last": kernels.WEIGHTED_LAST,
    },
)
# Look-ups in a table that no cache holds take about four times as long as in one that fits.
_CACHED_ROWS, _MISS = 2**14, 4
DRAWN_ROWS = 2**16  # that are drawn at a time of a matrix that several processes hold
INITIAL_STD = 0.01  # standard deviation of the initial embeddings


class TensorBag(NamedTuple):
    """The lists of ids of some rows.

    Shape:
        ids: (total,) · offsets: int64 (B + 1,), from 0 to total · weights: float32 (total,)
    """

    ids: Tensor
    offsets: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(cls, bag: Bag, device: torch.device | str = "cpu") -> TensorBag:
        """Return the lists of a batch, each row having its own, on a device."""
        ids, offsets = (torch.from_numpy(each).to(device) for each in (bag.ids, bag.offsets))
        weights = None if bag.weights is None else torch.from_numpy(bag.weights).to(device)
        return cls(ids, offsets, weights)


class Padded(NamedTuple):
    """Lists of ids in a matrix, where an id below 0 is none, and their weights.

    Shape:
        ids: int64 (B, L) · weights: float32 (B, L)
    """

    ids: Tensor
    weights: Tensor | None = None


class PackedEmbedder(nn.Module):
    """One matrix a width, whose rows are the ids: (F, B), dense (B, D), bags → x (B, W).

    The ids of a bag are int32; x is in the order of `Layout.slices`. Without `packs`, which are
    taken as they are, embeddings are drawn.
    """

    def __init__(self, layout: Layout, packs: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.layout = layout
        if packs is None:
            packs = [drawn(pack.rows, pack.width, layout.held) for pack in layout.packs]
        self.pack = nn.ParameterList(map(nn.Parameter, packs))
        columns = accumulate((len(p.fields) + len(p.bags)) * p.width for p in layout.packs)
        self.lookups = tuple(
            PackLookups.of(layout, pack, end - (len(pack.fields) + len(pack.bags)) * pack.width)
            for pack, end in zip(layout.packs, columns, strict=True)
        )

    def look_up(
        self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = (), out: Tensor | None = None
    ) -> Tensor:
        """Return x without a graph: on the CPU by kernels, and up to rounding that of `forward`.

        What first stages give to be read has room at its end. The kernels reuse an `out` of that
        shape: allocating costs a sixth of a step of 4,096 rows.
        """
        if dense.device.type != "cpu":
            with torch.no_grad():
                return self(ids, dense, bags)
        return self._by_kernels(ids, dense, bags, list(self.pack), out)

    def _by_kernels(
        self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag], packs: Sequence[Tensor],
        out: Tensor | None,
    ) -> Tensor:  # fmt: skip
        sequences = _with_pooling(self.layout, bags)
        shape = (len(dense), self.layout.width)
        x = torch.empty(shape) if out is None or out.shape != shape else out.detach()
        found, fields = x.numpy(), ids.contiguous().numpy()
        for own, weight in zip(self.lookups, packs, strict=True):
            some = Bags.of([bag for bag, _ in sequences], own.sequences)
            with kernels.ONE_AT_A_TIME:
                wrong = kernels.look_up(
                    fields, some.ids, some.starts, some.weights, own.lookups,
                    weight.detach().numpy(), found, torch.get_num_threads(),
                    kernels.constant(weight.shape[1]),
                )  # fmt: skip
            if wrong:
                raise IndexError(f"{wrong:,} ids of the batch are outside their tables")
        if dense.shape[1]:
            end = self.layout.own_width
            x[:, end - dense.shape[1] : end] = dense
        return x

    def forward(self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = ()) -> Tensor:
        return self._in_torch(ids, dense, bags, list(self.pack))

    def _in_torch(
        self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag], packs: Sequence[Tensor]
    ) -> Tensor:
        sequences = _with_pooling(self.layout, bags)
        batch = dense.shape[0]
        looked_up = []
        for pack, weight in zip(self.layout.packs, packs, strict=True):
            if pack.fields:
                # (B, fields, width) → (B, fields · width): a row's fields side by side
                looked_up.append(embedding(ids[list(pack.fields)].T, weight).reshape(batch, -1))
            looked_up += [pooled(*sequences[index], weight) for index in pack.bags]
        return torch.cat([*looked_up, dense], dim=1)

    def row_gradients(
        self, ids: Tensor, gradient: Tensor, bags: Sequence[TensorBag] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each pack's rows looked up, (n,), with repeats, and their gradients, (n, width)."""
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
        """Return a view of each table: {table: (rows, width)}; of packs that are held whole."""
        return {
            table: weight.detach()[offset : offset + self.layout.vocab.rows[table]]
            for pack, weight in zip(self.layout.packs, self.pack, strict=True)
            for table, offset in pack.offsets.items()
        }


def drawn(rows: int, width: int, held: Held = WHOLE) -> Tensor:
    """Return the initial embeddings of the rows that are held, of those of all rows.

    Shape:
        output: (held rows, width)
    """
    if held.count == 1:
        return torch.empty(rows, width).normal_(std=INITIAL_STD)
    found = torch.empty(held.rows(rows), width)
    # Drawn by the chunk, which are the same numbers where chunks are whole vectors; the last one
    # is large enough to be drawn like the others.
    starts = range(0, max(rows - DRAWN_ROWS, 0) + 1, DRAWN_ROWS)
    for start, end in pairwise([*starts, rows]):
        chunk = torch.empty(end - start, width).normal_(std=INITIAL_STD)
        first, last = held.first(np.array([start, end])).tolist()
        found[first:last] = chunk[(held.rank - start) % held.count :: held.count]
    return found


class LocalEmbedder(nn.Module):
    """The look-up of a packed embedder for ids local to each table, and for lists in a matrix.

    It looks up in the packs of the other, without a copy, and is made of gathers, sums and
    comparisons alone, which an exported graph has too. An id that is no row of its own table is
    looked up behind the end of the pack, and is refused there: it never meets another table.

    Shape:
        - ids: int64 (F, B), rows of each feature's own table; dense: (B, D)
        - sequences: S matrices of rows of the feature's own table
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

    def forward(self, ids: Tensor, dense: Tensor, sequences: Sequence[Padded] = ()) -> Tensor:
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
                local, weights = sequences[index]
                rows = self._in_pack(local, slice(fields + index, fields + index + 1))
                bag = Padded(torch.where(local < 0, -1, rows), weights)
                looked_up.append(pooled_padded(bag, schema.bags[index].pooling, weight))
        return torch.cat([*looked_up, dense], dim=1)

    def _in_pack(self, ids: Tensor, features: slice) -> Tensor:
        """Rows of the pack, and the one behind its last for what is no row of the own table."""
        inside = (ids >= 0) & (ids < self.rows[features])
        return torch.where(inside, ids + self.first[features], self.behind[features])


def pooled(bag: TensorBag, pooling: Pooling, weight: Tensor) -> Tensor:
    """Return the pooled embeddings of each row's ids, zeros where it has none: (B, width)."""
    ids, offsets, weights = _last(bag) if pooling == "last" else bag
    mode = "mean" if pooling == "mean" and weights is None else "sum"  # `last` is of one id
    found = embedding_bag(
        ids, weight, offsets, mode=mode, per_sample_weights=weights, include_last_offset=True
    )
    if weights is None or pooling != "mean":
        return found
    return found / _totals(weights, offsets)[:, None]


def pooled_padded(bag: Padded, pooling: Pooling, weight: Tensor) -> Tensor:
    """Return what `pooled` does, of ids in a matrix (B, L)."""
    ids, weights = bag
    there = ids >= 0
    if pooling == "last":
        after = there.flip(1).long().cumsum(1).flip(1)
        there = there & (after == 1)
    each = embedding(ids.clamp(min=0), weight)
    if weights is not None:
        each = each * weights.unsqueeze(2)
    # Selected and not multiplied: 0 times a weight that is not finite is no 0.
    total = torch.where(there.unsqueeze(2), each, 0.0).sum(1)
    if pooling != "mean":
        return total
    if weights is None:
        return total / there.sum(1, keepdim=True).clamp(min=1)
    size = torch.where(there, weights.abs(), 0.0).sum(1, keepdim=True)
    return total / torch.where(size > 0, size, 1.0)


def coefficients(bag: TensorBag, pooling: Pooling) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ids that are looked up, the row of each, and what pooling multiplies it by.

    Shape:
        (n,) each, an id that a list holds again coming again; the last one float64

    Examples:
        >>> bag = TensorBag(torch.tensor([4, 7, 4]), torch.tensor([0, 1, 3]))
        >>> ids, rows, factors = coefficients(bag, "mean")
        >>> ids.tolist(), rows.tolist(), factors.tolist()
        ([4, 7, 4], [0, 1, 1], [1.0, 0.5, 0.5])
    """
    count = len(bag.offsets) - 1
    ids, factors = _spread(bag, pooling, torch.ones(count, 1, dtype=torch.float64))
    offsets = (_last(bag) if pooling == "last" else bag).offsets
    return ids, torch.arange(count).repeat_interleave(offsets.diff()), factors[:, 0]


def padded_coefficients(bag: Padded, pooling: Pooling) -> Tensor:
    """Return what pooling multiplies each id of a matrix by, 0 where there is none: float64 (B, L).

    Examples:
        >>> padded_coefficients(Padded(torch.tensor([[4, 7], [4, -1]])), "mean").tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    ids, weights = bag
    there = ids >= 0
    if pooling == "last":
        after = there.flip(1).long().cumsum(1).flip(1)
        there = there & (after == 1)
    x = there.double() if weights is None else torch.where(there, weights, 0.0).double()
    if pooling != "mean":
        return x
    size = x.abs().sum(1, keepdim=True)
    return x / torch.where(size > 0, size, 1.0)


def _last(bag: TensorBag) -> TensorBag:
    ids, offsets, weights = bag
    some = offsets.diff() > 0
    place = offsets[1:][some] - 1
    last = torch.cat([offsets[:1], some.cumsum(0)])
    return TensorBag(ids[place], last, None if weights is None else weights[place])


def _totals(weights: Tensor, offsets: Tensor) -> Tensor:
    """Σ |w| of each row; 1 where it is 0, for what is divided is 0 then."""
    rows = torch.arange(len(offsets) - 1, device=weights.device)
    found = weights.new_zeros(len(rows))
    found.index_add_(0, rows.repeat_interleave(offsets.diff()), weights.abs())
    return torch.where(found > 0, found, 1.0)


def _spread(bag: TensorBag, pooling: Pooling, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The ids of a bag that were looked up, and each one's gradient."""
    ids, offsets, weights = _last(bag) if pooling == "last" else bag
    lengths = offsets.diff()
    if pooling == "mean":
        size = lengths.clamp(min=1) if weights is None else _totals(weights, offsets)
        gradient = gradient / size[:, None]
    each = gradient.repeat_interleave(lengths, dim=0)
    return ids, each if weights is None else each * weights[:, None]


def _with_pooling(layout: Layout, bags: Sequence[TensorBag]) -> list[tuple[TensorBag, Pooling]]:
    slots = layout.schema.bags
    if len(bags) != len(slots):
        raise ValueError(f"expected {len(slots)} bags, one for each sequence, got {len(bags)}")
    found = [TensorBag(*bag) for bag in bags]  # a pair of ids and offsets is one, too
    for bag, slot in zip(found, slots, strict=True):
        if slot.weighted != (bag.weights is not None):
            raise ValueError(f"the bag of {slot.name!r} must have weights: {slot.weighted}")
    return [(bag, slot.pooling) for bag, slot in zip(found, slots, strict=True)]


@dataclass(frozen=True, eq=False)
class PackLookups:
    """The look-ups of one pack, those of a table together."""

    # int64 (K, 3): a row of the batch's ids or of `Bags.starts`, a first column of x, a pooling
    lookups: np.ndarray
    starts: np.ndarray  # int64 (U + 1,): the look-ups of each table
    first_rows: np.ndarray  # int64 (U + 1,): where each table begins in what is held of the pack
    sequences: tuple[int, ...]  # the bags that are looked up in it, by place in `schema.bags`

    @classmethod
    def of(cls, layout: Layout, pack: Pack, column: int) -> PackLookups:
        schema = layout.schema
        found: dict[str, list[tuple[int, int, int]]] = {table: [] for table in pack.offsets}
        for field in pack.fields:
            found[schema.fields[field].table].append((field, column, kernels.ONE))
            column += pack.width
        for place, index in enumerate(pack.bags):
            slot = schema.bags[index]
            pooling = POOLINGS[slot.weighted][slot.pooling]
            found[slot.table].append((place, column, pooling))
            column += pack.width
        return cls(
            np.array([each for lines in found.values() for each in lines], dtype=np.int64),
            np.cumsum([0, *map(len, found.values())]),
            layout.held.first(np.array([*pack.offsets.values(), pack.rows], dtype=np.int64)),
            pack.bags,
        )

    def order(self, threads: int) -> np.ndarray:
        """Return the tables of each thread, then −1, the costly ones dealt out first: int64 (T, U).

        Examples:
            >>> lookups = PackLookups(np.zeros((3, 3), np.int64), np.arange(4),
            ...                       np.array([0, 9, 900_000, 900_009]), ())
            >>> lookups.order(2)
            array([[ 1, -1],
                   [ 0,  2]])
        """
        large = np.diff(self.first_rows) > _CACHED_ROWS
        costs = np.diff(self.starts) * np.where(large, _MISS, 1)
        lists: list[list[int]] = [[] for _ in range(threads)]
        loads = [0] * threads
        for table in np.argsort(-costs, kind="stable").tolist():
            thread = loads.index(min(loads))
            lists[thread].append(table)
            loads[thread] += int(costs[table])
        longest = max(map(len, lists))
        return np.array([each + [-1] * (longest - len(each)) for each in lists], dtype=np.int64)

    def most(self, size: int, bags: Bags) -> int:
        """Return how many look-ups one table has at most in a batch of some size."""
        if not self.sequences:
            return size * self._most_fields
        return int(self.of_tables(size, bags).max())

    def of_tables(self, size: int, bags: Bags) -> np.ndarray:
        """Return how many look-ups each table has at most in a batch of some size: int64 (U,)."""
        lengths = np.full(len(self.lookups), size)
        bag = self.lookups[:, 2] != kernels.ONE
        lengths[bag] = (bags.starts[:, -1] - bags.starts[:, 0])[self.lookups[bag, 0]]
        return np.add.reduceat(lengths, self.starts[:-1])

    @cached_property
    def _most_fields(self) -> int:
        return int(np.diff(self.starts).max())


@dataclass(frozen=True, eq=False)
class Bags:
    """The sequences of one pack, one after the other."""

    ids: np.ndarray  # int32 (total,): rows of the pack
    starts: np.ndarray  # int64 (S, B + 1): where each bag begins and ends among them
    weights: np.ndarray  # float32 (total or 0,): of each id, if any bag has weights

    @classmethod
    def of(cls, bags: Sequence[TensorBag], sequences: Iterable[int]) -> Bags:
        some = [TensorBag(*bags[index]) for index in sequences]
        if not some:
            return NO_BAGS
        ids = [bag.ids.numpy() for bag in some]
        begins = np.cumsum([0, *map(len, ids[:-1])])
        starts = [bag.offsets.numpy() + begin for bag, begin in zip(some, begins, strict=True)]
        weights = _NO_WEIGHTS
        if any(bag.weights is not None for bag in some):
            weights = np.concatenate(
                [
                    np.ones(len(bag.ids), np.float32)
                    if bag.weights is None
                    else bag.weights.numpy()
                    for bag in some
                ]
            )
        return cls(ids[0] if len(ids) == 1 else np.concatenate(ids), np.stack(starts), weights)


_NO_WEIGHTS = np.empty(0, dtype=np.float32)
NO_BAGS = Bags(np.empty(0, dtype=np.int32), np.zeros((0, 1), dtype=np.int64), _NO_WEIGHTS)
