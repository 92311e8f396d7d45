"""What the kernels work through: the look-ups of a pack, and which thread has which table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from polyrank.layout import Layout, Pack
from polyrank.nn import kernels

POOLINGS = {"sum": kernels.SUM, "mean": kernels.MEAN, "last": kernels.LAST}
# Look-ups in a table that no cache holds take about four times as long as in one that fits.
_CACHED_ROWS, _MISS = 2**14, 4


@dataclass(frozen=True, eq=False)
class PackLookups:
    """The look-ups of one pack, those of a table together.

    Args:
        lookups: of each one its row of the batch's ids or of `Bags.starts`, its first column of x,
            its pooling.
        starts: the look-ups of each table.
        first_rows: where each table begins in the pack.
        sequences: the bags that are looked up in the pack, by their place in `schema.bags`.

    Shape:
        lookups: int64 (K, 3) · starts: int64 (U + 1,) · first_rows: int64 (U + 1,)
    """

    lookups: np.ndarray
    starts: np.ndarray
    first_rows: np.ndarray
    sequences: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout, pack: Pack, column: int) -> PackLookups:
        """Return the look-ups of a pack whose first column of x is given."""
        schema = layout.schema
        found: dict[str, list[tuple[int, int, int]]] = {table: [] for table in pack.offsets}
        for field in pack.fields:
            found[schema.fields[field].table].append((field, column, kernels.ONE))
            column += pack.width
        for place, index in enumerate(pack.bags):
            slot = schema.bags[index]
            found[slot.table].append((place, column, POOLINGS[slot.pooling]))
            column += pack.width
        return cls(
            np.array([each for lines in found.values() for each in lines], dtype=np.int64),
            np.cumsum([0, *map(len, found.values())]),
            np.array([*pack.offsets.values(), pack.rows], dtype=np.int64),
            pack.bags,
        )

    def order(self, threads: int) -> np.ndarray:
        """Return the tables of each thread, the costly ones dealt out first: int64 (T, U).

        A row is ended by −1 where it is shorter than the longest.

        Example:
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
        lengths = np.full(len(self.lookups), size)
        pooled = self.lookups[:, 2] != kernels.ONE
        lengths[pooled] = bags.lengths[self.lookups[pooled, 0]]
        return int(np.add.reduceat(lengths, self.starts[:-1]).max())

    @cached_property
    def _most_fields(self) -> int:
        return int(np.diff(self.starts).max())


@dataclass(frozen=True, eq=False)
class Bags:
    """The sequences of one pack, one after the other.

    Args:
        ids: rows of the pack.
        starts: where each bag begins and ends among them.

    Shape:
        ids: int32 (total,) · starts: int64 (S, B + 1)
    """

    ids: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, bags: Sequence[tuple[Tensor, Tensor]], sequences: tuple[int, ...]) -> Bags:
        """Return the bags of some sequences together."""
        if not sequences:
            return NO_BAGS
        ids = [bags[index][0].numpy() for index in sequences]
        begins = np.cumsum([0, *map(len, ids[:-1])])
        starts = [bags[i][1].numpy() + begin for i, begin in zip(sequences, begins, strict=True)]
        return cls(np.concatenate(ids), np.stack(starts))

    @property
    def lengths(self) -> np.ndarray:
        """Ids of each sequence."""
        return self.starts[:, -1] - self.starts[:, 0]


NO_BAGS = Bags(np.empty(0, dtype=np.int32), np.zeros((0, 1), dtype=np.int64))
