"""What goes into an exported file: raw columns as one array per feature. No torch.

Either file has one input per feature, by the feature's name, and one for each other column: the
weights of a sequence, as long as its lists, and what a kind of label reads.

==========  =============================  ==========================================
feature     `model.onnx`                   `model-with-vocabulary.onnx`
==========  =============================  ==========================================
sparse      int64 (B,), vocabulary rows    (B,), the ids themselves
sequence    int64 (B, L), rows, −1 fills   (B, L), the ids, filled up with `PADDING`
dense       float32 (B,), NaN = missing    the same
vector      float32 (B, D), NaN = missing  the same
weights     float32 (B, L), 0 fills        the same
==========  =============================  ==========================================

A feature whose value is set at prediction is no input: its value is a constant of the graph.

Ids are int64, text or float64, whichever the vocabulary holds; `polyrank.features.sparse` has what
stands for null and for padding.

Letters: B rows, L the longest list of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.arrays import from_arrays
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError
from polyrank.features.bags import Bag
from polyrank.features.dense import NumberFeature
from polyrank.features.kind import Codec, Encoded, Feature, Together
from polyrank.schema import Schema

ROWS_FILE = "model.onnx"
RAW_FILE = "model-with-vocabulary.onnx"
FEW_ROWS = 1024  # from here on a column is encoded faster as it is than as a list
# Ids of one list after another, filled up to the longest, in one run of a graph: so many vectors
# are in memory at once, three times over.
_CELLS = 524_288
Feeds = Mapping[str, np.ndarray]


class Inputs:
    """What reads raw columns as the inputs of an exported file.

    Attributes:
        codecs: by what they are the codec of: a feature, or a column that a kind of label reads.
    """

    def __init__(self, schema: Schema, vocab: Vocab) -> None:
        self.codecs: dict[str, Codec] = {
            name: codec for name, codec in vocab.codecs.items() if not codec.feature.served
        }
        for name in schema.extras:
            if name not in self.codecs:
                self.codecs[name] = NumberFeature(name).codec({}, None)
        self._order = schema.inputs
        self._with_ids = [name for name, each in self.codecs.items() if each.feature.id_tables]
        self._fillers = {name: each.filler for name, each in self.codecs.items()}

    def encoded(self, frame: pl.DataFrame) -> Columns:
        """Return raw rows as the inputs of `model.onnx`."""
        found = {
            name: codec.read(codec.feature.column(frame)) for name, codec in self.codecs.items()
        }
        return self.columns(frame.height, found)

    def columns(self, rows: int, found: Mapping[str, Encoded]) -> Columns:
        """Return the columns that were encoded, by name."""
        return Columns(
            rows,
            self._split({name: each.values for name, each in found.items()}),
            self._fillers,
            {name: found[name].ids for name in self._with_ids},
            {name: found[name].unseen for name in self._with_ids},
            {name: each.nulls for name, each in found.items()},
        )

    def raw(self, frame: pl.DataFrame) -> Columns:
        """Return raw rows as the inputs of `model-with-vocabulary.onnx`."""
        raw = {name: codec.raw(codec.feature.column(frame)) for name, codec in self.codecs.items()}
        fillers = {name: codec.raw_filler for name, codec in self.codecs.items()}
        return Columns(frame.height, self._split(raw), fillers)

    def _split(self, values: Mapping[str, np.ndarray | Bag]) -> dict[str, np.ndarray | Bag]:
        """Return values with the weights of lists as inputs of their own, in the graph's order."""
        found = dict(values)
        for name, codec in self.codecs.items():
            bag, others = values[name], codec.feature.columns[1:]
            if others and isinstance(bag, Bag) and bag.weights is not None:
                (weights,) = others
                found |= {name: Bag(bag.ids, bag.offsets), weights: Bag(bag.weights, bag.offsets)}
        return {name: found[name] for name in self._order}


@dataclass(frozen=True, eq=False)
class Columns:
    """One column per input, in their order, before lists become matrices; counts by name."""

    rows: int
    values: Mapping[str, np.ndarray | Bag]  # (N,), (N, D), or lists; one list is that of every row
    filler: Mapping[str, Any]  # what fills up the lists of features; their weights 0
    ids: Mapping[str, int] = field(default_factory=dict)  # looked up and not null
    unseen: Mapping[str, int] = field(default_factory=dict)  # of these, not in the vocabulary
    nulls: Mapping[str, int] = field(default_factory=dict)

    def batches(self, size: int) -> Iterator[Feeds]:
        """Yield the inputs of some rows after the other; lists are filled up batch by batch.

        A batch has fewer rows than `size` where one of its lists is so long that all of them,
        filled up to it, would take too much memory.
        """
        bags = [each for each in self.values.values() if isinstance(each, Bag)]
        start = 0
        while start < self.rows:
            stop = min(start + size, self.rows)
            while stop - start > 1 and (stop - start) * self._longest(bags, start, stop) > _CELLS:
                stop = (start + stop) // 2
            rows = slice(start, stop)
            yield {
                name: matrix(self._lists(each, rows), self.filler.get(name, 0))
                if isinstance(each, Bag)
                else _wide(each[rows])
                for name, each in self.values.items()
            }
            start = stop

    def _longest(self, bags: Sequence[Bag], start: int, stop: int) -> int:
        offsets = (
            bag.offsets[start : stop + 1] if self._each(bag) else bag.offsets for bag in bags
        )
        return max((int(np.diff(each).max()) for each in offsets), default=0)

    def _lists(self, bag: Bag, rows: slice) -> Bag:
        same = np.zeros(rows.stop - rows.start, dtype=np.int64)
        return bag.take(rows if self._each(bag) else same)

    def _each(self, bag: Bag) -> bool:
        """Whether each row has a list of its own."""
        return len(bag) == self.rows


