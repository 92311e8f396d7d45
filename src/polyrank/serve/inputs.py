"""What goes into an exported file: raw columns as one array a feature. No torch.

Either file has one input a feature, by the feature's name:

==========  =============================  ==========================================
feature     `model.onnx`                   `model-with-vocabulary.onnx`
==========  =============================  ==========================================
sparse      int64 (B,), vocabulary rows    (B,), the ids themselves
sequence    int64 (B, L), rows, −1 fills   (B, L), the ids, filled up with `PADDING`
dense       float32 (B,), NaN = missing    the same
==========  =============================  ==========================================

Ids are int64, text or float64, whichever the vocabulary holds. What JSON calls null and what fills
up a list have values of their own, which no id may have: noncharacters of Unicode, the smallest
integers, NaN and −∞.

Letters: B rows, L the longest list of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from polyrank.data.bags import Bag, flattened
from polyrank.data.dense import dense_values
from polyrank.data.ids import IdType, as_type, plain_ids, spellings
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.schema import DenseFeature, Feature, IdFeature, Schema, SequenceFeature

ROWS_FILE = "model.onnx"
RAW_FILE = "model-with-vocabulary.onnx"
NULL: Mapping[IdType, Any] = {"int": -(2**63), "string": "\ufdd0", "float": float("nan")}
PADDING: Mapping[IdType, Any] = {"int": 1 - 2**63, "string": "\ufdd1", "float": float("-inf")}
UNSEEN: Mapping[IdType, Any] = {"int": 2 - 2**63, "string": "\ufdd2", "float": float("inf")}
# Ids of one list after another, filled up to the longest, in one run of a graph: so many vectors
# are in memory at once, three times over.
_CELLS = 524_288
_DTYPE: Mapping[IdType, Any] = {"int": np.int64, "string": object, "float": np.float64}
Feeds = Mapping[str, np.ndarray]
Encoded = tuple[np.ndarray | Bag, int, int]  # values, unseen ids, missing values


@dataclass(frozen=True, eq=False)
class Columns:
    """One column a feature, in the schema's order, before lists become matrices.

    Args:
        rows: their number.
        values: arrays (N,), or a Bag for a sequence; a Bag of one list is the list of every row.
        unseen: ids that are not in the vocabulary, by feature.
        nulls: missing values, by feature.
        padding: what fills up the lists, by sequence.
    """

    rows: int
    values: Mapping[str, np.ndarray | Bag]
    unseen: Mapping[str, int]
    nulls: Mapping[str, int]
    padding: Mapping[str, Any]

    @classmethod
    def of(cls, schema: Schema, rows: int, found: Mapping[str, Encoded]) -> Self:
        """Return the columns that were encoded, by feature."""
        unseen = {name: each[1] for name, each in found.items()}
        return cls(
            rows,
            {name: each[0] for name, each in found.items()},
            {
                each.name: unseen[each.name]
                for each in schema.features
                if isinstance(each, IdFeature)
            },
            {name: each[2] for name, each in found.items()},
            {feature.name: -1 for feature in schema.sequence_features},
        )

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
                name: matrix(self._lists(each, rows), self.padding[name])
                if isinstance(each, Bag)
                else each[rows]
                for name, each in self.values.items()
            }
            start = stop

    def _longest(self, bags: Sequence[Bag], start: int, stop: int) -> int:
        """Return the length of the longest list of some rows."""
        offsets = (
            bag.offsets[start : stop + 1] if self._each(bag) else bag.offsets for bag in bags
        )
        return max((int(np.diff(each).max()) for each in offsets), default=0)

    def _lists(self, bag: Bag, rows: slice) -> Bag:
        """Return the lists of some rows."""
        same = np.zeros(rows.stop - rows.start, dtype=np.int64)
        return bag.take(rows if self._each(bag) else same)

    def _each(self, bag: Bag) -> bool:
        """Whether each row has a list of its own."""
        return len(bag) == self.rows


def id_type(vocabulary: Vocabulary) -> IdType:
    """Return the type of a vocabulary's ids; those of an identity vocabulary are integers."""
    dtype = vocabulary.dtype
    assert dtype != "hash"  # export refuses it by name
    return "int" if dtype == "identity" else dtype


def encoded(frame: pl.DataFrame, schema: Schema, vocab: Vocab) -> Columns:
    """Return raw rows as the inputs of `model.onnx`.

    Args:
        frame: with a column for each feature.
        schema: the features.
        vocab: of the bundle.

    Raises:
        DataError: a column that can hold no ids, lists or numbers, or an infinite number.
    """
    found = {
        feature.name: encode_column(feature, frame[feature.name], vocab)
        for feature in schema.features
    }
    return Columns.of(schema, frame.height, found)


