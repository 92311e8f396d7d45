"""Vocabularies: from the ids of a log to the rows of embedding tables, fitted on training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from struct import error
from typing import Any, Literal, Self

import numpy as np
import polars as pl

from polyrank.errors import DataError
from polyrank.features.bags import packed
from polyrank.features.hashing import buckets
from polyrank.features.ids import IdType, as_type, id_type, plain_ids, spellings

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
_WIDER: tuple[IdType, ...] = ("int", "float", "string")
# Texts whose rows a process keeps beside the hashes that it shares, of so many letters at most: a
# megabyte or two, and most of what is asked for.
_KNOWN, _SHORT = 16_384, 64
NoneType = type(None)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The entries of one embedding table; row 0 is for unseen and rare ids.

    Args:
        dtype: the type in which ids are looked up; or `identity`, where the id itself is the row,
            or `hash`, where its hash says the row.
        values: entries of rows 1, 2, …, the most frequent first; may hold one null.
        counts: training occurrences of each entry.
        size: rows of an identity or a hashed table.
        rare: value and count of ids that had too few rows to be entries; a warm start counts on.
    """

    dtype: IdType | Literal["identity", "hash"]
    values: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.Int64))
    counts: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.Int64))
    size: int | None = None
    rare: pl.DataFrame | None = None

    @classmethod
    def fit(cls, columns: Sequence[pl.Series], min_count: int = 1) -> Self:
        """Return the vocabulary of columns that share a table; `min_count` counts in them all."""
        return cls.of_counts([counts_of(column) for column in columns], min_count)

    @classmethod
    def of_counts(cls, counted: Sequence[pl.DataFrame], min_count: int = 1) -> Self:
        """Return what `fit` does, from the `counts_of` each column."""
        dtype = id_type([each["value"] for each in counted])
        entries = _totals(counted, dtype)
        often = pl.col("count") >= min_count
        kept = entries.filter(often)
        return cls(dtype, kept["value"], kept["count"], rare=_some(entries.filter(~often)))

    def grown(self, counted: Sequence[pl.DataFrame], min_count: int = 1) -> Vocabulary:
        """Return the vocabulary of the rows that it was fitted on and of more.

        Its entries keep their rows, and new ones come after them. An identity or a hashed table
        stays as it is.

        Args:
            counted: the `counts_of` columns of the new rows.
            min_count: which an id must reach in the old rows and the new ones together.

        Examples:
            >>> first = Vocabulary.fit([pl.Series([7, 7, 8])], min_count=2)
            >>> first.grown([counts_of(pl.Series([9, 9, 8]))], min_count=2).values.to_list()
            [7, 8, 9]
        """
        if self.size is not None:
            return self
        rare = self._no_entries if self.rare is None else self.rare
        found = id_type([self.values, rare["value"], *(each["value"] for each in counted)])
        # Never a narrower one, in which ids that were told apart would be one.
        dtype = max(self.id_type, found, key=_WIDER.index)
        more = _totals([rare, *counted], dtype)
        values = as_type(self.values, dtype).alias("value")
        entries = pl.DataFrame([values, self.counts.alias("before")])
        again = entries.join(more, on="value", how="left", nulls_equal=True, maintain_order="left")
        counts = again["before"] + again["count"].fill_null(0)
        others = more.join(entries, on="value", how="anti", nulls_equal=True, maintain_order="left")
        often = pl.col("count") >= min_count
        new, rest = others.filter(often), others.filter(~often)
        return Vocabulary(
            dtype,
            pl.concat([values, new["value"]]),
            pl.concat([counts.alias("count"), new["count"]]),
            rare=_some(rest),
        )

    @property
    def _no_entries(self) -> pl.DataFrame:
        return pl.DataFrame(
            {"value": self.values.clear(), "count": pl.Series(dtype=pl.Int64)},
        )

    @property
    def rows(self) -> int:
        """Rows of the table, row 0 included."""
        return self.size if self.size is not None else len(self.values) + 1

    @property
    def id_type(self) -> IdType:
        """The type of its ids; those of an identity vocabulary are integers."""
        assert self.dtype != "hash"  # which knows ids of every type
        return "int" if self.dtype == "identity" else self.dtype

    def encode(self, series: pl.Series) -> tuple[np.ndarray, int, int]:
        """Return the int32 row of each id, the number of unseen ids and the number of nulls.

        An id of another type is converted where it names the same id. Among integers 7, 7.0, "7"
        and "7.0" are one id, and "07" is unseen; among texts a number is looked up as its decimal
        text, and where there is none with ".0" behind it. NaN is null. A null has a row where
        training had enough of them, else row 0, and is never unseen. A hashed table knows every id,
        and has null in row 0.
        """
        plain = plain_ids(series)
        rows, nulls = self._found(plain), plain.null_count()
        if nulls:
            rows[plain.is_null().to_numpy()] = self._null_row
        unseen = int(np.count_nonzero(rows < 0))
        if unseen:
            np.maximum(rows, 0, out=rows)
        return rows, unseen, nulls

    def encode_values(self, values: Sequence[Any]) -> tuple[np.ndarray, int, int] | None:
        """Return what `encode` does of a few plain values, without making a column of them.

        The rows are int64. Looked up are integers among integers, texts among texts, and None.
        Anything else (texts among integers, 7.0 for 7, hashes) is None here, and left to `encode`.
        """
        if self.dtype == "string":
            return self._texts_found(values)
        return self._integers_found(values) if self.dtype in ("int", "identity") else None

    def named(self, rows: np.ndarray) -> list[str]:
        """Return what some rows stand for: ids, or the buckets of a hashed table.

        Examples:
            >>> Vocabulary("int", pl.Series([70, None])).named(np.array([1, 2, 0]))
            ['70', 'null', 'unseen or rare']
            >>> Vocabulary("hash", size=9).named(np.array([3, 0]))
            ['bucket 2', 'null']
            >>> Vocabulary("identity", size=9).named(np.array([3, 0]))
            ['3', '0 or unseen']
        """
        if self.dtype == "hash":
            return [f"bucket {row - 1}" if row else "null" for row in rows]
        if self.dtype == "identity":
            return [str(row) if row else "0 or unseen" for row in rows]
        found = self.values.gather(np.maximum(rows, 1) - 1) if len(self.values) else rows
        return [
            "unseen or rare" if not row else "null" if value is None else str(value)
            for row, value in zip(rows, found, strict=True)
        ]

    def to_frame(self) -> pl.DataFrame:
        """Return columns row, value and count; row 0 has none of these and is left out."""
        rows = pl.Series("row", np.arange(1, len(self.values) + 1, dtype=np.int32))
        return pl.DataFrame([rows, self.values.alias("value"), self.counts.alias("count")])

    def saved(self) -> pl.DataFrame:
        """Return `to_frame` with the rare ids before it, all of them in row 0."""
        listed = self.to_frame()
        if self.rare is None:
            return listed
        row = pl.lit(0, pl.Int32).alias("row")
        return pl.concat([self.rare.select(row, "value", "count"), listed])

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Self:
        """Read what `saved` or `to_frame` wrote, and refuse anything else.

        Its type is that of the values.
        """
        if set(frame.columns) != {"row", "value", "count"}:
            raise DataError(
                f"a vocabulary must have the columns row, value and count, got {frame.columns}"
            )
        if not frame["row"].is_sorted():
            frame = frame.sort("row")
        for name, dtype in _TYPES.items():
            if frame["value"].dtype == dtype:
                frame = frame.with_columns(pl.col("count").cast(pl.Int64))
                rare = frame.filter(pl.col("row") == 0).select("value", "count")
                listed = frame.slice(rare.height)
                return cls(name, listed["value"], listed["count"], rare=_some(rare))
        raise DataError(
            f"a vocabulary must hold Int64, String or Float64 values, got {frame['value'].dtype}"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what look-ups need beside the values, for `sharing`: int32 and int64 arrays.

        Texts are found by Python's hash, which only processes of one PYTHONHASHSEED have in common.
        """
        if self.size is not None or self.dtype == "float":
            return {}
        if self.dtype == "string":
            hashes = np.fromiter(map(hash, self._index["value"]), np.int64, self._index.height)
            order = np.argsort(hashes, kind="stable")
            rows = self._index["row"].to_numpy()[order]
            return {"hashes": hashes[order], "rows": rows.astype(np.int32)}
        found = dict(zip(("ids", "rows_of_ids"), self._sorted, strict=True))
        return found if self.direct is None else found | {"direct": self.direct[1]}

    def sharing(self, arrays: Mapping[str, np.ndarray], low: int | None) -> Vocabulary:
        """Return the same vocabulary with arrays that lie elsewhere, such as in a mapped file.

        Args:
            arrays: what `arrays` returned.
            low: the first id of `direct`.
        """
        found = Vocabulary(self.dtype, self.values, self.counts, self.size, self.rare)
        known = vars(found)  # where cached properties keep what they found
        if "hashes" in arrays:
            known["_hashed"] = (arrays["hashes"], arrays["rows"])
        if "ids" in arrays:
            known["_sorted"] = (arrays["ids"], arrays["rows_of_ids"])
            known["direct"] = (low, arrays["direct"]) if "direct" in arrays else None
        return found

    def _found(self, plain: pl.Series) -> np.ndarray:
        """Row of each plain id, −1 where it is null or not in the table."""
        if self.dtype == "hash":
            return buckets(plain, self.rows - 1) + np.int32(1)
        if self.dtype != "string":
            return self._looked_up(as_type(plain, self.id_type))
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

    def _texts_found(self, values: Sequence[Any]) -> tuple[np.ndarray, int, int] | None:
        kinds = set(map(type, values))
        if not kinds <= {str, NoneType}:
            return None
        if self._hashed is None:
            get = self._row_by_text.get
            rows = np.array([get(value, 0) for value in values], dtype=np.int64)
        else:
            rows = self._rows_known(values)
        unseen, nulls = len(values) - int(np.count_nonzero(rows)), 0
        if NoneType in kinds:
            absent = np.array([value is None for value in values])
            nulls = int(np.count_nonzero(absent))
            rows[absent] = self._null_row
        return rows, unseen - nulls, nulls

    def _rows_known(self, values: Sequence[str | None]) -> np.ndarray:
        """Row of each text by its hash; what was asked for lately is known, as in a dict of all."""
        known = self._known
        rows = [known.get(value, -1) for value in values]
        if -1 in rows:
            places = [place for place, row in enumerate(rows) if row < 0]
            found = self._rows_by_hash([values[place] for place in places]).tolist()
            if len(known) > _KNOWN:
                known.clear()
            for place, row in zip(places, found, strict=True):
                rows[place] = row
                text = values[place]
                if text is not None and len(text) <= _SHORT:
                    known[text] = row
        return np.array(rows, np.int64)

    def _rows_by_hash(self, values: Sequence[str | None]) -> np.ndarray:
        assert self._hashed is not None
        hashes, rows = self._hashed
        if not len(hashes):
            return np.zeros(len(values), np.int64)
        wanted = np.fromiter(map(hash, values), np.int64, len(values))
        at = hashes.searchsorted(wanted)
        at[at == len(hashes)] = 0
        found = np.zeros(len(values), np.int64)
        (hits,) = np.nonzero(hashes[at] == wanted)
        texts = self.values.gather(rows[at[hits]] - 1).to_list()
        for place, text in zip(hits.tolist(), texts, strict=True):
            step = int(at[place])
            while text != values[place]:  # several texts may have one hash
                step += 1
                if step == len(hashes) or hashes[step] != wanted[place]:
                    break
                text = self.values[int(rows[step]) - 1]
            else:
                found[place] = rows[step]
        return found

    def _integers_found(self, values: Sequence[Any]) -> tuple[np.ndarray, int, int] | None:
        absent = None
        try:
            ids = packed("q", values)
        except error:  # something else than an integer or a boolean, or one of more than 64 bits
            absent = np.array([value is None for value in values])
            if not absent.any():
                return None
            try:
                ids = packed("q", [0 if value is None else value for value in values])
            except (error, OverflowError):
                return None
        except OverflowError:  # an id of more than 64 bits
            return None
        if self.size is not None:
            known = (ids >= 0) & (ids < self.size)
            rows = ids * known
        else:
            sorted_ids, sorted_rows = self._sorted
            at = sorted_ids[:-1].searchsorted(ids)
            known = (sorted_ids[at] == ids) & (at < len(sorted_ids) - 1)
            rows = sorted_rows[at] * known
        if absent is None:
            return rows, len(ids) - int(np.count_nonzero(known)), 0
        rows[absent] = self._null_row
        unseen = int(np.count_nonzero(~(known | absent)))
        return rows, unseen, int(np.count_nonzero(absent))

    @cached_property
    def _null_row(self) -> int:
        where = self.values.is_null().arg_true()
        return int(where[0]) + 1 if len(where) else 0

    @cached_property
    def _row_by_text(self) -> dict[str, int]:
        return dict(zip(self._index["value"].to_list(), self._index["row"].to_list(), strict=True))

    @cached_property
    def _hashed(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Sorted hashes of texts and the row of each, where `sharing` has brought them."""
        return None

    @cached_property
    def _known(self) -> dict[str | None, int]:
        return {None: 0}

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted integers and the row of each, and one more where a search ends in vain."""
        frame = self._index.sort("value")
        ids, rows = frame["value"].to_numpy(), frame["row"].to_numpy().astype(np.int64)
        return np.append(ids, 0), np.append(rows, 0)

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


def _totals(counted: Sequence[pl.DataFrame], dtype: IdType) -> pl.DataFrame:
    """Return distinct values of one type and their counts, the most frequent first."""
    return (
        pl.concat(
            each.select(
                as_type(each["value"], dtype).alias("value"), pl.col("count").cast(pl.Int64)
            )
            for each in counted
        )
        .group_by("value")
        .sum()
        .sort("count", "value", descending=[True, False], nulls_last=False)
    )


def _some(entries: pl.DataFrame) -> pl.DataFrame | None:
    return entries if entries.height else None


def merged(counted: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Return counts that add up to those of several `counts_of`: one frame of each type of id."""
    by_type: dict[pl.DataType, list[pl.DataFrame]] = {}
    for each in counted:
        frame = each.with_columns(pl.col("count").cast(pl.Int64))
        by_type.setdefault(each["value"].dtype, []).append(frame)
    return [pl.concat(frames).group_by("value").sum() for frames in by_type.values()]


def counts_of(column: pl.Series, times: np.ndarray | None = None) -> pl.DataFrame:
    """Return the distinct plain ids of a column, `value`, and their occurrences, `count`.

    With `times`, int64 (N,), each element of the column stands for as many.
    """
    ids = plain_ids(column).alias("value")
    if times is not None:
        counted = pl.DataFrame([ids, pl.Series("count", times)])
        return counted.group_by("value").sum()
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
