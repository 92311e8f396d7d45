"""Encoding a log that memory does not hold: three passes over its files, a chunk of rows at a time.

The first counts rows and orphans, the second fits vocabularies and encodings, the third writes the
encoded columns where a cache entry has them. What a chunk becomes is what `encode` makes of it, so
the columns are those that the whole log would have. The one exception are encodings of numbers:
they are fitted on a sample of the training rows, since quantiles of all would need all.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.labels import (
    Orphan,
    Orphans,
    find_orphans,
    tell_of_orphans,
    without_orphans,
)
from polyrank.data.read import Joined, collect_chunks, read
from polyrank.data.shared import Shared, Sharing
from polyrank.data.table import Columns, Table, encode_columns
from polyrank.data.table_files import TableFiles
from polyrank.data.vocab import Before, Vocab, id_owners
from polyrank.errors import DataError
from polyrank.features.bags import Bag
from polyrank.features.vocabulary import counts_of, merged
from polyrank.meter import metered
from polyrank.schema import Schema

logger = logging.getLogger(__name__)
Frame = pl.LazyFrame | pl.DataFrame | Joined

MOST_CHUNK_ROWS, LEAST_CHUNK_ROWS = 262_144, 16_384
CELLS = 24  # bytes of a value while it is read, encoded and written; an id of text has more
LIST_LENGTH, MOST_COLUMNS = 10, 48  # guessed of a row's list, and of an encoded number
# Of numbers, on which their encodings are fitted: rows, and values of all columns together. Not by
# the memory allowed, since what is fitted would depend on it.
SAMPLE_ROWS, SAMPLE_VALUES = 500_000, 16_000_000
DISTINCT = 1 << 21  # counted values that wait until they are added up
_SEED = 0x57EA  # of the sample; not 0, with which a log may have been generated


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the first pass found of one split.

    Args:
        rows: that are left after the rule for orphans.
        chunk_rows: that are read at a time.
    """

    rows: int
    chunk_rows: int


