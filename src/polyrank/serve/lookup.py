"""Plain lists to vocabulary rows and float32 numbers, for a few values at a time.

A frame costs microseconds a column whatever it holds; a request of a hundred rows has a hundred
values. What is told apart by the types of its values alone is looked up here in plain Python and
numpy. Everything else (texts among integers, 7.0 for 7, booleans, hashes) goes the way of files,
through a column and `Vocabulary.encode`, which is also what all of this is tested to be equal to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from struct import error, pack
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.arrays import from_arrays
from polyrank.data.bags import Bag, offsets_of
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.errors import DataError
from polyrank.features import DenseFeature, Feature, SequenceFeature
from polyrank.schema import Schema, SparseFeature
from polyrank.serve.inputs import Encoded, encode_column

NoneType = type(None)
_Group = Callable[[Mapping[str, list[Any]]], "dict[str, Encoded] | None"]
LookUp = Callable[[Sequence[Any] | pl.Series], Encoded]
FEW_ROWS = 1024  # from here on a column is encoded faster as it is than as a list
_EXACT = 2.0**53  # up to here float64 holds every integer, so that float32 is rounded to once


class Lookups:
    """What encodes columns of plain values as `encode_column` does each of them.

    Integers of all vocabularies whose ids lie close together are looked up at once, and so are all
    numbers: what numpy takes to begin is more than what it takes for a hundred values.

    Args:
        schema: the features.
        vocab: of the bundle.

    Attributes:
        together: the features that are looked up at once where they are lists of such values.
    """

    def __init__(self, schema: Schema, vocab: Vocab) -> None:
        ids = {name: _ids(table) for name, table in vocab.tables.items()}
        self._each = {feature.name: _one(feature, vocab, ids) for feature in schema.features}
        direct = {
            feature.name: table
            for feature in schema.features
            if isinstance(feature, SparseFeature)
            and (table := vocab.tables[feature.table]).direct is not None
        }
        numbers = [each.name for each in schema.features if isinstance(each, DenseFeature)]
        self._groups: list[tuple[tuple[str, ...], _Group]] = [
            (tuple(direct), _Direct(direct).__call__),
            (tuple(numbers), _all_numbers),
        ]
        self.together = frozenset([*direct, *numbers])

    def __call__(self, columns: Mapping[str, Sequence[Any] | pl.Series]) -> dict[str, Encoded]:
        """Return the inputs of some features by name.

        Args:
            columns: of one length, lists or Series.

        Raises:
            DataError: values that a feature cannot have.
        """
        found: dict[str, Encoded] = {}
        for group, look_up in self._groups:
            lists = {name: values for name in group if type(values := columns.get(name)) is list}
            if lists:
                found |= look_up(lists) or {}
        for name, values in columns.items():
            if name not in found:
                found[name] = self._each[name](values)
        return found


def _one(feature: Feature, vocab: Vocab, tables: Mapping[str, Ids]) -> LookUp:
    fast = _fast(feature, None if isinstance(feature, DenseFeature) else tables[feature.table])

    def look_up(values: Sequence[Any] | pl.Series) -> Encoded:
        if isinstance(values, pl.Series):
            found = fast(values.to_list()) if len(values) <= FEW_ROWS else None
            return encode_column(feature, values, vocab) if found is None else found
        found = fast(values)
        if found is not None:
            return found
        return encode_column(feature, _column(feature, values), vocab)

    return look_up


def _fast(feature: Feature, ids: Ids) -> Callable[[Sequence[Any]], Encoded | None]:
    if isinstance(feature, DenseFeature):
        return _numbers
    if ids is None:
        return _none
    if isinstance(feature, SequenceFeature):
        return _none if feature.padding_idx is not None else partial(_lists, ids)
    return ids


def _column(feature: Feature, values: Sequence[Any]) -> pl.Series:
    name = feature.name
    if type(values) is list:
        _check_flat(feature, values)
    try:
        return from_arrays({name: values})[name]
    except DataError:
        kinds = sorted({type(each).__name__ for each in values if each is not None})
        raise DataError(
            f"column {name!r} holds values of the types {', '.join(kinds)}, and one is expected: "
            "convert them, and write null where a value is missing"
        ) from None


def _check_flat(feature: Feature, values: list[Any]) -> None:
    """Refuse lists and objects where ids and numbers belong.

    A frame would refuse them too, after it has found a type for each level: those of 800 letters
    took it half a second.
    """
    kinds, expected = set(map(type, values)), "an id is a number, a text, a boolean or a date"
    if isinstance(feature, SequenceFeature):
        lists = (value for value in values if type(value) is list)
        kinds = (kinds - {list}) | set(map(type, chain.from_iterable(lists)))
        expected = f"a list of ids is expected, where {expected}"
    elif isinstance(feature, DenseFeature):
        expected = "a dense feature holds numbers"
    for kind, what in ((dict, "objects"), (list, "lists")):
        if kind in kinds:
            where = " in lists" if isinstance(feature, SequenceFeature) and kind is list else ""
            raise DataError(f"feature {feature.name!r} holds {what}{where}, and {expected}")


class _Direct:
    """Vocabularies of integers that lie close together, as one array: the rows from id to id.

    Letters: F columns of N values.
    """

    def __init__(self, tables: Mapping[str, Vocabulary]) -> None:
        parts: dict[int, int] = {}  # where the array of a vocabulary begins; sharers have one
        arrays, start = [], 0
        self.place = {name: number for number, name in enumerate(tables)}
        low, last, first = [], [], []
        for table in tables.values():
            assert table.direct is not None
            least, rows = table.direct
            if id(rows) not in parts:
                parts[id(rows)] = start
                arrays.append(rows)
                start += len(rows)
            low.append(least)
            last.append(len(rows) - 1)
            first.append(parts[id(rows)])
        self.low = np.array(low, np.int64)[:, None]
        self.last = np.array(last, np.uint64)[:, None]
        self.first = np.array(first, np.int64)[:, None]
        self.rows = np.concatenate(arrays) if arrays else np.empty(0, np.int32)

    def __call__(self, columns: Mapping[str, list[Any]]) -> dict[str, Encoded] | None:
        try:
            ids = _packed("q", list(chain.from_iterable(columns.values())))
        except (error, OverflowError):  # a null, a text, an id of more than 64 bits
            return None
        places = [self.place[name] for name in columns]
        # Modulo 2^64, below `last` if and only if the id is in reach.
        cells = (ids.reshape(len(columns), -1) - self.low[places]).view(np.uint64)
        np.minimum(cells, self.last[places], out=cells)
        rows = self.rows.take(cells.view(np.int64) + self.first[places]).astype(np.int64)
        unseen = np.count_nonzero(rows < 0, axis=1).tolist()
        np.maximum(rows, 0, out=rows)
        return {name: (rows[at], unseen[at], 0) for at, name in enumerate(columns)}


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
            ids = _packed("q", values)
        except error:  # something else than an integer or a boolean, or one of more than 64 bits
            absent = np.array([value is None for value in values])
            if not absent.any():
                return None
            try:
                ids = _packed("q", [0 if value is None else value for value in values])
            except (error, OverflowError):
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


def _numbers(values: Sequence[Any]) -> tuple[np.ndarray, int, int] | None:
    """Return what `dense_values` does, or None where types do not tell."""
    try:
        exact = _packed("d", values)
    except error:  # something else than a number or a boolean
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


def _all_numbers(columns: Mapping[str, list[Any]]) -> dict[str, Encoded] | None:
    """Return what `_numbers` does of each column, or None where types do not tell."""
    found = _numbers(list(chain.from_iterable(columns.values())))
    if found is None:
        return None
    values = np.reshape(found[0], (len(columns), -1))
    nulls = np.count_nonzero(np.isnan(values), axis=1).tolist() if found[2] else [0] * len(values)
    return {name: (values[at], 0, nulls[at]) for at, name in enumerate(columns)}


def _packed(kind: str, values: Sequence[Any]) -> np.ndarray:
    """Return values as an array that is only read; no other way takes so little time.

    Args:
        kind: `q` for integers and booleans of 64 bits, `d` for numbers.
        values: of any length.

    Raises:
        struct.error: a value of another type; or, as an OverflowError, one that is too large.
    """
    return np.frombuffer(pack(f"{len(values)}{kind}", *values), dtype=np.dtype(kind))


def _none(_: Sequence[Any]) -> None:
    return None
