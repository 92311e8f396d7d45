"""Rows that several processes hold between them: found by the batch, and fetched.

Row r of a matrix is held by process r mod S. The rows that a batch looks up are numbered anew,
those of each process together and those of each table within them, so that what was fetched is a
small matrix, which kernels take as they take a whole one.

Letters: S processes, F id features, B rows of the batch, K look-ups, U tables, n distinct rows that
are looked up, w columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from polyrank.layout import Held, Layout
from polyrank.nn import kernels
from polyrank.nn.embed import Bags, PackedEmbedder, PackLookups, TensorBag
from polyrank.ranks import Ranks


@dataclass(frozen=True, eq=False)
class HeldMatrix:
    """A matrix of which each process holds a part, and how batches look up its rows.

    Args:
        total: rows of the whole matrix.
        lookups: of each one its row of the batch's ids or of `Bags.starts`, its pooling, and what
            takes an id to a row of the matrix; those of a table together.
        starts: the look-ups of each table.
        sequences: the bags that are looked up in it, by place in `schema.bags`.
        order: the tables of each thread, then −1.

    Shape:
        lookups: int64 (K, 3) · starts: int64 (U + 1,) · order: int64 (threads, U)
    """

    total: int
    lookups: np.ndarray
    starts: np.ndarray
    sequences: tuple[int, ...]
    order: np.ndarray

    @classmethod
    def of_pack(cls, total: int, plan: PackLookups) -> HeldMatrix:
        """Return how batches look up the rows of a pack."""
        lookups = np.stack([plan.lookups[:, 0], plan.lookups[:, 2], 0 * plan.lookups[:, 0]], axis=1)
        order = plan.order(torch.get_num_threads())
        return cls(total, lookups, plan.starts, plan.sequences, order)


@dataclass(frozen=True, eq=False)
class Found:
    """A batch whose ids are the numbers of the rows that it looks up, for each of some matrices.

    Args:
        ids: of the fields.
        bags: by place in `schema.bags`.
        dealt: of each matrix, the rows looked up, by their place at the process that holds them.
        lines: of each matrix, how many of them each process holds, by table.

    Shape:
        ids: int32 (F, B) · dealt: int32 (n,) each · lines: int32 (S, U) each
    """

    ids: Tensor
    bags: tuple[TensorBag, ...]
    dealt: tuple[Tensor, ...]
    lines: tuple[Tensor, ...]

    def shares(self, index: int) -> list[int]:
        """Return how many rows of a matrix each process holds."""
        return self.lines[index].sum(1).tolist()


def find(
    matrices: Sequence[HeldMatrix], ids: Tensor, bags: Sequence[TensorBag], held: Held
) -> Found:
    """Number the rows that a batch looks up; matrices share no field and no bag.

    Raises:
        IndexError: ids that are no rows.
    """
    in_torch = ids.device.type != "cpu"
    bags = [TensorBag(*bag) for bag in bags]  # a pair of ids and offsets is one, too
    new_ids, new_bags = torch.zeros_like(ids), list(bags)
    dealt, lines = [], []
    for each in matrices:
        find_one = _find_in_torch if in_torch else _find
        numbers, rows, counts = find_one(each, ids, new_ids, bags, held.count)
        for index, own in zip(each.sequences, numbers, strict=True):
            new_bags[index] = new_bags[index]._replace(ids=own)
        dealt.append(rows)
        lines.append(counts)
    return Found(new_ids, tuple(new_bags), tuple(dealt), tuple(lines))


def _find(
    matrix: HeldMatrix, ids: Tensor, new_ids: Tensor, bags: Sequence[TensorBag], holders: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Write the numbers of the fields; return those of the bags, the rows dealt, and the lines."""
    some = Bags.of(bags, matrix.sequences)
    fields, numbered = ids.contiguous().numpy(), new_ids.numpy()
    tables, size = len(matrix.starts) - 1, fields.shape[1]
    lengths = np.full(len(matrix.lookups), size)
    of_bag = matrix.lookups[:, 1] != kernels.ONE
    lengths[of_bag] = (some.starts[:, -1] - some.starts[:, 0])[matrix.lookups[of_bag, 0]]
    places = np.concatenate([[0], np.cumsum(lengths)])[matrix.starts]
    room = 1 << max(int(2 * np.diff(places).max(initial=1)), 2).bit_length()
    key, value = np.empty((2, len(matrix.order), room), dtype=np.int32)
    rows, number = np.empty((2, int(places[-1])), dtype=np.int32)
    new_bag_ids = np.zeros(len(some.ids), dtype=np.int32)
    lines = np.zeros((holders, tables), dtype=np.int32)
    with kernels.ONE_AT_A_TIME:
        wrong = kernels.find_rows(
            fields, some.ids, some.starts, matrix.lookups, matrix.starts, matrix.order, places,
            matrix.total, holders, key, value, numbered, new_bag_ids, rows, lines,
        )  # fmt: skip
    if wrong:
        raise IndexError(f"{wrong:,} ids of the batch are outside their tables")
    ends = np.cumsum(lines.ravel(), dtype=np.int64)
    begins = (ends - lines.ravel()).reshape(lines.shape)
    dealt = np.empty(int(ends[-1]), dtype=np.int32)
    with kernels.ONE_AT_A_TIME:
        kernels.deal_rows(
            some.starts, matrix.lookups, matrix.starts, matrix.order, places, holders, lines,
            begins, rows, number, numbered, new_bag_ids, dealt,
        )  # fmt: skip
    ends_of_bags = np.cumsum([0, *(len(bags[index].ids) for index in matrix.sequences)])
    parts = [torch.from_numpy(new_bag_ids[a:b]) for a, b in pairwise(ends_of_bags.tolist())]
    return parts, torch.from_numpy(dealt), torch.from_numpy(lines)


