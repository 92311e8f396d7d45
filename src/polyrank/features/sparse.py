"""Sparse features, and what all features of ids have in common.

`model-with-vocabulary.onnx` takes the ids themselves. What JSON calls null and what fills up a list
have values of their own there, which no id may have: noncharacters of Unicode, the smallest
integers, NaN and −∞.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from struct import error
from typing import Any, ClassVar

import numpy as np
import polars as pl

from polyrank.errors import SchemaError, did_you_mean
from polyrank.features.bags import Bag, Elements, packed
from polyrank.features.ids import IdType, as_type, plain_ids, spellings
from polyrank.features.kind import (
    Codec,
    Encoded,
    Feature,
    Slot,
    Together,
    check_wide,
    checked_tower,
)
from polyrank.features.vocabulary import NoneType, Vocabulary
from polyrank.spec import whole

NULL: Mapping[IdType, Any] = {"int": -(2**63), "string": "\ufdd0", "float": float("nan")}
PADDING: Mapping[IdType, Any] = {"int": 1 - 2**63, "string": "\ufdd1", "float": float("-inf")}
UNSEEN: Mapping[IdType, Any] = {"int": 2 - 2**63, "string": "\ufdd2", "float": float("inf")}
DTYPE: Mapping[IdType, Any] = {"int": np.int64, "string": object, "float": np.float64}
_ONNX: Mapping[IdType, str] = {"int": "int64", "string": "string", "float": "float64"}
_JSON: Mapping[str, tuple[list[str], Any]] = {  # types, and an example
    "int": (["integer"], 1),
    "identity": (["integer"], 1),
    "string": (["string"], "a"),
    "float": (["number"], 1.5),
    "hash": (["integer", "string"], "a"),
}
# Row 0 of a hashed table is for nulls, so this many buckets make the largest table.
_MOST_BUCKETS = 2**31 - 2
# Options of a table, which its sharers have from its owner, and their defaults.
_OF_TABLE = {"embed_dim": None, "vocab_size": None, "min_count": 1, "hash": None}


@dataclass(frozen=True)
class IdFeature(Feature):
    """A feature whose ids are looked up in a table of its own, or in one that it shares.

    The base of kinds that differ in how a column holds ids (`values`) and what becomes of their
    embeddings (`slots`); see `SparseFeature` for the arguments.
    """

    graph: ClassVar[str | None] = "polyrank.serve.export.features:IdGraph"
    expects: ClassVar[str] = "an id is a number, a text, a boolean or a date"

    vocab_size: int | None = None
    embed_dim: int | None = None
    min_count: int = 1
    shared_with: str | None = None
    hash: int | None = None
    _: KW_ONLY
    wide: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wide(self.name, self.wide)
        where = f"feature {self.name!r}"
        limits = {"min_count": None, "vocab_size": None, "embed_dim": None, "hash": _MOST_BUCKETS}
        for field, most in limits.items():
            if (value := getattr(self, field)) is not None or field == "min_count":
                value = whole(f"{where}: {field}", value, most=most, error=SchemaError)
                object.__setattr__(self, field, value)
        if self.shared_with is not None and not isinstance(self.shared_with, str):
            raise SchemaError(
                f"{where}: shared_with must be the name of a feature, got {self.shared_with!r}"
            )
        if self.vocab_size is not None and self.hash is not None:
            raise SchemaError(
                f"{where}: vocab_size {self.vocab_size} makes the id itself the row, and hash "
                f"{self.hash} its hash: leave one of them out"
            )
        for field in ("vocab_size", "hash"):
            if getattr(self, field) is not None and self.min_count != 1:
                raise SchemaError(
                    f"{where}: min_count {self.min_count} counts the ids of a fitted vocabulary, "
                    f"and {field} fits none: leave one of them out"
                )

    @property
    def table(self) -> str:
        """Name of the embedding table: the owner's when shared."""
        return self.shared_with or self.name

    @property
    def id_tables(self) -> tuple[str, ...]:
        return (self.table,)

    def fixed(self, table: str) -> Vocabulary | None:
        if self.hash is not None:
            return Vocabulary("hash", size=self.hash + 1)
        return None if self.vocab_size is None else Vocabulary("identity", size=self.vocab_size)

    def values(self, column: pl.Series) -> Elements:
        return Elements(column)

    def codec(self, tables: Mapping[str, Vocabulary], state: None) -> IdCodec:
        return IdCodec(self, tables[self.table])

    def check_among(self, features: Mapping[str, Feature]) -> None:
        if self.shared_with is None:
            return
        owners = {name: each for name, each in features.items() if isinstance(each, IdFeature)}
        owner = owners.get(self.shared_with)
        if owner is None:
            raise SchemaError(
                f"feature {self.name!r} shares the table of {self.shared_with!r}, which is no "
                f"feature of ids{did_you_mean(self.shared_with, owners)}"
            )
        if owner.shared_with is not None:
            raise SchemaError(
                f"feature {self.name!r} shares the table of {owner.name!r}, which has none of its "
                f"own: share with {owner.shared_with!r}"
            )
        for field, default in _OF_TABLE.items():
            mine, its = getattr(self, field), getattr(owner, field)
            if mine not in (default, its):
                raise SchemaError(
                    f"feature {self.name!r} shares the table of {owner.name!r}, but its {field} is "
                    f"{mine} and the owner's is {its}: leave it out, or make them equal"
                )


