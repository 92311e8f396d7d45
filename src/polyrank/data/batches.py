"""Batches: rows gathered from a table's columns, a block of batches at once.

Letters: F fields of ids, S bags, B rows of a batch, D dense columns, L labels, E columns that kinds
of label read, N rows of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyrank.features.bags import Bag
from polyrank.layout import Layout

if TYPE_CHECKING:
    from polyrank.data.table import Table

BLOCK_ROWS = 16384


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows, ready for a model.

    Args:
        ids: rows of the packed tables, field-major, so that one table's ids are contiguous.
        dense: dense columns.
        labels: in task order; NaN = not observed.
        weight: sample weights, or None where all are 1.
        bags: rows of the packed tables for each bag, in order.
        extras: the raw numbers that kinds of label read, NaN = missing.

    Shape:
        ids: int32 (F, B) · dense: float32 (B, D) · labels: float32 (B, L) · weight: float32 (B,) ·
        extras: float32 (B, E)
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
        table: the rows, whose ids are rows of each field's own table.
        layout: where each table begins in its pack.
        size: rows per batch.
    """

    def __init__(self, table: Table, layout: Layout, size: int) -> None:
        self.table, self.size = table, size
        self.offsets = layout.offsets.astype(np.int32)
        self.bag_offsets = layout.bag_offsets.astype(np.int32)
        self.block_rows = max(BLOCK_ROWS // size, 1) * size

    def block(self, rows: slice | np.ndarray) -> list[Batch]:
        """Return the batches of a range of rows, or of row numbers in any order."""
        table, size = self.table, self.size
        dense, labels = table.dense[rows], table.labels[rows]
        weight = None if table.weight is None else table.weight[rows]
        extras = table.extras[rows] if table.schema.extras else None
        whole = len(dense) // size
        ids = list(self._ids(rows, 0, whole)) if whole else []
        if len(dense) % size:
            ids.extend(self._ids(rows, whole * size, 1))
        return [
            Batch(
                each,
                dense[start : start + size],
                labels[start : start + size],
                None if weight is None else weight[start : start + size],
                self._bags(rows, start) if table.bags else (),
                None if extras is None else extras[start : start + size],
            )
            for each, start in zip(ids, range(0, len(dense), size), strict=True)
        ]

    def _ids(self, rows: slice | np.ndarray, start: int, batches: int) -> np.ndarray:
        """Return the rows of the packs: (batches, F, B), so that each batch lies together."""
        part = _part(rows, start, batches * self.size)
        length = part.stop - part.start if isinstance(part, slice) else len(part)
        ids = np.empty((batches, len(self.table.ids), length // batches), dtype=np.int32)
        for place, (column, offset) in enumerate(zip(self.table.ids, self.offsets, strict=True)):
            found = column[part] if isinstance(part, slice) else column.take(part)
            np.add(found.reshape(batches, -1), offset, out=ids[:, place])
        return ids

    def _bags(self, rows: slice | np.ndarray, start: int) -> tuple[Bag, ...]:
        bags = tuple(bag.take(_part(rows, start, self.size)) for bag in self.table.bags)
        for bag, offset in zip(bags, self.bag_offsets, strict=True):
            bag.ids[:] += offset
        return bags


class Drop:
    """Replaces ids of a batch by row 0 of their table, with one probability for each.

    Args:
        layout: where each table begins in its pack, and in which of them row 0 is for unseen ids.
        rate: the probability.
        seed: of the run and the epoch.
    """

    def __init__(self, layout: Layout, rate: float, seed: tuple[int, ...]) -> None:
        self.rate, self.seed = rate, _words(*seed)
        schema = layout.schema
        self.fields = np.flatnonzero([slot.unseen for slot in schema.fields])
        self.bags = [index for index, slot in enumerate(schema.bags) if slot.unseen]
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
        for index in self.bags:
            bag = batch.bags[index]
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
