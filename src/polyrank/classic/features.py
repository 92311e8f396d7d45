"""Features for raw ids: each id is a row of its table, and numbers are taken as they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyrank import features as native
from polyrank.data.vocab import Vocab, id_owners
from polyrank.errors import SchemaError
from polyrank.features import Feature, IdFeature, Pooling
from polyrank.features.dense import DenseEncoding

logger = logging.getLogger(__name__)

UNASKED = native.DenseFeature("any").encoding  # of a feature that asks for no encoding


@dataclass(frozen=True, init=False)
class SparseFeature(native.SparseFeature):
    """A column of ids by the classic arguments, in their order.

    Args:
        name: column.
        vocab_size: rows of the table; a shared one has its owner's.
        embed_dim: width of the embedding; None is floor(6 · vocab_size^¼).
        shared_with: name of another feature whose table this one uses.
        padding_idx: an id whose embedding is zeros and is not learnt; natively, a list of one id
            that may be padding.
        initializer: not offered.

    Raises:
        SchemaError: as natively, and an initializer, with the way out.

    Example:
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

    def native(self) -> IdFeature:
        """Return what it is natively."""
        size = None if self.shared_with else self.vocab_size  # the owner's rows
        if self.padding_idx is None:
            return native.SparseFeature(
                self.name, size, self.embed_dim, shared_with=self.shared_with
            )
        return native.SequenceFeature(
            self.name, size, self.embed_dim, shared_with=self.shared_with, pooling="sum",
            padding_idx=self.padding_idx,
        )  # fmt: skip


@dataclass(frozen=True, init=False)
class SequenceFeature(native.SequenceFeature):
    """A column of padded lists of ids by the classic arguments, in their order.

    Args:
        name: column, an array (N, length).
        vocab_size: as in `SparseFeature`.
        embed_dim: as in `SparseFeature`.
        pooling: `mean` or `sum` of a list's embeddings, or its `last` one.
        shared_with: as in `SparseFeature`.
        padding_idx: what fills a list up to its length and is no id; None leaves nothing out.
        initializer: not offered.

    Raises:
        SchemaError: as natively; an initializer or the pooling `concat`, with the way out.

    Example:
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
                f"feature {name!r}: pooling 'concat' is not offered, since a list becomes one "
                "vector: give mean, sum or last; or split the array into a SparseFeature for each "
                "place, all but the first with shared_with"
            )
        super().__init__(
            name, vocab_size, embed_dim, shared_with=shared_with, pooling=pooling,
            padding_idx=padding_idx,
        )  # fmt: skip
        object.__setattr__(self, "embed_dim", _width(self))

    def native(self) -> IdFeature:
        """Return what it is natively."""
        return native.SequenceFeature(
            self.name, None if self.shared_with else self.vocab_size, self.embed_dim,
            shared_with=self.shared_with, pooling=self.pooling, padding_idx=self.padding_idx,
        )  # fmt: skip


@dataclass(frozen=True, init=False)
class DenseFeature(native.DenseFeature):
    """A column of numbers, taken as they are.

    Args:
        name: column.
        embed_dim: 1; a vector is a feature for each of its numbers.

    Raises:
        SchemaError: another `embed_dim`.

    Example:
        >>> DenseFeature("price").embed_dim
        1
    """

    def __init__(self, name: str, embed_dim: int = 1) -> None:
        super().__init__(name, "none", embed_dim=embed_dim)
        _refuse_vector(self)

    def native(self) -> native.DenseFeature:
        """Return what it is natively."""
        return native.DenseFeature(self.name, "none")


def raw(features: Sequence[Any]) -> list[Feature]:
    """Return native features whose ids are rows and whose numbers are not encoded.

    A width that is not given is floor(6 · vocab_size^¼).

    Raises:
        SchemaError: ids without vocab_size, or an encoding that would be fitted.

    Example:
        >>> raw([SparseFeature("item", vocab_size=16), DenseFeature("price")])[0]
        SparseFeature(name='item', vocab_size=16, embed_dim=12, min_count=1, shared_with=None, \
hash=None)

    Reference:
        Wang et al., ADKDD 2017, section 4.2 (the width).
    """
    classic = SparseFeature | SequenceFeature | DenseFeature
    plain = [each.native() if isinstance(each, classic) else each for each in features]
    return [_ids(each) if isinstance(each, IdFeature) else _dense(each) for each in plain]


def vocab_of(features: Sequence[Feature]) -> Vocab:
    """Return identity vocabularies and the encoding `none`: nothing is fitted."""
    tables = {
        table: fixed
        for table, owner in id_owners(features).items()
        if (fixed := owner.fixed(table)) is not None
    }
    return Vocab(features, tables, {f.name: DenseEncoding("none") for f in features if f.numeric})


def _ids(feature: IdFeature) -> IdFeature:
    if feature.shared_with is not None:
        return feature
    if feature.vocab_size is None:
        raise SchemaError(
            f"feature {feature.name!r} needs vocab_size here, where an id is the row of its "
            "table: give max + 1, or use the native door, `polyrank.fit`, which fits vocabularies"
        )
    return replace(feature, embed_dim=_width(feature))


def _width(feature: IdFeature) -> int | None:
    if feature.embed_dim or feature.vocab_size is None or feature.shared_with is not None:
        return feature.embed_dim
    return int(6 * feature.vocab_size**0.25)


def _dense(feature: Any) -> Feature:
    if not isinstance(feature, native.DenseFeature):
        raise SchemaError(
            f"features are SparseFeature, SequenceFeature or DenseFeature, however: {feature!r}"
        )
    if feature.encoding == UNASKED:
        logger.warning(
            "feature %r is taken as its numbers are: this door fits no encoding", feature.name
        )
    elif feature.encoding != "none":
        raise SchemaError(
            f"feature {feature.name!r} asks for the encoding {feature.encoding!r}, which is fitted "
            "on a log, and this door takes numbers as they are: use the native door, `polyrank.fit`"
        )
    _refuse_vector(feature)
    return replace(feature, encoding="none", embed_dim=None)


def _refuse_vector(feature: native.DenseFeature) -> None:
    if feature.embed_dim not in (None, 1):
        raise SchemaError(
            f"feature {feature.name!r} is {feature.embed_dim} numbers: give each its own "
            "DenseFeature"
        )


def _refuse_initializer(name: str, initializer: Any) -> None:
    if initializer is not None:
        raise SchemaError(
            f"feature {name!r}: an initializer is not offered: leave it out, and copy weights of "
            f"your own into model.ranker.embed.tables()[{name!r}] before fit"
        )
