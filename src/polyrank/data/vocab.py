"""Vocabularies: from the ids of a log to the rows of embedding tables, fitted on training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self

import numpy as np
import polars as pl

from polyrank.data.bags import Bag, flattened
from polyrank.data.dense import DenseEncoding, dense_values
from polyrank.data.hashing import buckets
from polyrank.data.ids import IdType, as_type, id_type, plain_ids, spellings
from polyrank.data.read import by_column, collect
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, IdFeature, Schema, SequenceFeature

_TYPES: dict[IdType, type[pl.DataType]] = {
    "int": pl.Int64,
    "string": pl.String,
    "float": pl.Float64,
}
# A direct look-up array may have this many cells for each vocabulary entry …
_SPREAD = 8
# … or this many in all: 256 KiB, which stay in the cache.
_SMALL = 65_536
_LEAST = -(2**63)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The entries of one embedding table; row 0 is for unseen and rare ids.

    Args:
        dtype: the type that ids are brought to before they are looked up, or `identity`, where
            the id itself is the row, or `hash`, where its hash says the row.
        values: entries of rows 1, 2, …, the most frequent first; may hold one null.
        counts: training occurrences of each entry.
        size: rows of an identity or a hashed table.

    Example:
        >>> vocabulary = Vocabulary("int", pl.Series([7, 3]), pl.Series([5, 2]))
        >>> vocabulary.rows, vocabulary.encode(pl.Series(["3", "x", None, "7"]))
        (3, (array([2, 0, 0, 1], dtype=int32), 1, 1))
    """

    dtype: IdType | Literal["identity", "hash"]
    values: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.Int64))
    counts: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.Int64))
    size: int | None = None

    @classmethod
    def fit(cls, columns: Sequence[pl.Series], min_count: int = 1) -> Self:
        """Return the vocabulary of all ids of some columns together.

        Args:
            columns: training values of the features that share the table.
            min_count: ids with fewer occurrences in all columns together are left out.
        """
        return cls.of_counts([counts_of(column) for column in columns], min_count)

    @classmethod
    def of_counts(cls, counted: Sequence[pl.DataFrame], min_count: int = 1) -> Self:
        """Return what `fit` does, from the `counts_of` each column."""
        dtype = id_type([each["value"] for each in counted])
        entries = (
            pl.concat(
                each.select(as_type(each["value"], dtype), pl.col("count").cast(pl.Int64))
                for each in counted
            )
            .group_by("value")
            .sum()
            .filter(pl.col("count") >= min_count)
            .sort("count", "value", descending=[True, False], nulls_last=False)
        )
        return cls(dtype, entries["value"], entries["count"])

    @classmethod
    def fixed(cls, owner: IdFeature) -> Self | None:
        """Return the vocabulary that a feature has before any row is read, or None.

        Example:
            >>> from polyrank.schema import SparseFeature
            >>> Vocabulary.fixed(SparseFeature("item", hash=1000)).rows
            1001
        """
        if owner.hash is not None:
            return cls("hash", size=owner.hash + 1)
        return None if owner.vocab_size is None else cls("identity", size=owner.vocab_size)

    @property
    def rows(self) -> int:
        """Rows of the table, row 0 included."""
        return self.size if self.size is not None else len(self.values) + 1

    def encode(self, series: pl.Series) -> tuple[np.ndarray, int, int]:
        """Return the row of each id, the number of unseen ids and the number of nulls.

        An id of another type is converted where it names the same id. Among integers 7, 7.0, "7"
        and "7.0" are one id, and "07" is unseen; among texts a number is looked up as its decimal
        text, and where there is none with ".0" behind it. NaN is null. A null has a row where
        training had enough of them, else row 0; unseen counts the ids that are not in the
        vocabulary and not null. A hashed table knows every id, and has null in row 0.

        Args:
            series: a column of any type that can hold ids.

        Raises:
            DataError: a column of lists, structs or bytes.

        Shape:
            (rows,) → int32 (rows,), int, int
        """
        plain = plain_ids(series)
        rows, nulls = self._found(plain), plain.null_count()
        if nulls:
            rows[plain.is_null().to_numpy()] = self._null_row
        unseen = int(np.count_nonzero(rows < 0))
        if unseen:
            np.maximum(rows, 0, out=rows)
        return rows, unseen, nulls

    def encode_lists(self, series: pl.Series, padding: int | None) -> tuple[Bag, int, int]:
        """Return the rows of the ids in each list, as `encode` does for each id.

        Null lists are counted with the null ids.

        Args:
            series: a column of lists.
            padding: an integer that is left out.

        Raises:
            DataError: a column without lists, or with lists of what can be no ids.
        """
        values, offsets, null_lists = flattened(series, padding)
        ids, unseen, nulls = self.encode(values)
        return Bag(ids, offsets), unseen, nulls + null_lists

    def to_frame(self) -> pl.DataFrame:
        """Return columns row, value and count; row 0 has none of these and is left out."""
        rows = pl.Series("row", np.arange(1, len(self.values) + 1, dtype=np.int32))
        return pl.DataFrame([rows, self.values.alias("value"), self.counts.alias("count")])

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Self:
        """Read what `to_frame` wrote; its type is that of the values.

        Raises:
            DataError: columns or a type that `to_frame` does not write.
        """
        if set(frame.columns) != {"row", "value", "count"}:
            raise DataError(
                f"a vocabulary has the columns row, value and count, however: {frame.columns}"
            )
        frame = frame.sort("row")
        for name, dtype in _TYPES.items():
            if frame["value"].dtype == dtype:
                return cls(name, frame["value"], frame["count"].cast(pl.Int64))
        raise DataError(
            f"a vocabulary holds Int64, String or Float64 values, however: {frame['value'].dtype}"
        )

    def _found(self, plain: pl.Series) -> np.ndarray:
        """Row of each plain id, −1 where it is null or not in the table."""
        if self.dtype == "hash":
            return buckets(plain, self.rows - 1) + np.int32(1)
        if self.dtype != "string":
            return self._looked_up(
                as_type(plain, "int" if self.dtype == "identity" else self.dtype)
            )
        texts = spellings(plain)
        rows = self._looked_up(next(texts))
        for others in texts:
            if (rows < 0).any():
                rows = np.where(rows < 0, self._looked_up(others), rows)
        return rows

    def _looked_up(self, ids: pl.Series) -> np.ndarray:
        """Row of each id of the canonical type, −1 where it is null or not in the table."""
        if self.size is not None:
            rows = ids.fill_null(-1).to_numpy()
            return np.where((rows >= 0) & (rows < self.size), rows, -1).astype(np.int32)
        if self.direct is not None:
            low, table = self.direct
            outside = len(table) - 1
            beyond = low - 1 if low > _LEAST else low + outside
            values = ids.fill_null(beyond).to_numpy()
            # Modulo 2^64, below `outside` if and only if the id is in reach.
            cells = values.view(np.uint64) - np.uint64(low % 2**64)
            np.minimum(cells, np.uint64(outside), out=cells)
            return table.take(cells.view(np.int64))
        found = ids.alias("value").to_frame()
        found = found.join(self._index, on="value", how="left", maintain_order="left")
        return found["row"].fill_null(-1).to_numpy(writable=True)

    @cached_property
    def _null_row(self) -> int:
        where = self.values.is_null().arg_true()
        return int(where[0]) + 1 if len(where) else 0

    @cached_property
    def _index(self) -> pl.DataFrame:
        return self.to_frame().select("value", "row").drop_nulls("value")

    @cached_property
    def direct(self) -> tuple[int, np.ndarray] | None:
        """First id and the row of each id from there on, where ids lie close enough together.

        An array look-up is several times as fast as a hash join. The last cell, −1, is for all
        others.
        """
        if self.dtype != "int" or not len(self._index):
            return None
        values = self._index["value"].to_numpy()
        low, high = int(values.min()), int(values.max())
        if high - low >= max(_SPREAD * len(values), _SMALL):
            return None
        table = np.full(high - low + 2, -1, dtype=np.int32)
        table[values - low] = self._index["row"].to_numpy()
        return low, table


