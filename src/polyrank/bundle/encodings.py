"""The vocabulary that a bundle's files hold; no torch, so that what serves a bundle can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyrank.bundle.format import Parts
from polyrank.data import hashing
from polyrank.data.dense import DenseEncoding
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.errors import BundleError
from polyrank.schema import IdFeature, Schema


def vocab_of(schema: Schema, parts: Parts) -> Vocab:
    """Return how a bundle's ids become rows and its numbers columns.

    Raises:
        BundleError: ids that were hashed by another version of the hash.
        KeyError: a table or an encoding that is missing.
    """
    _check_hash(schema, parts.manifest)
    owners = {
        feature.name: feature for feature in schema.features if isinstance(feature, IdFeature)
    }
    tables = {
        name: Vocabulary.fixed(owners[name]) or Vocabulary.from_frame(parts.vocab[name])
        for name in dict.fromkeys(feature.table for feature in owners.values())
    }
    dense = {
        name: DenseEncoding.from_table(table) for name, table in parts.manifest["dense"].items()
    }
    return Vocab(tables, dense)


def hash_version(schema: Schema) -> dict[str, int]:
    """Return the manifest's entry on the hash, where ids are hashed."""
    return {"hash_version": hashing.VERSION} if _hashed(schema) else {}


def _hashed(schema: Schema) -> list[str]:
    """The features whose ids are hashed."""
    ids = (each for each in schema.features if isinstance(each, IdFeature))
    return [feature.name for feature in ids if feature.hash is not None]


def _check_hash(schema: Schema, manifest: Mapping[str, Any]) -> None:
    hashed = _hashed(schema)
    if not hashed:
        return
    found = int(manifest["hash_version"])
    if found != hashing.VERSION:
        raise BundleError(
            f"feature {hashed[0]!r} is hashed by version {found} of the hash, and this polyrank "
            f"has version {hashing.VERSION}: upgrade"
        )
