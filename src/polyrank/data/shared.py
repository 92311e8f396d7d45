"""Lists that rows share: encoded once each, while a row holds the number of its lists.

Letters: N rows, M rows of the table of lists, U of them that some rows use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from polyrank.data.read import Joined, collect, collect_chunks, column_names, read
from polyrank.errors import DataError, did_you_mean
from polyrank.features import Codec, Feature
from polyrank.features.bags import Bag, Elements, offsets_of
from polyrank.features.kind import Encoded
from polyrank.features.vocabulary import counts_of, merged
from polyrank.schema import Schema

LISTS = 16_384  # read at a time
Frame = pl.LazyFrame | pl.DataFrame


@dataclass(frozen=True, eq=False)
class Shared:
    """The table of lists of a `Joined` log.

    Args:
        frame: its rows.
        key: the column by which rows name theirs.
        keys: key and `place` of each of its rows.
        features: those that it holds, by name.
    """

    frame: Frame
    key: str
    keys: pl.DataFrame
    features: Mapping[str, Feature]

    @classmethod
    def of(cls, source: Joined, schema: Schema) -> tuple[pl.LazyFrame, Shared]:
        """Return the rows of a log, and the lists that they share.

        Raises:
            DataError: a key that is missing or that two lists have, a column that both tables have,
                or a feature among the lists that is none.
        """
        rows, frame, key = read(source.rows, schema), read(source.shared, schema), source.key
        known, own = column_names(rows), column_names(frame)
        for where, names in (("the rows", known), ("the shared lists", own)):
            if key not in names:
                raise DataError(f"the key {key!r} is not in {where}{did_you_mean(key, names)}")
        features = {}
        for feature in schema.features:
            here = [column for column in feature.columns if column in own and column != key]
            if not here:
                continue
            if not (feature.lists and feature.ragged):
                raise DataError(
                    f"feature {feature.name!r} is a column of the shared lists, and a "
                    f"{feature.kind} feature has one value a row: write it into the rows"
                )
            if twice := [column for column in feature.columns if column in known]:
                raise DataError(
                    f"column {twice[0]!r} of feature {feature.name!r} is in the rows, and "
                    f"{here[0]!r} in the shared lists: keep the feature in one of them"
                )
            features[feature.name] = feature
        keys = collect(frame, [key])
        if keys.null_count().item():
            raise DataError(f"the shared lists have {keys.null_count().item():,} null keys {key!r}")
        if keys[key].n_unique() < keys.height:
            value = keys[key].filter(keys[key].is_duplicated())[0]
            raise DataError(f"the shared lists have the key {key!r} = {value!r} more than once")
        place = pl.Series("place", np.arange(keys.height, dtype=np.int32))
        return rows, cls(frame, key, keys.with_columns(place), features)

    def __len__(self) -> int:
        return self.keys.height

    @property
    def bytes(self) -> int:
        """About the memory that all lists take once they are encoded."""
        values = 0
        for feature in self.features.values():
            lengths = self.frame.lazy().select(pl.col(feature.name).list.len().sum())
            each = lengths.collect(engine="streaming").item() or 0
            values += each * len(feature.columns) + 2 * len(self)
        return 4 * values

    def places(self, keys: pl.Series, split: str = "data") -> np.ndarray:
        """Return the place of each row's lists, M where its key is null: int32 (N,).

        Raises:
            DataError: a key that no list has, or keys of another type.
        """
        try:
            own = keys.cast(self.keys[self.key].dtype).alias(self.key).to_frame()
        except pl.exceptions.PolarsError:
            raise DataError(
                f"{split}: the key {self.key!r} is {keys.dtype} in the rows and "
                f"{self.keys[self.key].dtype} in the shared lists: write both with one type"
            ) from None
        found = own.join(self.keys, on=self.key, how="left", maintain_order="left")["place"]
        if lost := found.null_count() - keys.null_count():
            value = keys.filter(found.is_null() & keys.is_not_null())[0]
            raise DataError(
                f"{split}: {lost:,} of {len(keys):,} rows have a key {self.key!r} that the shared "
                f"lists do not have, the first {value!r}"
            )
        return found.fill_null(len(self)).to_numpy()

    def times(self, places: Iterable[np.ndarray]) -> np.ndarray:
        """Return how many rows use each place: int64 (M,)."""
        total = np.zeros(len(self) + 1, dtype=np.int64)
        for each in places:
            total += np.bincount(each, minlength=len(total))
        return total[:-1]

    def counts(self, feature: Feature, table: str, times: np.ndarray) -> list[pl.DataFrame]:
        """Return what `counts_of` the joined column does, in frames that add up to it."""
        found: list[pl.DataFrame] = []
        for start, column in self._columns(feature, times > 0):
            values: Elements = feature.values(column)
            assert values.offsets is not None
            of_lists = times[start][times[start] > 0]
            each = np.repeat(of_lists, np.diff(values.offsets))
            found = merged([*found, counts_of(feature.ids(column, table), each)])
        if not found:  # no row has a list
            nothing = feature.column(collect(self.frame.lazy().head(0), feature.columns))
            found = [counts_of(feature.ids(nothing, table))]
        return found

    def chunks(self, feature: Feature, codec: Codec, used: np.ndarray) -> Iterator[Encoded]:
        """Yield the lists of a feature that rows use, encoded, and at the end an empty one."""
        for _, column in self._columns(feature, used):
            yield codec.read(column)
        yield Encoded(_empty(feature, lists=1), 0, 0, 0)

    def _columns(self, feature: Feature, used: np.ndarray) -> Iterator[tuple[slice, pl.Series]]:
        start = 0
        for part in collect_chunks(self.frame, feature.columns, LISTS):
            own = slice(start, start + part.height)
            start = own.stop
            if used[own].any():
                yield own, feature.column(part.filter(pl.Series(used[own])))


@dataclass(frozen=True, eq=False)
class Lists:
    """Raw lists in memory, for rows that are read a chunk at a time.

    Args:
        shared: where they come from.
        values: their columns, a row for each place and a last one of nulls.
    """

    shared: Shared
    values: pl.DataFrame

    @classmethod
    def of(cls, shared: Shared) -> Lists:
        """Read all lists of the features."""
        columns = [name for feature in shared.features.values() for name in feature.columns]
        found = collect(shared.frame, columns)
        return cls(shared, pl.concat([found, found.clear(1)]))

    def beside(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows with the columns of their lists.

        Raises:
            DataError: a key that no list has.
        """
        return rows.hstack(self.values[self.shared.places(rows[self.shared.key])])