def encode_column(feature: Feature, column: pl.Series, vocab: Vocab) -> Encoded:
    """Return a column as an input of `model.onnx`, its unseen ids and its missing values.

    Raises:
        DataError: a column that can hold no ids, lists or numbers, or an infinite number.

    Shape:
        (N,) → int64 or float32 (N,), or a Bag of N lists
    """
    if isinstance(feature, DenseFeature):
        numbers = dense_values(column)
        return numbers, 0, int(np.count_nonzero(np.isnan(numbers)))
    table = vocab.tables[feature.table]
    if isinstance(feature, SequenceFeature):
        return table.encode_lists(column, feature.padding_idx)
    rows, unseen, nulls = table.encode(column)
    return rows.astype(np.int64), unseen, nulls


def raw(frame: pl.DataFrame, schema: Schema, vocab: Vocab) -> Columns:
    """Return raw rows as the inputs of `model-with-vocabulary.onnx`.

    An id that no value of the vocabulary's type can be, such as a text among integers, becomes one
    that is in no vocabulary.

    Args and Raises as of `encoded`.
    """
    values: dict[str, np.ndarray | Bag] = {}
    padding: dict[str, Any] = {}
    for feature in schema.features:
        column = frame[feature.name]
        if isinstance(feature, DenseFeature):
            values[feature.name] = dense_values(column)
            continue
        table = vocab.tables[feature.table]
        if isinstance(feature, SequenceFeature):
            elements, offsets, _ = flattened(column, feature.padding_idx)
            values[feature.name] = Bag(_ids(elements, table), offsets)
            padding[feature.name] = PADDING[id_type(table)]
        else:
            values[feature.name] = _ids(column, table)
    return Columns(frame.height, values, {}, {}, padding)


def matrix(bag: Bag, padding: Any) -> np.ndarray:
    """Return lists as rows of a matrix, filled up to the longest; at least one column.

    Shape:
        N lists → (N, max(1, longest))

    Example:
        >>> matrix(Bag(np.array([7, 8, 9], np.int32), np.array([0, 2, 2, 3])), -1)
        array([[ 7,  8],
               [-1, -1],
               [ 9, -1]])
    """
    lengths = np.diff(bag.offsets)
    dtype = np.int64 if bag.ids.dtype == np.int32 else bag.ids.dtype
    found = np.full((len(lengths), max(int(lengths.max(initial=0)), 1)), padding, dtype=dtype)
    found[np.arange(found.shape[1]) < lengths[:, None]] = bag.ids
    return found


def repeated(values: np.ndarray | Bag, rows: int) -> np.ndarray | Bag:
    """Return one row's value as that of many, for `Columns`.

    Example:
        >>> repeated(np.array([7]), 3)
        array([7, 7, 7])
    """
    return values if isinstance(values, Bag) else np.full(rows, values[0])


def described(schema: Schema, vocab: Vocab, *, with_vocabulary: bool) -> list[dict[str, Any]]:
    """Return each input in words that a reader of the file's metadata understands."""

    def one(feature: Feature) -> dict[str, Any]:
        if isinstance(feature, DenseFeature):
            return {"name": feature.name, "type": "float32", "missing": "NaN"}
        found: dict[str, Any] = {"name": feature.name, "type": "int64"}
        table = vocab.tables[feature.table]
        if not with_vocabulary:
            found |= {"rows": table.rows, "unseen": 0}
            return found | ({"padding": -1} if isinstance(feature, SequenceFeature) else {})
        kind = id_type(table)
        found |= {"type": {"string": "string", "float": "float64"}.get(kind, "int64")}
        found |= {"null": str(NULL[kind]) if kind == "float" else NULL[kind]}
        if isinstance(feature, SequenceFeature):
            found |= {"padding": str(PADDING[kind]) if kind == "float" else PADDING[kind]}
        return found

    return [one(feature) for feature in schema.features]


def _ids(column: pl.Series, table: Vocabulary) -> np.ndarray:
    kind = id_type(table)
    plain = plain_ids(column)
    ids = next(spellings(plain)) if kind == "string" else as_type(plain, kind)
    if kind == "string" and len(table.values):
        # A number may be written with ".0" in the vocabulary: what is found there is its own text.
        rows, _, _ = table.encode(column)
        known = table.values.gather(np.maximum(rows, 1) - 1)
        ids = known.zip_with(pl.Series(rows > 0), ids)
    # An id that is written as one of ours must not be taken for what that one stands for.
    absent = ids.is_null() | ids.is_in([NULL[kind], PADDING[kind]])
    found = ids.set(absent, UNSEEN[kind]).to_numpy(writable=True).astype(_DTYPE[kind])
    found[(absent & plain.is_null()).to_numpy()] = NULL[kind]
    return found
