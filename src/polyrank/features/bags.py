"""Ragged columns of ids: the `ids` of all lists as one array, and where each list begins.

Letters: N rows, M lists, E elements of all lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from struct import pack
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from polyrank.errors import DataError
from polyrank.features.ids import as_type, plain_ids


@dataclass(frozen=True, eq=False)
class Bag:
    """Lists of ids of a sequence feature; list i is ids[offsets[i] : offsets[i + 1]].

    Args:
        ids: rows of a table, of all lists.
        offsets: where each list begins and the last ends.
        weights: of each id; None where all are 1.
        rows: the list of each row, where rows share lists; None where row i has list i.

    Shape:
        ids: int32 (E,) · offsets: int64 (M + 1,) · weights: float32 (E,) · rows: int32 (N,)
    """

    ids: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.rows is None else len(self.rows)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(each.nbytes for each in self.arrays)

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays of it."""
        given = (self.ids, self.offsets, self.weights, self.rows)
        return [each for each in given if each is not None]

    def looked_up(self, *, last: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Return all ids of all lists, or the last of each, and how many rows look each one up.

        None is one row each.
        """
        lengths = np.diff(self.offsets)
        ids = self.ids[self.offsets[1:][lengths > 0] - 1] if last else self.ids
        if self.rows is None:
            return ids, None
        times = np.bincount(self.rows, minlength=len(lengths))
        return ids, np.repeat(times, np.minimum(lengths, 1) if last else lengths)

    def at(self, place: int) -> Bag:
        """Return lists of the one id at a place of each, and empty ones where there is none.

        Examples:
            >>> bag = Bag(np.array([7, 8, 9], np.int32), np.array([0, 2, 2, 3]))
            >>> bag.at(1).ids.tolist(), bag.at(1).offsets.tolist()
            ([8], [0, 1, 1, 1])
        """
        long = np.diff(self.offsets) > place
        some = self.offsets[:-1][long] + place
        weights = None if self.weights is None else self.weights[some]
        return Bag(self.ids[some], offsets_of(long), weights, self.rows)

    def part(self, rows: slice | np.ndarray) -> Bag:
        """Return some rows, which go on to share the lists that they share."""
        return self.take(rows) if self.rows is None else replace(self, rows=self.rows[rows])

    def take(self, rows: slice | np.ndarray) -> Bag:
        """Return a copy of some rows: a slice without a step, or row numbers in any order.

        Each row has a list of its own in it.
        """
        if self.rows is not None:
            return replace(self, rows=None).take(self.rows[rows].astype(np.int64))
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            offsets = self.offsets[start : max(start, stop) + 1]
            own = slice(offsets[0], offsets[-1])
            weights = None if self.weights is None else self.weights[own].copy()
            return Bag(self.ids[own].copy(), offsets - offsets[0], weights)
        starts = self.offsets[rows]
        offsets = offsets_of(self.offsets[rows + 1] - starts)
        # The place of each id in the old array: its place in the new one, moved as its row was.
        moved = np.repeat(starts - offsets[:-1], np.diff(offsets))
        moved += np.arange(len(moved))
        weights = None if self.weights is None else self.weights.take(moved)
        return Bag(self.ids.take(moved), offsets, weights)


class Elements(NamedTuple):
    """The ids of a column: one per row, or those of all its lists, one list after the other.

    Args:
        ids: of any type that ids can have.
        offsets: where each row's list begins and the last ends, if rows hold lists.
        nulls: null lists.
        weights: of the ids of lists that have weights.

    Shape:
        ids: (N,) or (E,) · offsets: int64 (N + 1,) · weights: float32 (E,)
    """

    ids: pl.Series
    offsets: np.ndarray | None = None
    nulls: int = 0
    weights: np.ndarray | None = None


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return where lists of some lengths begin, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flattened(
    column: pl.Series,
    padding: int | None = None,
    *,
    weights: pl.Series | None = None,
    most: int | None = None,
) -> Elements:
    """Return the elements of all lists; a null list is like an empty one.

    Args:
        column: lists of ids.
        padding: an integer that is left out, with its weight.
        weights: lists of numbers, one for each id.
        most: how many elements of a list are kept, the last ones.

    Raises:
        DataError: columns of no lists, or weights that are not one finite number for each id.
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
    values = column.filter(lengths > 0).explode(empty_as_null=False).alias(name)
    offsets = offsets_of(lengths.to_numpy())
    numbers = None if weights is None else _weights(name, weights, offsets)
    if padding is not None:
        kept = (as_type(plain_ids(values), "int") != padding).fill_null(value=True)
        values, numbers, offsets = _kept(values, numbers, offsets, kept.to_numpy())
    if most is not None and np.diff(offsets).max(initial=0) > most:
        lengths_left = np.diff(offsets)
        first = np.repeat(np.maximum(offsets[1:] - most, offsets[:-1]), lengths_left)
        values, numbers, offsets = _kept(values, numbers, offsets, np.arange(len(first)) >= first)
    return Elements(values, offsets, column.null_count(), numbers)


def _kept(
    values: pl.Series, numbers: np.ndarray | None, offsets: np.ndarray, kept: np.ndarray
) -> tuple[pl.Series, np.ndarray | None, np.ndarray]:
    """Leave the elements out of lists that are not kept: a boolean for each."""
    numbers = None if numbers is None else numbers[kept]
    return values.filter(pl.Series(kept)), numbers, offsets_of(kept)[offsets]


def _weights(name: str, column: pl.Series, offsets: np.ndarray) -> np.ndarray:
    """Return the weights of the ids of a feature's lists, float32 (E,)."""
    where, dtype = f"the weights {column.name!r} of sequence feature {name!r}", column.dtype
    if isinstance(dtype, pl.Array):
        column = column.cast(pl.List(dtype.inner))
    elif dtype == pl.Null:
        column = column.cast(pl.List(pl.Float32))
    held = column.dtype.inner if isinstance(column.dtype, pl.List) else pl.String()
    if not (held.is_numeric() or held == pl.Null):
        raise DataError(f"{where} must be a column of lists of numbers, got {dtype}")
    lengths = column.list.len().fill_null(0).to_numpy()
    wrong = lengths != np.diff(offsets)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{where} must have one number for each id, but {int(wrong.sum()):,} lists do not, the "
            f"first in row {row} with {lengths[row]:,} weights for {np.diff(offsets)[row]:,} ids"
        )
    # A cast to float32 makes inf of what is too large for it, and NaN of null.
    found = (
        column.filter(pl.Series(lengths > 0))
        .explode(empty_as_null=False)
        .cast(pl.Float32)
        .to_numpy()
    )
    bad = ~np.isfinite(found)
    if bad.any():
        row = int(offsets.searchsorted(int(bad.argmax()), side="right")) - 1
        raise DataError(
            f"{where} must be finite numbers of 32 bits, but {int(bad.sum()):,} of {len(bad):,} "
            f"are null, NaN or too large, the first in row {row}: correct them, or leave the id out"
        )
    return found


def packed(kind: str, values: Sequence[Any]) -> np.ndarray:
    """Return plain values as a read-only array, the fastest way for a few.

    A value of another type is a struct.error, one that is too large may be an OverflowError.
    """
    return np.frombuffer(pack(f"{len(values)}{kind}", *values), dtype=np.dtype(kind))
