"""Features for raw ids: each id is a row of its table, and numbers are taken as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polyrank.data.dense import DenseEncoding
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.errors import SchemaError
from polyrank.features import DenseFeature, Feature, SparseFeature

UNASKED = DenseFeature("any").encoding  # of a feature that asks for no encoding


def raw(features: Sequence[Any]) -> list[Feature]:
    """Return features whose ids are rows and whose numbers are not encoded.

    A width that is not given is floor(6 · vocab_size^¼).

    Raises:
        SchemaError: a sparse feature without vocab_size, or an encoding that would be fitted.

    Example:
        >>> raw([SparseFeature("item", vocab_size=16), DenseFeature("price")])[0].embed_dim
        12

    Reference:
        Wang et al., ADKDD 2017, section 4.2 (the width).
    """
    return [_sparse(each) if isinstance(each, SparseFeature) else _dense(each) for each in features]


def vocab_of(features: Sequence[Feature]) -> Vocab:
    """Return identity vocabularies and the encoding `none`: nothing is fitted."""
    sparse = [feature for feature in features if isinstance(feature, SparseFeature)]
    tables = {
        feature.name: Vocabulary("identity", size=feature.vocab_size)
        for feature in sparse
        if feature.shared_with is None
    }
    dense = {f.name: DenseEncoding("none") for f in features if isinstance(f, DenseFeature)}
    return Vocab(tables, dense)


def _sparse(feature: SparseFeature) -> SparseFeature:
    if feature.shared_with is not None:
        return feature
    if feature.vocab_size is None:
        raise SchemaError(
            f"feature {feature.name!r} needs vocab_size here, where an id is the row of its "
            "table: give max + 1, or use the native door, `polyrank.fit`, which fits vocabularies"
        )
    width = feature.embed_dim or int(6 * feature.vocab_size**0.25)
    return replace(feature, embed_dim=width)


def _dense(feature: Any) -> DenseFeature:
    if not isinstance(feature, DenseFeature):
        raise SchemaError(f"features are SparseFeature or DenseFeature, however: {feature!r}")
    if feature.encoding not in (UNASKED, "none"):
        raise SchemaError(
            f"feature {feature.name!r} asks for the encoding {feature.encoding!r}, which is fitted "
            "on a log, and this door takes numbers as they are: use the native door, `polyrank.fit`"
        )
    if feature.embed_dim not in (None, 1):
        raise SchemaError(
            f"feature {feature.name!r} is {feature.embed_dim} numbers: give each its own "
            "DenseFeature"
        )
    return replace(feature, encoding="none", embed_dim=None)