def counts_of(column: pl.Series) -> pl.DataFrame:
    """Return the distinct plain ids of a column, `value`, and their occurrences, `count`."""
    ids = plain_ids(column).alias("value")
    present = ids.drop_nulls() if ids.dtype == pl.Int64 else ids
    if present.dtype != pl.Int64 or not len(present):
        return ids.value_counts(name="count")
    values = present.to_numpy()
    low, high = int(values.min()), int(values.max())
    if high - low >= max(len(values), _SMALL):
        return ids.value_counts(name="count")
    # Integers that lie close together are counted in an array, several times as fast.
    counts = np.bincount(values - low)
    found = np.flatnonzero(counts)
    frame = pl.DataFrame({"value": found + low, "count": counts[found].astype(np.uint32)})
    if len(present) == len(ids):
        return frame
    nulls = pl.DataFrame({"value": [None], "count": [ids.null_count()]}, schema=frame.schema)
    return pl.concat([frame, nulls])


@dataclass(frozen=True)
class Vocab:
    """All that is fitted on training rows to encode any rows: vocabularies and dense encodings.

    Args:
        tables: vocabularies by the feature that owns the table.
        dense: encodings by dense feature, those of `bins` included.

    Example:
        >>> from polyrank.schema import SparseFeature, Task
        >>> features = [SparseFeature("item"), DenseFeature("price", encoding="log")]
        >>> schema = Schema(features, [Task("click")])
        >>> log = pl.LazyFrame({"item": ["a", "b", "a"], "price": [1, None, 3]})
        >>> vocab = Vocab.fit(log, schema)
        >>> vocab.rows, vocab.columns, vocab.tables["item"].values.to_list()
        ({'item': 3}, {'price': 2}, ['a', 'b'])
    """

    tables: Mapping[str, Vocabulary]
    dense: Mapping[str, DenseEncoding]

    @classmethod
    def fit(cls, frame: pl.LazyFrame | pl.DataFrame, schema: Schema) -> Self:
        """Return what encodes a log, fitted on its training rows and no others.

        Args:
            frame: the training rows.
            schema: names the columns; a shared table is fitted on all its columns together, the
                elements of lists among them, with the owner's `min_count`.

        Raises:
            DataError: no rows, a missing column, or one that cannot be ids, lists or numbers.
        """
        owners = {
            feature.name: feature
            for feature in schema.features
            if isinstance(feature, IdFeature) and feature.name == feature.table
        }
        fixed = {name: Vocabulary.fixed(owner) for name, owner in owners.items()}
        counted: dict[str, list[pl.DataFrame]] = {name: [] for name in owners}
        dense: dict[str, DenseEncoding] = {}
        frame = by_column(frame, [feature.name for feature in schema.features])
        for feature in schema.features:
            column = collect(frame, [feature.name]).to_series()
            if not len(column):
                raise DataError("no rows in train: there is nothing to fit a vocabulary on")
            if isinstance(feature, DenseFeature):
                dense[feature.name] = DenseEncoding.fit(feature, dense_values(column))
            elif fixed[feature.table] is None:
                if isinstance(feature, SequenceFeature):
                    column = flattened(column, feature.padding_idx)[0]
                counted[feature.table].append(counts_of(column))
        tables = {
            name: fixed[name] or Vocabulary.of_counts(counted.pop(name), owner.min_count)
            for name, owner in owners.items()
        }
        return cls(tables, dense)

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each embedding table, those of `bins` included."""
        sparse = {name: vocabulary.rows for name, vocabulary in self.tables.items()}
        bins = {name: each.rows for name, each in self.dense.items() if each.kind == "bins"}
        return sparse | bins

    @property
    def columns(self) -> Mapping[str, int]:
        """Float columns of each dense feature that has no table."""
        return {name: each.columns for name, each in self.dense.items() if each.kind != "bins"}
