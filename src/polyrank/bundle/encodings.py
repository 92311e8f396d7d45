"""The vocabulary that a bundle's files hold; no torch, so that what serves a bundle can read it."""

from __future__ import annotations

from polyrank.bundle.format import Parts
from polyrank.data.vocab import Vocab, id_owners
from polyrank.errors import BundleError
from polyrank.features import hashing
from polyrank.features.vocabulary import Vocabulary
from polyrank.schema import Schema


def vocab_of(schema: Schema, parts: Parts) -> Vocab:
    """Return how a bundle's ids become rows and its numbers columns.

    Raises:
        BundleError: ids that were hashed by another version of the hash.
        KeyError: a table or an encoding that is missing.
    """
    tables = {
        table: owner.fixed(table) or Vocabulary.from_frame(parts.vocab[table])
        for table, owner in id_owners(schema.features).items()
    }
    states = Vocab.states_of(schema.features, parts.manifest["encodings"])
    vocab = Vocab(schema.features, tables, states)
    if hash_version(vocab) and (found := int(parts.manifest["hash_version"])) != hashing.VERSION:
        table = next(name for name, each in tables.items() if each.dtype == "hash")
        raise BundleError(
            f"feature {table!r} was hashed by version {found} of the hash, and this polyrank has "
            f"version {hashing.VERSION}: upgrade"
        )
    return vocab


def hash_version(vocab: Vocab) -> dict[str, int]:
    """Return the manifest's entry on the hash, where ids are hashed."""
    hashed = any(table.dtype == "hash" for table in vocab.tables.values())
    return {"hash_version": hashing.VERSION} if hashed else {}