@dataclass(frozen=True)
class SparseFeature(IdFeature):
    """A column of ids, each with a learned embedding.

    Args:
        name: column; ids may be integers, strings, floats or booleans. Those of a CSV file are
            text, to the letter, unless all of its training ids are plain integers.
        vocab_size: rows of an identity vocabulary: the id itself is the row, and an id outside
            [0, vocab_size) goes to row 0. None fits a vocabulary on the training rows.
        embed_dim: width of the embedding; None takes the model's.
        min_count: ids seen less often in training share row 0 with unseen ones. A shared table
            has its owner's.
        shared_with: name of another sparse or sequence feature whose table this one uses.
        hash: buckets of a hashed table, which fits no vocabulary: an id goes to row
            1 + hash mod `hash`, a null to row 0. See `polyrank.features.hashing`.
        wide: whether a model with wide rows has some for these ids.
        serving: the id that every row has at prediction, whatever it holds, such as position 1;
            None reads the column. See docs/position.md.
        tower: widths of the layers of a small tower of its own, [] for a linear map: the trunk does
            not read the feature, and what the tower says is added to each head's logit, so that
            its effect is the same whatever the other features are. None leaves it to the trunk.

    Raises:
        SchemaError: a value of a wrong type or below 1, or options that exclude each other.

    Examples:
        >>> SparseFeature("item_id", min_count=10).table
        'item_id'
    """

    kind: ClassVar[str] = "sparse"

    _: KW_ONLY
    serving: int | str | float | bool | None = None
    tower: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tower", checked_tower(self.name, self.tower))
        if not isinstance(self.serving, int | str | float | NoneType):
            raise SchemaError(
                f"feature {self.name!r}: serving must be an id, which is a number, a text or a "
                f"boolean, got {self.serving!r}"
            )

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot(name=self.name, place="ids", table=self.table, unseen=True, wide=self.wide),)

    def codec(self, tables: Mapping[str, Vocabulary], state: None) -> SparseCodec:
        return SparseCodec(self, tables[self.table])