def matrix(bag: Bag, filler: Any) -> np.ndarray:
    """Return N lists as rows of a matrix, filled up to the longest: (N, max(1, longest)).

    Examples:
        >>> matrix(Bag(np.array([7, 8, 9], np.int32), np.array([0, 2, 2, 3])), -1)
        array([[ 7,  8],
               [-1, -1],
               [ 9, -1]])
    """
    lengths = np.diff(bag.offsets)
    shape = (len(lengths), max(int(lengths.max(initial=0)), 1))
    found = np.full(shape, filler, dtype=_wide(bag.ids[:0]).dtype)
    found[np.arange(found.shape[1]) < lengths[:, None]] = bag.ids
    return found


def _wide(values: np.ndarray) -> np.ndarray:
    """Rows of tables are int64 in a graph."""
    return values.astype(np.int64) if values.dtype == np.int32 else values


class Lookups:
    """What encodes columns of plain values as `Codec.read` does each of them, a few rows at a time.

    A frame costs microseconds per column whatever it holds; a request of a hundred rows has a
    hundred values. What the types of the values alone tell apart is looked up in plain Python and
    numpy by the codec of its feature, the inputs `together` at once. Everything else (texts among
    integers, 7.0 for 7, booleans, hashes) is read as a column of a file is.
    """

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        self._codecs = codecs
        kinds: dict[type[Codec], dict[str, Codec]] = {}
        for name, codec in codecs.items():
            kinds.setdefault(type(codec), {})[name] = codec
        groups = (next(iter(alike.values())).together(alike) for alike in kinds.values())
        self._groups: list[tuple[Sequence[str], Together]] = [each for each in groups if each]
        self.together = frozenset(name for names, _ in self._groups for name in names)

    def __call__(self, columns: Mapping[str, Sequence[Any] | pl.Series]) -> dict[str, Encoded]:
        """Return the inputs by name, from columns of one length."""
        found: dict[str, Encoded] = {}
        for group, look_up in self._groups:
            lists = {name: values for name in group if type(values := columns.get(name)) is list}
            if lists:
                found |= look_up(lists) or {}
        for name, values in columns.items():
            if name not in found:
                found[name] = _one(self._codecs[name], values)
        return found


def _one(codec: Codec, values: Sequence[Any] | pl.Series) -> Encoded:
    if isinstance(values, pl.Series):
        found = codec.read_values(values.to_list()) if len(values) <= FEW_ROWS else None
        return codec.read(values) if found is None else found
    found = codec.read_values(values)
    return codec.read(_column(codec.feature, values)) if found is None else found


def together(feature: Feature, columns: Mapping[str, Sequence[Any] | pl.Series]) -> pl.Series:
    """Return what a feature reads of several raw columns as its one column."""
    return feature.column(
        {
            name: each if isinstance(each, pl.Series) else _column(feature, each, name)
            for name, each in columns.items()
        }
    )


def _column(feature: Feature, values: Sequence[Any], name: str | None = None) -> pl.Series:
    name = name or feature.name
    if type(values) is list:
        _check_flat(feature, values)
    try:
        return from_arrays({name: values})[name]
    except DataError:
        kinds = sorted({type(each).__name__ for each in values if each is not None})
        raise DataError(
            f"column {name!r} must hold values of one type, got {', '.join(kinds)}: convert them, "
            "and write null where a value is missing"
        ) from None


def _check_flat(feature: Feature, values: list[Any]) -> None:
    """Refuse lists and objects where ids and numbers belong.

    A frame would refuse them too, after it has found a type for each level: those of 800 letters
    took it half a second.
    """
    kinds = set(map(type, values))
    if feature.lists:
        lists = (value for value in values if type(value) is list)
        kinds = (kinds - {list}) | set(map(type, chain.from_iterable(lists)))
    for kind, what in ((dict, "objects"), (list, "lists")):
        if kind in kinds:
            where = " in lists" if feature.lists and kind is list else ""
            raise DataError(f"feature {feature.name!r} holds {what}{where}, and {feature.expects}")
