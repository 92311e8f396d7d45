"""Batches: rows gathered from a table's columns, a block of batches at once.

Letters: F id features, S sequences, B rows of a batch, D dense columns, L labels, N rows of the
table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyrank.data.bags import Bag
from polyrank.layout import Layout
from polyrank.schema import Schema, SparseFeature

BLOCK_ROWS = 16384


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows, ready for a model.

    Args:
        ids: rows of the packed tables, field-major, so that one table's ids are contiguous.
        dense: dense columns.
        labels: in task order; NaN = not observed.
        weight: sample weights, or None where all are 1.
        bags: rows of the packed tables for each sequence feature, in order.

    Shape:
        ids: int32 (F, B) · dense: float32 (B, D) · labels: float32 (B, L) · weight: float32 (B,)
    """

    ids: np.ndarray
    dense: np.ndarray
    labels: np.ndarray
    weight: np.ndarray | None
    bags: tuple[Bag, ...] = ()
    extras: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dense)


class Gather:
    """Cuts batches from columns of N rows.

    A random row of 23 fields took 0.24 µs among 1 M rows and 0.32 µs among 20 M, of steps that took
    4.1 µs a row: each field is one cache miss at either size, and sorting a block's rows first
    gained nothing.

    Args:
        ids: int32 (F, N), rows of each feature's own table.
        bags: S of them.
        dense: float32 (N, D).
        labels: float32 (N, L).
        weight: float32 (N,) or None.
        layout: where each table begins in its pack.
        size: rows a batch.
    """

    def __init__(
        self,
        ids: np.ndarray,
        bags: tuple[Bag, ...],
        dense: np.ndarray,
        labels: np.ndarray,
        weight: np.ndarray | None,
        layout: Layout,
        size: int,
    ) -> None:
        self.ids, self.bags, self.dense = ids, bags, dense
        self.labels, self.weight, self.size = labels, weight, size
        self.offsets = layout.offsets.astype(np.int32)
        self.bag_offsets = layout.bag_offsets.astype(np.int32)
        self.block_rows = max(BLOCK_ROWS // size, 1) * size

    def block(self, rows: slice | np.ndarray) -> list[Batch]:
        """Return the batches of a range of rows, or of row numbers in any order."""
        dense, labels = self.dense[rows], self.labels[rows]
        weight = None if self.weight is None else self.weight[rows]
        whole = len(dense) // self.size
        ids = list(self._ids(rows, 0, whole)) if whole else []
        if len(dense) % self.size:
            ids.extend(self._ids(rows, whole * self.size, 1))
        return [
            Batch(
                each,
                dense[start : start + self.size],
                labels[start : start + self.size],
                None if weight is None else weight[start : start + self.size],
                self._bags(rows, start) if self.bags else (),
            )
            for each, start in zip(ids, range(0, len(dense), self.size), strict=True)
        ]

    def _ids(self, rows: slice | np.ndarray, start: int, batches: int) -> np.ndarray:
        """Return the rows of the packs: (batches, F, B), so that each batch lies together."""
        part = _part(rows, start, batches * self.size)
        length = part.stop - part.start if isinstance(part, slice) else len(part)
        ids = np.empty((batches, len(self.ids), length // batches), dtype=np.int32)
        for field, (column, offset) in enumerate(zip(self.ids, self.offsets, strict=True)):
            found = column[part] if isinstance(part, slice) else column.take(part)
            np.add(found.reshape(batches, -1), offset, out=ids[:, field])
        return ids

    def _bags(self, rows: slice | np.ndarray, start: int) -> tuple[Bag, ...]:
        bags = tuple(bag.take(_part(rows, start, self.size)) for bag in self.bags)
        for bag, offset in zip(bags, self.bag_offsets, strict=True):
            bag.ids[:] += offset
        return bags


class Drop:
    """Replaces ids of a batch by row 0 of their table, with one probability for each.

    Args:
        schema: the features.
        layout: where each table begins in its pack.
        rate: the probability.
        seed: of the run and the epoch.
    """

    def __init__(self, schema: Schema, layout: Layout, rate: float, seed: tuple[int, ...]) -> None:
        self.rate, self.seed = rate, _words(*seed)
        self.fields = np.array(
            [
                index
                for index, feature in enumerate(schema.id_features)
                if isinstance(feature, SparseFeature)  # missing values of bins have a row
            ],
            dtype=np.int64,
        )
        self.rows = layout.offsets.astype(np.int32)
        self.bag_rows = layout.bag_offsets.astype(np.int32)

    def __call__(self, batch: Batch, number: int) -> None:
        """Replace ids of the batch of a number, in place."""
        seed = [*self.seed, *_words(number)]
        if len(self.fields):
            size = batch.ids.shape[1]
            where = self._cells(len(self.fields) * size, [*seed, 1])
            if len(where):
                fields = self.fields[where // size]
                batch.ids[fields, where % size] = self.rows[fields]
        for index, bag in enumerate(batch.bags):
            bag.ids[self._cells(len(bag.ids), [*seed, 2, index])] = self.bag_rows[index]

    def _cells(self, cells: int, seed: list[int]) -> np.ndarray:
        """Draw the number of cells first, then the cells.

        A uniform for each cell would cost more than gathering it.
        """
        generator = np.random.default_rng(np.array(seed, dtype=np.uint32))
        dropped = generator.binomial(cells, self.rate)
        if not dropped:
            return np.empty(0, dtype=np.int64)
        return generator.choice(cells, dropped, replace=False, shuffle=False)


def _words(*numbers: int) -> list[int]:
    """Return the 32-bit words of which numpy makes a seed; it is slower at finding them itself.

    Example:
        >>> words = np.array(_words(7, 2**32), dtype=np.uint32)
        >>> words
        array([7, 0, 1], dtype=uint32)
        >>> np.random.default_rng(words).random() == np.random.default_rng([7, 2**32]).random()
        True
    """
    words = []
    for number in map(int, numbers):
        words.append(number & 0xFFFFFFFF)
        while number := number >> 32:
            words.append(number & 0xFFFFFFFF)
    return words


def _part(rows: slice | np.ndarray, start: int, length: int) -> slice | np.ndarray:
    if isinstance(rows, slice):
        return slice(rows.start + start, min(rows.start + start + length, rows.stop))
    return rows[start : start + length]