class IdCodec(Codec):
    """Ids by a vocabulary, one per row or in lists."""

    def __init__(self, feature: IdFeature, vocabulary: Vocabulary) -> None:
        self.feature, self.vocabulary = feature, vocabulary

    @property
    def raw_filler(self) -> Any:
        return PADDING[self.vocabulary.id_type]

    def read(self, column: pl.Series) -> Encoded:
        ids, offsets, null_lists, weights = self.feature.values(column)
        rows, unseen, nulls = self.vocabulary.encode(ids)
        values = rows if offsets is None else Bag(rows, offsets, weights)
        return Encoded(values, len(rows) - nulls, unseen, nulls + null_lists)

    def place(self, values: Any) -> Mapping[str, np.ndarray | Bag]:
        return {self.feature.name: values}

    def named(self, slot: str, rows: np.ndarray) -> list[str]:
        return self.vocabulary.named(rows)

    def raw(self, column: pl.Series) -> np.ndarray | Bag:
        """Return the ids themselves, in the type of the vocabulary.

        An id that no value of this type can be, such as a text among integers, becomes one that is
        in no vocabulary.
        """
        ids, offsets, _, weights = self.feature.values(column)
        kind, plain, table = self.vocabulary.id_type, plain_ids(ids), self.vocabulary
        typed = next(spellings(plain)) if kind == "string" else as_type(plain, kind)
        if kind == "string" and len(table.values):
            # The vocabulary may have a number with ".0": what is found there is its own text.
            rows, _, _ = table.encode(ids)
            known = table.values.gather(np.maximum(rows, 1) - 1)
            typed = known.zip_with(pl.Series(rows > 0), typed)
        # An id that is written as one of ours must not be taken for what that one stands for.
        absent = typed.is_null() | typed.is_in([NULL[kind], PADDING[kind]])
        found = typed.set(absent, UNSEEN[kind]).to_numpy(writable=True).astype(DTYPE[kind])
        found[(absent & plain.is_null()).to_numpy()] = NULL[kind]
        return found if offsets is None else Bag(found, offsets, weights)

    @property
    def json(self) -> dict[str, Any]:
        one = {"type": [*_JSON[self.vocabulary.dtype][0], "null"]}
        return {"type": ["array", "null"], "items": one} if self.feature.lists else one

    @property
    def example(self) -> Any:
        one = _JSON[self.vocabulary.dtype][1]
        return [one] if self.feature.lists else one

    def described(self, *, with_vocabulary: bool) -> dict[str, Any]:
        if not with_vocabulary:
            found = {"type": "int64", "rows": self.vocabulary.rows, "unseen": 0}
            return found | ({"padding": self.filler} if self.feature.ragged else {})
        kind = self.vocabulary.id_type
        shown: Any = str if kind == "float" else lambda value: value  # JSON has neither NaN nor −∞
        found = {"type": _ONNX[kind], "null": shown(NULL[kind])}
        return found | ({"padding": shown(PADDING[kind])} if self.feature.ragged else {})


class SparseCodec(IdCodec):
    """One id per row."""

    def read_values(self, values: Sequence[Any]) -> Encoded | None:
        found = self.vocabulary.encode_values(values)
        if found is None:
            return None
        rows, unseen, nulls = found
        return Encoded(rows, len(rows) - nulls, unseen, nulls)

    def together(self, alike: Mapping[str, Any]) -> tuple[Sequence[str], Together] | None:
        direct = {
            name: each.vocabulary.direct
            for name, each in alike.items()
            if each.vocabulary.direct is not None
        }
        return (tuple(direct), _Direct(direct)) if direct else None


class _Direct:
    """Vocabularies of integers that lie close together, as one array: F columns of N values."""

    def __init__(self, tables: Mapping[str, tuple[int, np.ndarray]]) -> None:
        parts: dict[int, int] = {}  # where the array of a vocabulary begins; sharers have one
        arrays, start = [], 0
        whole = _whole([rows for _, rows in tables.values()])
        self.place = {name: number for number, name in enumerate(tables)}
        low, last, first = [], [], []
        for least, rows in tables.values():
            if whole is not None:
                parts[id(rows)] = (rows.ctypes.data - whole.ctypes.data) // whole.itemsize
            elif id(rows) not in parts:
                parts[id(rows)] = start
                arrays.append(rows)
                start += len(rows)
            low.append(least)
            last.append(len(rows) - 1)
            first.append(parts[id(rows)])
        self.low = np.array(low, np.int64)[:, None]
        self.last = np.array(last, np.uint64)[:, None]
        self.first = np.array(first, np.int64)[:, None]
        self.rows = np.concatenate(arrays) if whole is None else whole

    def __call__(self, columns: Mapping[str, list[Any]]) -> dict[str, Encoded] | None:
        try:
            ids = packed("q", list(chain.from_iterable(columns.values())))
        except (error, OverflowError):  # a null, a text, an id of more than 64 bits
            return None
        places = [self.place[name] for name in columns]
        # Modulo 2^64, below `last` if and only if the id is in reach.
        cells = (ids.reshape(len(columns), -1) - self.low[places]).view(np.uint64)
        np.minimum(cells, self.last[places], out=cells)
        rows = self.rows.take(cells.view(np.int64) + self.first[places]).astype(np.int64)
        unseen = np.count_nonzero(rows < 0, axis=1).tolist()
        np.maximum(rows, 0, out=rows)
        count = rows.shape[1]
        return {name: Encoded(rows[at], count, unseen[at], 0) for at, name in enumerate(columns)}


def _whole(arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the array that all of these are parts of, if there is one: it is not copied."""
    base = arrays[0].base
    if not isinstance(base, np.ndarray) or base.dtype != arrays[0].dtype or base.ndim != 1:
        return None
    return base if all(each.base is base for each in arrays) else None