@dataclass(frozen=True, eq=False)
class Sharing:
    """The lists that the rows of one split use.

    Args:
        shared: where they come from.
        numbers: of each place and of none, its list among those that are used: int32 (M + 1,).
        lists: of each feature, encoded; without `encoded`, none of them, to be written elsewhere.
    """

    shared: Shared
    numbers: np.ndarray
    lists: Mapping[str, Encoded]

    @classmethod
    def of(
        cls, shared: Shared, times: np.ndarray, codecs: Mapping[str, Codec], *, encoded: bool = True
    ) -> Sharing:
        """Return what rows use that name each place so many `times`."""
        used = times > 0
        count = int(used.sum())
        numbers = np.full(len(used) + 1, count, dtype=np.int32)
        numbers[:-1][used] = np.arange(count, dtype=np.int32)
        lists = {}
        for name, feature in shared.features.items():
            chunks = shared.chunks(feature, codecs[name], used) if encoded else iter(())
            lists[name] = _together(chunks) or Encoded(_empty(feature, lists=0), 0, 0, 0)
        return cls(shared, numbers, lists)

    def encoded(self, name: str, places: np.ndarray) -> Encoded:
        """Return the column of a feature for rows by their places."""
        found = self.lists[name]
        assert isinstance(found.values, Bag)
        rows = self.numbers[places]
        bag = Bag(found.values.ids, found.values.offsets, found.values.weights, rows)
        return found._replace(values=bag)


def _together(chunks: Iterator[Encoded]) -> Encoded | None:
    found = list(chunks)
    if not found:
        return None
    bags = [each.values for each in found if isinstance(each.values, Bag)]
    weights = [bag.weights for bag in bags if bag.weights is not None]
    bag = Bag(
        np.concatenate([bag.ids for bag in bags]),
        offsets_of(np.concatenate([np.diff(bag.offsets) for bag in bags])),
        np.concatenate(weights) if weights else None,
    )
    _, ids, unseen, nulls = zip(*found, strict=True)
    return Encoded(bag, sum(ids), sum(unseen), sum(nulls))


def _empty(feature: Feature, lists: int) -> Bag:
    """Return so many lists of nothing."""
    weighted = any(slot.weighted for slot in feature.slots)
    weights = np.empty(0, dtype=np.float32) if weighted else None
    return Bag(np.empty(0, dtype=np.int32), np.zeros(lists + 1, dtype=np.int64), weights)
