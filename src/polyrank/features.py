"""The inputs of a model, as frozen plain data; what each of them may say, and all of them together.

They are imported from `polyrank` or, with tasks and keys, from `polyrank.schema`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from polyrank.errors import SchemaError, did_you_mean

Encoding = Literal["standard", "log", "bins", "piecewise_linear", "none"]
Pooling = Literal["mean", "sum", "last"]
# Row 0 of a hashed table is for nulls, so that this many buckets make the largest table.
_MOST_BUCKETS = 2**31 - 2


@dataclass(frozen=True)
class SparseFeature:
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
            1 + hash mod `hash`, a null to row 0. See `polyrank.data.hashing`.

    Raises:
        SchemaError: a value of a wrong type or below 1, or options that exclude each other.

    Example:
        >>> SparseFeature("item_id", min_count=10).table
        'item_id'
    """

    name: str
    vocab_size: int | None = None
    embed_dim: int | None = None
    min_count: int = 1
    shared_with: str | None = None
    hash: int | None = None

    def __post_init__(self) -> None:
        _check_ids(self)

    @property
    def table(self) -> str:
        """Name of the embedding table: the owner's when shared."""
        return self.shared_with or self.name


@dataclass(frozen=True)
class SequenceFeature:
    """A column of lists of ids, whose learned embeddings are pooled to one vector.

    An empty list and a null one give a vector of zeros, whatever the pooling. A null inside a
    list is an id like any other.

    Args:
        name: column of lists, or a 2-D array; ids as in `SparseFeature`.
        vocab_size: as in `SparseFeature`.
        embed_dim: as in `SparseFeature`.
        min_count: as in `SparseFeature`; every place in every list counts.
        shared_with: as in `SparseFeature`; a history of items shares the item's table.
        pooling: `mean` or `sum` of a list's embeddings, or its `last` one alone.
        hash: as in `SparseFeature`.
        padding_idx: an integer that only fills lists up to one length and is no id: it is left
            out wherever it stands. None leaves nothing out.

    Raises:
        SchemaError: as `SparseFeature`; an unknown pooling.

    Example:
        >>> SequenceFeature("clicked_items", shared_with="item_id", pooling="sum").table
        'item_id'
    """

    name: str
    vocab_size: int | None = None
    embed_dim: int | None = None
    min_count: int = 1
    shared_with: str | None = None
    pooling: Pooling = "mean"
    hash: int | None = None
    padding_idx: int | None = None

    def __post_init__(self) -> None:
        _check_ids(self)
        if self.pooling not in get_args(Pooling):
            hint = did_you_mean(str(self.pooling), get_args(Pooling))
            raise SchemaError(f"feature {self.name!r}: unknown pooling {self.pooling!r}{hint}")
        _take_integers(self, "padding_idx", optional=True, least=None)

    @property
    def table(self) -> str:
        """Name of the embedding table: the owner's when shared."""
        return self.shared_with or self.name


@dataclass(frozen=True)
class DenseFeature:
    """A column of numbers.

    Args:
        name: column; cast to float32 before anything is fitted or encoded.
        encoding: `standard` (mean 0, deviation 1), `log` (sign(x)·log(1+|x|), then standard),
            `bins` (quantile bins with an embedding each), `piecewise_linear` (Gorishniy et al.,
            2022), `none`. All are fitted on the training rows. The default and its number of bins
            are chosen by docs/evidence.md.
        bins: number of quantile bins of `bins` and `piecewise_linear`; fewer where values repeat.
        embed_dim: width of the embedding of `bins`; None takes the model's.

    Raises:
        SchemaError: an unknown encoding, or a value of a wrong type or below 1.

    Example:
        >>> DenseFeature("price", encoding="log").encoding
        'log'
    """

    name: str
    encoding: Encoding = "bins"
    bins: int = 32
    embed_dim: int | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.encoding not in get_args(Encoding):
            hint = did_you_mean(str(self.encoding), get_args(Encoding))
            raise SchemaError(f"feature {self.name!r}: unknown encoding {self.encoding!r}{hint}")
        _take_integers(self, "bins")
        _take_integers(self, "embed_dim", optional=True)

    @property
    def table(self) -> str:
        """Name of the embedding table of `bins`."""
        return self.name


IdFeature = SparseFeature | SequenceFeature
Feature = IdFeature | DenseFeature
# In the order in which a schema keeps them.
FEATURES: dict[str, type[Feature]] = {
    "sparse": SparseFeature,
    "sequence": SequenceFeature,
    "dense": DenseFeature,
}


def has_table(feature: Feature) -> bool:
    """Whether a feature is looked up in an embedding table."""
    return isinstance(feature, IdFeature) or feature.encoding == "bins"