def _find_in_torch(
    matrix: HeldMatrix, ids: Tensor, new_ids: Tensor, bags: Sequence[TensorBag], holders: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Do the same on any device, with all tables as one."""
    looked_up, places = [], []
    for source, pooling, shift in matrix.lookups.tolist():
        if pooling == kernels.ONE:
            looked_up.append(ids[source].long() + shift)
            continue
        bag = bags[matrix.sequences[source]]
        at = torch.arange(len(bag.ids), device=ids.device)
        if pooling in (kernels.LAST, kernels.WEIGHTED_LAST):
            at = bag.offsets[1:][bag.offsets.diff() > 0] - 1
        looked_up.append(bag.ids[at].long() + shift)
        places.append(at)
    rows, inverse = torch.unique(torch.cat(looked_up), return_inverse=True)
    if len(rows) and (int(rows[0]) < 0 or int(rows[-1]) >= matrix.total):
        raise IndexError("ids of the batch are outside their tables")
    holder = rows % holders
    order = torch.argsort(holder, stable=True)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=ids.device)
    found = list(number[inverse].split([len(each) for each in looked_up]))
    numbers, at_bag = [], iter(places)
    for (source, pooling, _), each in zip(matrix.lookups.tolist(), found, strict=True):
        if pooling == kernels.ONE:
            new_ids[source] = each.to(new_ids.dtype)
            continue
        own = torch.zeros_like(bags[matrix.sequences[source]].ids)
        own[next(at_bag)] = each.to(own.dtype)
        numbers.append((source, own))
    lines = torch.bincount(holder, minlength=holders)[:, None].int()
    of_sequences = [own for _, own in sorted(numbers, key=lambda pair: pair[0])]
    return of_sequences, (rows[order] // holders).int(), lines


def fetched(ranks: Ranks, found: Found, matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return the rows of each matrix that a batch looks up, by their numbers: (n, w) each.

    All processes call it at the same time, with the parts that they hold: (held rows, w) each.
    """
    shares = [found.shares(index) for index in range(len(matrices))]
    asked = [each.split(own) for each, own in zip(found.dealt, shares, strict=True)]
    wanted = ranks.traded([list(of_holder) for of_holder in zip(*asked, strict=True)])
    answers = ranks.traded(
        [
            [
                matrix.index_select(0, rows.to(matrix.device))
                for matrix, rows in zip(matrices, of_rank, strict=True)
            ]
            for of_rank in wanted
        ],
        lengths=list(zip(*shares, strict=True)),
    )
    return [torch.cat(each) for each in zip(*answers, strict=True)]


def dealt(found: Found, index: int, numbers: Tensor, *each: Tensor) -> list[list[Tensor]]:
    """Return what is said of the rows of a matrix, for each process that holds some of them.

    Args:
        found: the batch that looked them up.
        index: of the matrix.
        numbers: of the rows: all that the batch looked up, in any order.
        each: what is said of them.

    Shape:
        numbers: (n,) · each: (n, …) → of each process the rows that it holds, and what is said
    """
    if len(numbers) != len(found.dealt[index]):
        raise ValueError("something must be said of each row that a batch looks up")
    place = numbers.long()
    ordered = []
    for said in each:
        moved = torch.empty_like(said)
        moved[place] = said
        ordered.append(moved)
    rows, shares = found.dealt[index].to(numbers.device), found.shares(index)
    return [list(part) for part in zip(*(t.split(shares) for t in (rows, *ordered)), strict=True)]


class HeldEmbedder(PackedEmbedder):
    """A packed embedder of which each process holds some rows; looking up is of all together."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        assert layout.held.ranks is not None
        self.ranks = layout.held.ranks
        self.matrices = [
            HeldMatrix.of_pack(pack.rows, plan)
            for pack, plan in zip(layout.packs, self.lookups, strict=True)
        ]
        self._last: tuple[Tensor, Found] | None = None

    def found(self, ids: Tensor, bags: Sequence[TensorBag]) -> Found:
        """Return what `find` does, of the same ids as the time before without doing it again."""
        if self._last is None or self._last[0] is not ids:
            self._last = ids, find(self.matrices, ids, bags, self.layout.held)
        return self._last[1]

    def look_up(
        self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = (), out: Tensor | None = None
    ) -> Tensor:
        if dense.device.type != "cpu":
            with torch.no_grad():
                return self(ids, dense, bags)
        found = self.found(ids, bags)
        packs = self._fetched(found)
        return self._by_kernels(found.ids, dense, found.bags, packs, out)

    def forward(self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = ()) -> Tensor:
        found = self.found(ids, bags)
        return self._in_torch(found.ids, dense, found.bags, self._fetched(found))

    def _fetched(self, found: Found) -> list[Tensor]:
        return fetched(self.ranks, found, [pack.detach() for pack in self.pack])