def chunk_rows(schema: Schema, limit: int) -> int:
    """Return the rows of a chunk, of which the memory holds several."""
    columns = len(schema.features) + len(schema.labels) + len(schema.keys.columns)
    row = CELLS * columns + row_bytes(schema)
    return int(np.clip(limit // (8 * row), LEAST_CHUNK_ROWS, MOST_CHUNK_ROWS))


def row_bytes(schema: Schema, shared: Collection[str] = ()) -> int:
    """Return about how much memory an encoded row takes, before anything is fitted.

    Of the features whose lists are `shared`, it holds the numbers alone.
    """
    values = len(schema.fields) + len(schema.labels) + len(schema.extras) + 2
    values += 2 * len(schema.delays)
    for slot in schema.bags:
        values += 1 if slot.name in shared else (1 + slot.weighted) * LIST_LENGTH
    values += MOST_COLUMNS * len(schema.dense)
    return 4 * values


def planned(frame: Frame, schema: Schema, orphans: Orphans, split: str, chunk: int) -> Plan:
    """Count the rows of a split, and refuse or name its orphans as `apply_orphans` does."""
    if isinstance(frame, Joined):
        frame = read(frame.rows, schema)
    found: dict[tuple[str, str], Orphan] = {}
    rows = dropped = 0
    for part in collect_chunks(frame, schema.labels, chunk):
        gone = np.zeros(part.height, dtype=bool)
        for each in find_orphans(part, schema, zero=orphans == "zero", start=rows):
            pair = each.child, each.parent
            before = found.get(pair, replace(each, count=0))
            found[pair] = replace(before, count=before.count + each.count)
            gone |= each.rows.to_numpy()
        rows += part.height
        dropped += int(gone.sum())
    for each in found.values():
        tell_of_orphans(each, orphans, split)
    kept = rows - dropped if orphans == "drop" else rows
    if not kept:
        raise DataError(f"no rows in {split}" + (" after its orphans were dropped" if rows else ""))
    return Plan(rows=kept, chunk_rows=chunk)


def fitted(frame: Frame, schema: Schema, plan: Plan, before: Before | None = None) -> Vocab:
    """Return what encodes a log, as `Vocab.fit` does, from chunks of its training rows."""
    shared = None
    if isinstance(frame, Joined):
        frame, shared = Shared.of(frame, schema)
    elsewhere = {} if shared is None else shared.features
    own = [feature for feature in schema.features if feature.name not in elsewhere]
    times = np.zeros(0 if shared is None else len(shared), dtype=np.int64)
    owners = id_owners(schema.features)
    tables = {table: owner.fixed(table) for table, owner in owners.items()}
    counted: dict[str, list[pl.DataFrame]] = {table: [] for table in owners}
    sampled: dict[str, list[pl.Series]] = {each.name: [] for each in schema.features if each.state}
    most = min(SAMPLE_ROWS, SAMPLE_VALUES // max(len(sampled), 1))
    share = min(1.0, most / plan.rows)
    random = np.random.default_rng(_SEED)
    names = [column for feature in own for column in feature.columns]
    keys = [] if shared is None else [shared.key]
    parts = collect_chunks(frame, [*names, *keys], plan.chunk_rows)
    for part in metered(parts, "fitting vocabularies", total=plan.rows, size=_height):
        drawn = None if share == 1 else np.flatnonzero(random.random(part.height) < share)
        if shared is not None:
            times += shared.times([shared.places(part[shared.key], "train")])
        for feature in own:
            column = feature.column(part)
            if feature.name in sampled:
                sampled[feature.name].append(column if drawn is None else column.gather(drawn))
            for table in feature.id_tables:
                if tables[table] is None:
                    found = counted[table]
                    found.append(counts_of(feature.ids(column, table)))
                    if sum(each.height for each in found[1:]) > DISTINCT:
                        counted[table] = merged(found)
    if shared is not None:
        for feature in shared.features.values():
            for table in feature.id_tables:
                if tables[table] is None:
                    counted[table] += shared.counts(feature, table, times)
    states = {}
    for feature in schema.features:
        if feature.name in sampled:
            state = feature.fit(pl.concat(sampled.pop(feature.name)))
            if state is not None:
                states[feature.name] = state
    return Vocab.of_counts(schema.features, counted, states, before)


def write_table(
    folder: Path,
    split: str,
    frame: Frame,
    schema: Schema,
    vocab: Vocab,
    plan: Plan,
    *,
    orphans: Orphans,
    carried: Sequence[str],
    numbers: bool,
    keyed: bool,
) -> dict[str, Any]:
    """Write the columns of a split as a cache entry has them; return what its manifest says."""
    sharing, times = None, np.empty(0, np.int64)
    if isinstance(frame, Joined):
        frame, shared = Shared.of(frame, schema)
        parts = collect_chunks(frame, [shared.key], plan.chunk_rows)
        times = shared.times(shared.places(part[shared.key], split) for part in parts)
        sharing = Sharing.of(shared, times, vocab.codecs, encoded=False)
    chunks = encoded_chunks(
        frame, schema, vocab, plan, split, orphans=orphans, carried=carried, numbers=numbers,
        sharing=sharing,
    )  # fmt: skip
    with ExitStack() as stack:
        files: TableFiles | None = None
        start = 0
        for each in chunks:
            table = each if keyed else replace(each, keys=pl.DataFrame())
            if files is None:
                files = TableFiles(folder, split, table, plan.rows, stack)
            files.write(table, start)
            start += len(table)
        assert files is not None
        if sharing is not None:
            _write_lists(files, schema, vocab, sharing.shared, times > 0)
        return files.facts()


def _write_lists(
    files: TableFiles, schema: Schema, vocab: Vocab, shared: Shared, used: np.ndarray
) -> None:
    places = {slot.name: index for index, slot in enumerate(schema.bags)}
    for name, feature in shared.features.items():
        codec = vocab.codecs[name]
        for found in shared.chunks(feature, codec, used):
            files.nulls[name] += found.nulls
            files.unseen[name] += found.unseen
            for slot, bag in codec.place(found.values).items():
                assert isinstance(bag, Bag)
                files.write_lists(places[slot], bag)


def encoded_chunks(
    frame: pl.LazyFrame | pl.DataFrame,
    schema: Schema,
    vocab: Vocab,
    plan: Plan,
    split: str,
    *,
    orphans: Orphans,
    carried: Sequence[str],
    numbers: bool,
    sharing: Sharing | None = None,
    served: bool = False,
) -> Iterator[Table]:
    """Yield labelled rows as `encode` makes a table of them all, a chunk at a time."""
    columns = Columns.of(
        frame, schema, split, labels=True, carried=carried, sharing=sharing, served=served
    )
    read = 0
    parts = collect_chunks(frame, [*columns.others, *columns.features], plan.chunk_rows)
    for part in metered(parts, f"encoding {split}", total=plan.rows, size=_height):
        with _rows_from(read):
            kept = part if orphans == "error" else without_orphans(part, schema, orphans)
            read += part.height
            if not kept.height:
                continue
            table = encode_columns(
                kept, schema, vocab, columns, split=split, numbers=numbers, sharing=sharing
            )
        yield table


def _height(part: pl.DataFrame) -> int:
    return part.height


@contextmanager
def _rows_from(start: int) -> Generator[None]:
    """Say of a message that counts the rows of a chunk which row is its first."""
    try:
        yield
    except DataError as error:
        if not start:
            raise
        raise DataError(f"{error} (row 0 is here row {start:,} of the files)") from None
