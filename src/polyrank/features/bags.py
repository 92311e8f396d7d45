"""Ragged columns of ids: all lists as one array, and where each begins.

N rows are the `ids` of all of them, and N + 1 `offsets`.
"""

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
    """The ids of some rows of one sequence feature.

    Args:
        ids: those of the first row, then those of the second, …
        offsets: row i has ids[offsets[i] : offsets[i + 1]].

    Shape:
        ids: int32 (total,) · offsets: int64 (N + 1,), the first of them 0

    Example:
        >>> bag = Bag(np.array([7, 8, 9], np.int32), np.array([0, 2, 2, 3]))
        >>> taken = bag.take(np.array([2, 1, 0]))
        >>> len(taken), taken.ids, taken.offsets
        (3, array([9, 7, 8], dtype=int32), array([0, 1, 1, 3]))
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Memory of both arrays."""
        return self.ids.nbytes + self.offsets.nbytes

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
    """Return where lists of some lengths begin, and where the last one ends.

    Example:
        >>> offsets_of(np.array([2, 0, 1]))
        array([0, 2, 2, 3])
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flattened(column: pl.Series, padding: int | None = None) -> Elements:
    """Return the elements of all lists.

    Args:
        column: lists or fixed-size arrays; a null list is like an empty one.
        padding: an integer that is no element, in whatever type it is written.

    Raises:
        DataError: a column without lists.

    Example:
        >>> found = flattened(pl.Series([[3, 4, 0], None, [0], [5]]), padding=0)
        >>> found.ids.to_list(), found.offsets, found.nulls
        ([3, 4, 5], array([0, 2, 2, 2, 3]), 1)
    """
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

    Args:
        kind: `q` for integers and booleans of 64 bits, `d` for numbers.
        values: of any length.

    Raises:
        struct.error: a value of another type; as an OverflowError, one that is too large.
    """
    return np.frombuffer(pack(f"{len(values)}{kind}", *values), dtype=np.dtype(kind))
