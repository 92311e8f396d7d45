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
        shared_with: name of another sparse feature whose table this one uses.

    Raises:
        SchemaError: a value of a wrong type or below 1, or ids to be counted that are not.

    Example:
        >>> SparseFeature("item_id", min_count=10).table
        'item_id'
    """

    name: str
    vocab_size: int | None = None
    embed_dim: int | None = None
    min_count: int = 1
    shared_with: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        _take_integers(self, "min_count")
        _take_integers(self, "vocab_size", "embed_dim", optional=True)
        if self.shared_with is not None and not isinstance(self.shared_with, str):
            raise SchemaError(
                f"feature {self.name!r}: shared_with is a feature's name, "
                f"however: {self.shared_with!r}"
            )
        if self.vocab_size is not None and self.min_count != 1:
            raise SchemaError(
                f"feature {self.name!r}: min_count {self.min_count} counts the ids of a fitted "
                "vocabulary, and vocab_size fits none: leave one of them out"
            )

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


Feature = SparseFeature | DenseFeature


def has_table(feature: Feature) -> bool:
    """Whether a feature is looked up in an embedding table."""
    return isinstance(feature, SparseFeature) or feature.encoding == "bins"


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
        if feature.name in ("sparse", "dense"):
            raise SchemaError(
                f"a feature cannot be named {feature.name!r}: [features] of an experiment's file "
                "lists the features of that kind under this key; rename the column"
            )
    sparse = {f.name: f for f in features if isinstance(f, SparseFeature)}
    for feature in sparse.values():
        if feature.shared_with is not None:
            _check_sharing(feature, feature.shared_with, sparse)


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


def _take_integers(feature: Any, *fields: str, optional: bool = False) -> None:
    """Refuse fields that are no integers of 1 or more; numpy's become plain ones."""
    for field in fields:
        value = getattr(feature, field)
        if value is None and optional:
            continue
        where = f"feature {feature.name!r}: {field}"
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise SchemaError(f"{where} is an integer, however: {value!r}")
        if value < 1:
            raise SchemaError(f"{where} must be at least 1, however: {value}")
        object.__setattr__(feature, field, int(value))


def _check_sharing(
    feature: SparseFeature, shared_with: str, sparse: dict[str, SparseFeature]
) -> None:
    owner = sparse.get(shared_with)
    if owner is None:
        hint = did_you_mean(shared_with, (name for name in sparse))
        raise SchemaError(
            f"feature {feature.name!r} shares the table of {shared_with!r}, "
            f"which is no sparse feature{hint}"
        )
    if owner.shared_with is not None:
        raise SchemaError(
            f"feature {feature.name!r} shares the table of {owner.name!r}, which has none of "
            f"its own: share with {owner.shared_with!r}"
        )
    for field, default in (("embed_dim", None), ("vocab_size", None), ("min_count", 1)):
        mine, its = getattr(feature, field), getattr(owner, field)
        if mine not in (default, its):
            raise SchemaError(
                f"feature {feature.name!r} shares the table of {owner.name!r}, but its {field} "
                f"is {mine} and the owner's is {its}: leave it out, or make them equal"
            )
