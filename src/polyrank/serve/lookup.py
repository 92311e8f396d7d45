"""Plain lists to vocabulary rows and float32 numbers, for a few values at a time.

A frame costs microseconds a column whatever it holds; a request of a hundred rows has a hundred
values. What is told apart by the types of its values alone is looked up here in plain Python and
numpy. Everything else (texts among integers, 7.0 for 7, booleans, hashes) goes the way of files,
through a column and `Vocabulary.encode`, which is also what all of this is tested to be equal to.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.arrays import from_arrays
from polyrank.data.bags import Bag, offsets_of
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.errors import DataError
from polyrank.features import DenseFeature, Feature, SequenceFeature
from polyrank.schema import Schema
from polyrank.serve.inputs import Encoded, encode_column

NoneType = type(None)
LookUp = Callable[[Sequence[Any] | pl.Series], Encoded]
FEW_ROWS = 1024  # from here on a column is encoded faster as it is than as a list
_EXACT = 2.0**53  # up to here float64 holds every integer, so that float32 is rounded to once


def lookups(schema: Schema, vocab: Vocab) -> dict[str, LookUp]:
    """Return for each feature what encodes a list of its values, as `encode_column` does a column.

    Each raises a DataError for values that the feature cannot have.
    """
    ids = {name: _ids(table) for name, table in vocab.tables.items()}
    return {feature.name: _lookup(feature, vocab, ids) for feature in schema.features}


def _lookup(feature: Feature, vocab: Vocab, tables: Mapping[str, Ids]) -> LookUp:
    fast = _fast(feature, None if isinstance(feature, DenseFeature) else tables[feature.table])

    def look_up(values: Sequence[Any] | pl.Series) -> Encoded:
        if isinstance(values, pl.Series):
            found = fast(values.to_list()) if len(values) <= FEW_ROWS else None
            return encode_column(feature, values, vocab) if found is None else found
        found = fast(values)
        if found is not None:
            return found
        return encode_column(feature, _column(feature.name, values), vocab)

    return look_up


def _fast(feature: Feature, ids: Ids) -> Callable[[Sequence[Any]], Encoded | None]:
    if isinstance(feature, DenseFeature):
        return _numbers
    if ids is None:
        return _none
    if isinstance(feature, SequenceFeature):
        return _none if feature.padding_idx is not None else partial(_lists, ids)
    return ids


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    try:
        return from_arrays({name: values})[name]
    except DataError:
        kinds = sorted({type(each).__name__ for each in values if each is not None})
        raise DataError(
            f"column {name!r} holds values of the types {', '.join(kinds)}, and one is expected: "
            "convert them, and write null where a value is missing"
        ) from None


class _Integers:
    """A vocabulary of integers: sorted, with the row of each."""

    def __init__(self, table: Vocabulary) -> None:
        frame = table.to_frame().drop_nulls("value").sort("value")
        ids, rows = frame["value"].to_numpy(), frame["row"].to_numpy().astype(np.int64)
        # One more, where a search ends that finds nothing.
        self.ids, self.rows, self.count = np.append(ids, 0), np.append(rows, 0), len(ids)
        self.null = _null_row(table)

    def __call__(self, values: Sequence[Any]) -> Encoded | None:
        absent = None
        try:
            ids = np.frombuffer(array("q", values), np.int64)
        except TypeError:  # something else than an integer or a boolean
            absent = np.array([value is None for value in values])
            if not absent.any():
                return None
            try:
                ids = np.frombuffer(
                    array("q", [0 if value is None else value for value in values]), np.int64
                )
            except (TypeError, OverflowError):
                return None
        except OverflowError:  # an id of more than 64 bits
            return None
        rows, known = self._found(ids)
        if absent is None:
            return rows, len(ids) - int(np.count_nonzero(known)), 0
        rows[absent] = self.null
        unseen = int(np.count_nonzero(~(known | absent)))
        return rows, unseen, int(np.count_nonzero(absent))

    def _found(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each id, 0 where it has none, and whether it has one."""
        at = self.ids[:-1].searchsorted(ids)
        known = (self.ids[at] == ids) & (at < self.count)
        return self.rows[at] * known, known


class _Identity(_Integers):
    """An identity vocabulary: the id is the row."""

    def __init__(self, table: Vocabulary) -> None:
        self.size, self.null = table.rows, 0

    def _found(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = (ids >= 0) & (ids < self.size)
        return ids * known, known


class _Texts:
    """A vocabulary of texts, to the letter."""

    def __init__(self, table: Vocabulary) -> None:
        frame = table.to_frame().drop_nulls("value")
        self.rows = dict(zip(frame["value"].to_list(), frame["row"].to_list(), strict=True))
        self.null = _null_row(table)

    def __call__(self, values: Sequence[Any]) -> Encoded | None:
        kinds = set(map(type, values))
        if not kinds <= {str, NoneType}:
            return None
        get = self.rows.get
        found = np.array([get(value, 0) for value in values], dtype=np.int64)
        unseen, nulls = len(values) - int(np.count_nonzero(found)), 0
        if NoneType in kinds:
            absent = np.array([value is None for value in values])
            nulls = int(np.count_nonzero(absent))
            found[absent] = self.null
        return found, unseen - nulls, nulls


Ids = _Integers | _Texts | None
_IDS: Mapping[str, Callable[[Vocabulary], Ids]] = {
    "int": _Integers, "identity": _Identity, "string": _Texts,
}  # fmt: skip


def _ids(table: Vocabulary) -> Ids:
    """Return what looks up the ids of a table; None where they are hashed, or floats."""
    make = _IDS.get(table.dtype)
    return None if make is None else make(table)


def _null_row(table: Vocabulary) -> int:
    where = table.values.is_null().arg_true()
    return int(where[0]) + 1 if len(where) else 0


def _lists(ids: _Integers | _Texts, values: Sequence[Any]) -> Encoded | None:
    """Return what `Vocabulary.encode_lists` does, or None where types do not tell."""
    if not set(map(type, values)) <= {list, NoneType}:
        return None
    found = ids([each for some in values if some for each in some])
    if found is None:
        return None
    rows, unseen, nulls = found
    assert isinstance(rows, np.ndarray)
    lengths = np.array([len(each) if each else 0 for each in values], dtype=np.int64)
    absent = sum(each is None for each in values)
    return Bag(rows.astype(np.int32), offsets_of(lengths)), unseen, nulls + absent


def _numbers(values: Sequence[Any]) -> Encoded | None:
    """Return what `dense_values` does, or None where types do not tell."""
    try:
        exact = np.frombuffer(array("d", values))
    except TypeError:  # something else than a number or a boolean
        if not set(map(type, values)) <= {float, int, NoneType}:
            return None
        try:
            exact = np.array(values, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            return None
    except OverflowError:  # an integer beyond float64
        return None
    # Also false of NaN, which is then looked for; and of ±∞, which is refused with its count.
    if (np.abs(exact) <= _EXACT).all():
        return exact.astype(np.float32), 0, 0
    absent = np.isnan(exact)
    if not (absent | (np.abs(exact) <= _EXACT)).all():
        return None
    return exact.astype(np.float32), 0, int(np.count_nonzero(absent))


def _none(_: Sequence[Any]) -> None:
    return None
