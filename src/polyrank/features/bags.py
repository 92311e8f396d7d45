"""Ragged columns of ids: the `ids` of all N rows as one array, and N + 1 `offsets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from polyrank.errors import DataError
from polyrank.features.ids import as_type, plain_ids


@dataclass(frozen=True, eq=False)
class Bag:
    """int32 ids of some rows of a sequence feature; row i has ids[offsets[i] : offsets[i + 1]]."""

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Memory of both arrays."""
        return self.ids.nbytes + self.offsets.nbytes

    @property
    def last(self) -> np.ndarray:
        """The last id of each row that has one."""
        return self.ids[self.offsets[1:][np.diff(self.offsets) > 0] - 1]

    def take(self, rows: slice | np.ndarray) -> Bag:
        """Return a copy of some rows: a slice without a step, or row numbers in any order."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            offsets = self.offsets[start : max(start, stop) + 1]
            return Bag(self.ids[offsets[0] : offsets[-1]].copy(), offsets - offsets[0])
        starts = self.offsets[rows]
        offsets = offsets_of(self.offsets[rows + 1] - starts)
        # The place of each id in the old array: its place in the new one, moved as its row was.
        moved = np.repeat(starts - offsets[:-1], np.diff(offsets))
        moved += np.arange(len(moved))
        return Bag(self.ids.take(moved), offsets)


class Elements(NamedTuple):
    """The ids of a column: one per row, or those of all its lists, one list after the other.

    Args:
        ids: of any type that ids can have.
        offsets: where each row's list begins and the last ends, if rows hold lists.
        nulls: null lists.

    Shape:
        ids: (N,) or (total,) · offsets: int64 (N + 1,)
    """

    ids: pl.Series
    offsets: np.ndarray | None = None
    nulls: int = 0


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return where lists of some lengths begin, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flattened(column: pl.Series, padding: int | None = None) -> Elements:
    """Return the elements of all lists without `padding`; a null list is like an empty one."""
    name, dtype = column.name, column.dtype
    if dtype == pl.Null:
        column = column.cast(pl.List(pl.Int64))
    elif isinstance(dtype, pl.Array):
        column = column.cast(pl.List(dtype.inner))
    elif not isinstance(dtype, pl.List):
        raise DataError(
            f"sequence feature {name!r} must be a column of lists of ids, got {dtype}: split a "
            "text into a list, or declare the column as a SparseFeature"
        )
    lengths = column.list.len().fill_null(0)
    # An empty list would explode to a null.
    values = column.filter(lengths > 0).explode().alias(name)
    offsets = offsets_of(lengths.to_numpy())
    if padding is not None:
        kept = (as_type(plain_ids(values), "int") != padding).fill_null(value=True)
        values = values.filter(kept)
        offsets = offsets_of(kept.to_numpy())[offsets]
    return Elements(values, offsets, column.null_count())


def packed(kind: str, values: Sequence[Any]) -> np.ndarray:
    """Return plain values as a read-only array, the fastest way for a few.

    A value of another type is a struct.error, one that is too large may be an OverflowError.
    """
    return np.frombuffer(pack(f"{len(values)}{kind}", *values), dtype=np.dtype(kind))
