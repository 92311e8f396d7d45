"""All that is fitted on training rows to encode any rows, and fitting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.data.read import Joined, by_column, collect
from polyrank.data.shared import Shared
from polyrank.errors import DataError
from polyrank.features import Codec, Feature
from polyrank.features.vocabulary import Vocabulary, counts_of
from polyrank.meter import metered
from polyrank.schema import Schema


@dataclass(frozen=True)
class Vocab:
    """All that is fitted on training rows to encode any rows.

    Args:
        features: whose these are.
        tables: vocabularies of ids by embedding table.
        states: what else a feature's kind fits, by feature, such as the encodings of numbers.
    """

    features: Sequence[Feature]
    tables: Mapping[str, Vocabulary]
    states: Mapping[str, Any]

    def __post_init__(self) -> None:
        for feature in self.features:
            if feature.served:
                self.codecs[feature.name].served(1)  # refuses what training cannot have learned

    @classmethod
    def fit(
        cls,
        frame: pl.LazyFrame | pl.DataFrame | Joined,
        schema: Schema,
        before: Before | None = None,
    ) -> Self:
        """Return what encodes a log, fitted on its training rows and no others.

        Args:
            frame: the training rows.
            schema: names the columns; a shared table is fitted on all its columns together, the
                elements of lists among them, with the owner's `min_count`.
            before: what a warm start grows.

        Raises:
            DataError: no rows, a missing column, or one that cannot be ids, lists or numbers.
        """
        owners = id_owners(schema.features)
        tables = {table: owner.fixed(table) for table, owner in owners.items()}
        counted: dict[str, list[pl.DataFrame]] = {table: [] for table in owners}
        states: dict[str, Any] = {}
        shared, times = None, np.empty(0, np.int64)
        if isinstance(frame, Joined):
            frame, shared = Shared.of(frame, schema)
            keys = collect(frame, [shared.key])[shared.key]
            times = shared.times([shared.places(keys, "train")])
        own = [
            each for each in schema.features if shared is None or each.name not in shared.features
        ]
        frame = by_column(frame, [column for each in own for column in each.columns])
        for feature in metered(schema.features, "fitting vocabularies", unit="features"):
            if shared is not None and feature.name in shared.features:
                for table in feature.id_tables:
                    if tables[table] is None:
                        counted[table] += shared.counts(feature, table, times)
                continue
            column = feature.column(collect(frame, feature.columns))
            if not len(column):
                raise DataError("no rows in train: there is nothing to fit a vocabulary on")
            if before is None or before.refitted:
                state = feature.fit(column)
                if state is not None:
                    states[feature.name] = state
            for table in feature.id_tables:
                if tables[table] is None:
                    counted[table].append(counts_of(feature.ids(column, table)))
        return cls.of_counts(schema.features, counted, states, before)

    @classmethod
    def of_counts(
        cls,
        features: Sequence[Feature],
        counted: Mapping[str, Sequence[pl.DataFrame]],
        states: Mapping[str, Any],
        before: Before | None = None,
    ) -> Self:
        """Return what encodes a log, from the counts of ids by table, and the states of features.

        Of a warm start, tables grow, and the states that were before come first unless refitted.
        """
        fitted = {}
        for table, owner in id_owners(features).items():
            fixed, least = owner.fixed(table), owner.least_count(table)
            if fixed is not None:
                fitted[table] = fixed
            elif before is not None:
                fitted[table] = before.vocab.tables[table].grown(counted[table], least)
            else:
                fitted[table] = Vocabulary.of_counts(counted[table], least)
        if before is not None and not before.refitted:
            states = before.vocab.states
        return cls(features, fitted, states)

    @staticmethod
    def states_of(features: Sequence[Feature], saved: Mapping[str, Any]) -> dict[str, Any]:
        """Read what `saved_states` returned.

        Raises:
            ConfigError: a state of another shape.
            KeyError: one that is missing.
        """
        return {
            each.name: spec.from_table(each.state, saved[each.name], f"encoding {each.name!r}")
            for each in features
            if each.state is not None
        }

    def saved_states(self) -> dict[str, Any]:
        """Return the states as plain tables that `states_of` reads back, bit for bit."""
        return {name: spec.to_table(state) for name, state in self.states.items()}

    @cached_property
    def codecs(self) -> Mapping[str, Codec]:
        """What encodes each feature's column, by feature."""
        return {
            feature.name: feature.codec(self.tables, self.states.get(feature.name))
            for feature in self.features
        }

    @property
    def serving(self) -> dict[str, Any]:
        """The value of each feature that is set at prediction."""
        served = (feature.name for feature in self.features if feature.served)
        return {name: self.codecs[name].serving for name in served}

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Rows of each embedding table."""
        found = {table: vocabulary.rows for table, vocabulary in self.tables.items()}
        return found | {
            table: rows for codec in self.codecs.values() for table, rows in codec.rows.items()
        }

    @cached_property
    def columns(self) -> Mapping[str, int]:
        """Float columns of each slot of `dense`."""
        return {
            slot: columns
            for codec in self.codecs.values()
            for slot, columns in codec.columns.items()
        }


@dataclass(frozen=True)
class Before:
    """What a warm start grows: the vocabularies of a bundle.

    Args:
        vocab: its own.
        refitted: whether the states of numbers are fitted again, on the new rows.
        name: of the bundle's content, for caches.
    """

    vocab: Vocab
    refitted: bool
    name: str


def id_owners(features: Sequence[Feature]) -> dict[str, Feature]:
    """Return the owner of each table that ids are looked up in, in the order of the features."""
    return {
        table: feature
        for feature in features
        for table in feature.id_tables
        if table in feature.tables
    }