def kind_of(feature: Feature) -> str:
    """Return the name of a feature's kind: `sparse`, `sequence` or `dense`."""
    return next(kind for kind, cls in FEATURES.items() if isinstance(feature, cls))


def names_by_kind(features: Sequence[Feature]) -> dict[str, list[str]]:
    """Return the lists of names of an experiment's `[features]`.

    Example:
        >>> names_by_kind([SparseFeature("item"), DenseFeature("price")])
        {'sparse': ['item'], 'dense': ['price']}
    """
    names = {kind: [f.name for f in features if kind_of(f) == kind] for kind in FEATURES}
    # No list of sequences where there are none: files written before there were any stay the same.
    return {kind: each for kind, each in names.items() if each or kind != "sequence"}


def check_features(features: Sequence[Feature]) -> None:
    """Refuse features that contradict each other.

    Raises:
        SchemaError: none at all, a duplicate or reserved name, or a shared table that is not
            there or that its sharers describe otherwise than its owner.
    """
    if not features:
        raise SchemaError("a schema needs at least one feature")
    refuse_duplicates("feature", [feature.name for feature in features])
    for feature in features:
        if feature.name in FEATURES:
            raise SchemaError(
                f"a feature cannot be named {feature.name!r}: [features] of an experiment's file "
                "lists the features of that kind under this key; rename the column"
            )
    owners = {f.name: f for f in features if isinstance(f, IdFeature)}
    for feature in owners.values():
        if feature.shared_with is not None:
            _check_sharing(feature, feature.shared_with, owners)


def refuse_duplicates(what: str, names: Sequence[str]) -> None:
    """Refuse the first name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SchemaError(f"{what} {name!r} is declared twice; each must have its own name")
        seen.add(name)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise SchemaError(f"a feature's name is a column's name, however: {name!r}")


def _check_ids(feature: IdFeature) -> None:
    """Refuse options of ids that are of a wrong type or exclude each other."""
    _check_name(feature.name)
    _take_integers(feature, "min_count")
    _take_integers(feature, "vocab_size", "embed_dim", "hash", optional=True)
    where = f"feature {feature.name!r}"
    if feature.shared_with is not None and not isinstance(feature.shared_with, str):
        raise SchemaError(
            f"{where}: shared_with is a feature's name, however: {feature.shared_with!r}"
        )
    if feature.vocab_size is not None and feature.min_count != 1:
        raise SchemaError(
            f"{where}: min_count {feature.min_count} counts the ids of a fitted vocabulary, and "
            "vocab_size fits none: leave one of them out"
        )
    if feature.hash is None:
        return
    if feature.vocab_size is not None:
        raise SchemaError(
            f"{where}: vocab_size {feature.vocab_size} makes the id itself the row, and hash "
            f"{feature.hash} its hash: leave one of them out"
        )
    if feature.min_count != 1:
        raise SchemaError(
            f"{where}: min_count {feature.min_count} counts the ids of a fitted vocabulary, and "
            "hash fits none: leave one of them out"
        )
    if feature.hash > _MOST_BUCKETS:
        raise SchemaError(
            f"{where}: hash is at most {_MOST_BUCKETS:,} buckets, however: {feature.hash:,}"
        )


def _take_integers(
    feature: Any, *fields: str, optional: bool = False, least: int | None = 1
) -> None:
    """Refuse fields that are no integers of `least` or more; numpy's become plain ones."""
    for field in fields:
        value = getattr(feature, field)
        if value is None and optional:
            continue
        where = f"feature {feature.name!r}: {field}"
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise SchemaError(f"{where} is an integer, however: {value!r}")
        if least is not None and value < least:
            raise SchemaError(f"{where} must be at least {least}, however: {value}")
        object.__setattr__(feature, field, int(value))


def _check_sharing(feature: IdFeature, shared_with: str, owners: dict[str, IdFeature]) -> None:
    owner = owners.get(shared_with)
    if owner is None:
        hint = did_you_mean(shared_with, owners)
        raise SchemaError(
            f"feature {feature.name!r} shares the table of {shared_with!r}, "
            f"which is no sparse or sequence feature{hint}"
        )
    if owner.shared_with is not None:
        raise SchemaError(
            f"feature {feature.name!r} shares the table of {owner.name!r}, which has none of "
            f"its own: share with {owner.shared_with!r}"
        )
    fields = (("embed_dim", None), ("vocab_size", None), ("min_count", 1), ("hash", None))
    for field, default in fields:
        mine, its = getattr(feature, field), getattr(owner, field)
        if mine not in (default, its):
            raise SchemaError(
                f"feature {feature.name!r} shares the table of {owner.name!r}, but its {field} "
                f"is {mine} and the owner's is {its}: leave it out, or make them equal"
            )
