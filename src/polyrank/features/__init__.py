"""The inputs of a model, one file per kind: its spec, its fit and its codec.

They are imported from `polyrank` or, with tasks and keys, from `polyrank.schema`. A new kind is a
file here, its module of the exported graph in `polyrank.serve.export.features`, and a line below.
"""

from __future__ import annotations

from collections.abc import Sequence

from polyrank.errors import SchemaError, did_you_mean
from polyrank.features.dense import DenseFeature, Encoding
from polyrank.features.kind import Codec, Feature, Pooling, Slot, Target
from polyrank.features.sequence import SequenceFeature
from polyrank.features.sparse import IdFeature, SparseFeature
from polyrank.features.vector import VectorFeature
from polyrank.registry import Registry

_OWN = {
    "sparse": SparseFeature,
    "sequence": SequenceFeature,
    "dense": DenseFeature,
    "vector": VectorFeature,
}
FEATURES: Registry[type[Feature]] = Registry("feature", _OWN)

__all__ = [
    "FEATURES",
    "Codec",
    "DenseFeature",
    "Encoding",
    "Feature",
    "IdFeature",
    "Pooling",
    "SequenceFeature",
    "Slot",
    "SparseFeature",
    "Target",
    "VectorFeature",
    "check_features",
    "in_order",
    "names_by_kind",
    "refuse_duplicates",
]


def in_order(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """Return features as a schema keeps them: polyrank's kinds first, then others by name."""
    places = {kind: place for place, kind in enumerate(_OWN)}
    return tuple(sorted(features, key=lambda each: (places.get(each.kind, len(places)), each.kind)))


def names_by_kind(features: Sequence[Feature]) -> dict[str, list[str]]:
    """Return the lists of names of an experiment's `[features]`.

    Examples:
        >>> names_by_kind([SparseFeature("item"), DenseFeature("price")])
        {'sparse': ['item'], 'dense': ['price']}
    """
    names: dict[str, list[str]] = {}
    for feature in in_order(features):
        names.setdefault(feature.kind, []).append(feature.name)
    return names


def check_features(features: Sequence[Feature]) -> None:
    """Refuse features that contradict each other.

    Raises:
        SchemaError: none at all, a duplicate or reserved name, or a table that is shared and not
            there, or that its sharers describe otherwise than its owner.
    """
    if not features:
        raise SchemaError("a schema needs at least one feature")
    refuse_duplicates("feature", [feature.name for feature in features])
    if all(feature.served for feature in features):
        raise SchemaError(
            "every feature has a value for serving, so that all rows would be predicted alike: a "
            "schema needs at least one feature that rows have at prediction"
        )
    by_name = {feature.name: feature for feature in features}
    for feature in features:
        if feature.name in FEATURES:
            raise SchemaError(
                f"a feature cannot be named {feature.name!r}: [features] of an experiment's file "
                "lists the features of that kind under this key; rename the column"
            )
        feature.check_among(by_name)
    slots = [slot for feature in features for slot in feature.slots]
    refuse_duplicates("the part", [slot.name for slot in slots])
    owned = {table for feature in features for table in feature.tables}
    for slot in slots:
        if slot.table and slot.table not in owned:
            raise SchemaError(
                f"{slot.name!r} is looked up in the table {slot.table!r}, which no feature owns"
                f"{did_you_mean(slot.table, owned)}"
            )


def refuse_duplicates(what: str, names: Sequence[str]) -> None:
    """Refuse the first name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SchemaError(f"{what} {name!r} is declared twice; each must have its own name")
        seen.add(name)
