"""Features for raw ids: an id is the row of its table, and numbers are taken as they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyrank import features as native
from polyrank.data.vocab import Vocab, id_owners
from polyrank.errors import SchemaError
from polyrank.features import Feature, IdFeature, Pooling
from polyrank.features.dense import DenseEncoding, DenseEncodings

logger = logging.getLogger(__name__)

DEFAULT_ENCODING = native.DenseFeature("any").encoding


@dataclass(frozen=True, init=False)
class SparseFeature(native.SparseFeature):
    """A column of ids, by the classic arguments in their order.

    Args:
        name: column.
        vocab_size: rows of the table; a shared one has its owner's.
        embed_dim: width of the embedding; None takes floor(6 · vocab_size^¼).
        shared_with: the feature whose table this one uses.
        padding_idx: an id whose embedding stays zero; natively, a list of one id that may be
            padding.
        initializer: not supported.

    Raises:
        SchemaError: as natively, and for an initializer.

    Examples:
        >>> SparseFeature("item", 16).embed_dim, SparseFeature("seen", 16, 8, "item").table
        (12, 'item')

    Reference:
        Wang et al., ADKDD 2017, section 4.2 (the width).
    """

    padding_idx: int | None = None

    def __init__(
        self,
        name: str,
        vocab_size: int | None = None,
        embed_dim: int | None = None,
        shared_with: str | None = None,
        padding_idx: int | None = None,
        initializer: Any = None,
    ) -> None:
        _refuse_initializer(name, initializer)
        super().__init__(name, vocab_size, embed_dim, shared_with=shared_with)
        object.__setattr__(self, "embed_dim", _width(self))
        object.__setattr__(self, "padding_idx", padding_idx)


@dataclass(frozen=True, init=False)
class SequenceFeature(native.SequenceFeature):
    """A column of padded lists of ids, by the classic arguments in their order.

    Args:
        name: column, an array (N, length).
        vocab_size, embed_dim, shared_with: as in `SparseFeature`.
        pooling: `mean` or `sum` of a list's embeddings, or its `last` one.
        padding_idx: fills a list up to its length and is no id; None leaves nothing out.
        initializer: not supported.

    Raises:
        SchemaError: as natively, and for an initializer or the pooling `concat`.

    Examples:
        >>> SequenceFeature("seen", 16, 8, "sum", "item").padding_idx
        0
    """

    def __init__(
        self,
        name: str,
        vocab_size: int | None = None,
        embed_dim: int | None = None,
        pooling: Pooling = "mean",
        shared_with: str | None = None,
        padding_idx: int | None = 0,
        initializer: Any = None,
    ) -> None:
        _refuse_initializer(name, initializer)
        if str(pooling) == "concat":
            raise SchemaError(
                f"feature {name!r}: pooling 'concat' is not supported: use mean, sum or last, or "
                "split the array into a SparseFeature per place, all but the first with shared_with"
            )
        super().__init__(
            name, vocab_size, embed_dim, shared_with=shared_with, pooling=pooling,
            padding_idx=padding_idx,
        )  # fmt: skip
        object.__setattr__(self, "embed_dim", _width(self))


@dataclass(frozen=True, init=False)
class DenseFeature(native.DenseFeature):
    """A column of numbers, taken as they are.

    Args:
        name: column.
        embed_dim: 1; a vector needs a feature for each of its numbers.

    Raises:
        SchemaError: another `embed_dim`.

    Examples:
        >>> DenseFeature("price").embed_dim
        1
    """

    def __init__(self, name: str, embed_dim: int = 1) -> None:
        super().__init__(name, "none", embed_dim=embed_dim)
        _refuse_vector(self)


def raw(features: Sequence[Any]) -> list[Feature]:
    """Return native features whose ids are rows and whose numbers are not encoded."""
    return [_native(each) for each in features]


def vocab_of(features: Sequence[Feature]) -> Vocab:
    """Return identity vocabularies and the encoding `none`: nothing is fitted."""
    tables = {
        table: fixed
        for table, owner in id_owners(features).items()
        if (fixed := owner.fixed(table)) is not None
    }
    as_it_is = DenseEncodings((DenseEncoding("none"),))
    return Vocab(features, tables, {f.name: as_it_is for f in features if f.numeric})


def _native(feature: Any) -> Feature:
    if not isinstance(feature, IdFeature | native.DenseFeature):
        raise SchemaError(
            f"features must be SparseFeature, SequenceFeature or DenseFeature, got {feature!r}"
        )
    for option in ("weights", "max_length", "serving", "tower"):
        if (given := getattr(feature, option, None)) is not None:
            raise SchemaError(
                f"feature {feature.name!r} has {option} {given!r}, which the classic API does not "
                "know: use `polyrank.fit`"
            )
    if isinstance(feature, native.DenseFeature):
        return _dense(feature)
    if feature.vocab_size is None and feature.shared_with is None:
        raise SchemaError(
            f"feature {feature.name!r} needs vocab_size, since an id is the row of its table: give "
            "max + 1, or use `polyrank.fit`, which fits vocabularies"
        )
    table = {
        "name": feature.name,
        "vocab_size": None if feature.shared_with else feature.vocab_size,  # the owner's rows
        "embed_dim": _width(feature),
        "shared_with": feature.shared_with,
        "min_count": 1,
        "hash": None,
        "wide": True,  # as natively; none come of it, since the models have no wide rows
    }
    padding = getattr(feature, "padding_idx", None)
    if isinstance(feature, native.SequenceFeature) or padding is not None:
        pooling: Any = getattr(feature, "pooling", "sum")
        return native.SequenceFeature(
            **table, pooling=pooling, padding_idx=padding, weights=None, max_length=None
        )
    return native.SparseFeature(**table, serving=None, tower=None)


def _width(feature: IdFeature) -> int | None:
    if feature.embed_dim or feature.vocab_size is None or feature.shared_with is not None:
        return feature.embed_dim
    return int(6 * feature.vocab_size**0.25)


def _dense(feature: native.DenseFeature) -> Feature:
    if feature.encoding == DEFAULT_ENCODING:
        logger.warning(
            "the numbers of feature %r are taken as they are: the classic API fits no encoding",
            feature.name,
        )
    elif feature.encoding != "none":
        raise SchemaError(
            f"feature {feature.name!r} has the encoding {feature.encoding!r}, which is fitted on a "
            "log, but the classic API takes numbers as they are: use `polyrank.fit`"
        )
    _refuse_vector(feature)
    return native.DenseFeature(
        feature.name, "none", bins=32, embed_dim=None, min_count=20, wide=True, serving=None,
        tower=None,
    )  # fmt: skip


def _refuse_vector(feature: native.DenseFeature) -> None:
    if feature.embed_dim not in (None, 1):
        raise SchemaError(
            f"feature {feature.name!r} has {feature.embed_dim} numbers: give each its own "
            "DenseFeature"
        )


def _refuse_initializer(name: str, initializer: Any) -> None:
    if initializer is not None:
        raise SchemaError(
            f"feature {name!r}: an initializer is not supported: leave it out, and copy your own "
            f"weights into model.ranker.embed.tables()[{name!r}] before fit"
        )
