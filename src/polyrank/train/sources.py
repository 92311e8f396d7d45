"""From sources to encoded tables, or to the cache of an earlier run beside this one."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from threading import get_ident
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl

from polyrank.bundle.model import log_counts
from polyrank.data import cache, checksums, labels, stream
from polyrank.data.labels import Orphans, check_leaks, check_rule
from polyrank.data.memory import AUTO, resolved, tell_of_scores, windowed
from polyrank.data.read import Joined, column_names, count_rows, files, read
from polyrank.data.sampling import Sampling
from polyrank.data.shared import Shared
from polyrank.data.table import Table, encode
from polyrank.data.vocab import Before, Vocab
from polyrank.data.windows import some_rows
from polyrank.errors import DataError
from polyrank.features import hashing
from polyrank.files import writing
from polyrank.metrics.fusion import Fusion
from polyrank.paths import store_of
from polyrank.schema import Schema

logger = logging.getLogger(__name__)

FINGERPRINT_ROWS = 100_000  # of a split
FINGERPRINT_LISTS = 1_000  # of those that its rows share
NOT_CACHED = "the encoded rows are not cached for the next run: %s"
NOT_HERE = (
    "rows of an object store are read anew by each run, and must fit in memory once they are "
    "encoded: their files would be downloaded for the checksums of a cache. Copy them to this "
    "machine for one, or set cache = false"
)


@dataclass(frozen=True)
class Sources:
    """What `read` accepts, for each split, and what happens to the rows.

    For frames that are parts of files, `origin` is the path or glob of the files, and plain data
    that says which parts.
    """

    train: Any
    valid: Any = None
    test: Any = None
    orphans: Orphans = "error"
    cache: bool = True  # of the encoded rows of files, beside the run
    origin: tuple[str, Any] | None = None
    sampling: Sampling | None = None
    carried: tuple[str, ...] = ()  # raw columns that the scored splits keep, for a fused score
    numbers: bool = False  # whether raw numbers are kept beside the encoded ones, for trees
    memory: str | int = AUTO  # that encoded rows may take

    def carrying(self, fusion: Fusion, schema: Schema) -> Sources:
        """Return sources whose scored splits keep the columns of a fused score."""
        for split, source in self.scored.items():
            fusion.check(schema, column_names(read(source, schema)), split)
        return replace(self, carried=tuple(fusion.columns(schema)))

    @property
    def scored(self) -> dict[str, Any]:
        """The sources of the splits that a scorecard may be of."""
        return {split: source for split, source in self.splits.items() if split != "train"}

    @property
    def splits(self) -> dict[str, Any]:
        """The given sources, by split."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {split: source for split, source in named.items() if source is not None}

    @property
    def train_sampling(self) -> Sampling | None:
        """The sampling of the training rows, for which their weights do not account."""
        sampled = self.sampling is not None and "train" in self.sampling.splits
        return self.sampling if sampled else None

    @property
    def paths(self) -> dict[str, list[str]] | None:
        """The files of each split, or of all together; None where some rows are no files here."""
        patterns = {split: [source] for split, source in self.splits.items()}
        for split, (source,) in list(patterns.items()):
            if isinstance(source, Joined):
                patterns[split] = [source.rows, source.shared]
        if self.origin is not None:
            others = [each[1] for each in patterns.values() if len(each) > 1]
            patterns = {"source": [self.origin[0], *others[:1]]}
        if not all(isinstance(each, str | Path) for parts in patterns.values() for each in parts):
            return None
        if any(store_of(each) for parts in patterns.values() for each in parts):
            logger.warning(NOT_HERE)
            return None
        return {
            split: [path for each in parts for path in files(str(each))]
            for split, parts in patterns.items()
        }


def encoded(
    schema: Schema,
    sources: Sources,
    *,
    beside: Path | None = None,
    before: Before | None = None,
) -> tuple[Vocab, dict[str, Table]]:
    """Return the vocabulary of the training rows, and the tables of the given splits.

    Sampled validation and test rows are weighted to stand for the whole log; the loss does that for
    training rows. The folder `beside` is for a cache of the rows of files, without these weights.
    A warm start grows the vocabulary that was `before`. Training rows have a window where all rows
    take more than `sources.memory`.
    """
    paths = sources.paths if beside is not None and sources.cache else None
    if beside is None or paths is None:
        entry = _encoded(schema, sources, before)
    else:
        entry = _cached(schema, sources, paths, beside / cache.NAME, before)
    tables = dict(entry.tables)
    for split, table in tables.items():
        log_counts(table.unseen, table.nulls, len(table), split)
        if sources.sampling is not None and split != "train":
            tables[split] = sources.sampling.weighted(table, split)
    limit = resolved(sources.memory)
    tell_of_scores(tables, limit)
    return entry.vocab, windowed(tables, limit)


def _cached(
    schema: Schema,
    sources: Sources,
    paths: Mapping[str, list[str]],
    folder: Path,
    before: Before | None,
) -> cache.Entry:
    """Return the encoded rows of files from the cache, or encode and keep them."""
    flat = [path for each in paths.values() for path in each]
    try:
        cache.prepare(folder)
        states = [checksums.state(path) for path in flat]
        sums = dict(zip(flat, checksums.of_files(flat, folder / "files.json"), strict=True))
    except OSError as error:
        logger.warning(NOT_CACHED, error)
        return _encoded(schema, sources, before)
    by_split = {split: [sums[path] for path in each] for split, each in paths.items()}
    # What decides the encoded rows beside the files' content and the schema.
    parts = None if sources.origin is None else sources.origin[1]
    versions = [version("polyrank"), hashing.VERSION, pl.__version__]
    # A search has no test rows of a source that a run splits into three: another entry.
    splits = list(sources.splits)
    given = [by_split, splits, sources.orphans, parts, list(sources.carried), sources.numbers]
    recipe: list[Any] = [*given, *versions]
    if keys := [each.key for each in sources.splits.values() if isinstance(each, Joined)]:
        recipe.append(keys)
    if before is not None:
        recipe.append({"start": before.name, "refitted": before.refitted})
    key = cache.key_of(schema, recipe)
    entry = _earlier(folder, key, schema)
    if entry is not None:
        return entry
    larger = _larger(schema, sources, flat)
    if larger is not None:
        # Another entry: numbers are fitted on a sample there, which a log that fits is not.
        key = cache.key_of(schema, [*recipe, "by chunks"])
        return _earlier(folder, key, schema) or _streamed(
            schema, sources, folder, key, larger, before
        )
    entry = _encoded(schema, sources, before)
    if states != [checksums.state(path) for path in flat]:  # they are another key's rows
        return entry
    try:
        size = cache.store(folder, key, entry)
    except OSError as error:
        logger.warning(NOT_CACHED, error)
        return entry
    logger.info(
        "the encoded rows are cached for the next run: %s (%.1f MB; remove it at any time, or set "
        "cache = false)", folder / key, size / 1e6,
    )  # fmt: skip
    return entry


def _earlier(folder: Path, key: str, schema: Schema) -> cache.Entry | None:
    """Return an entry of an earlier run, and log again what it warned of."""
    entry = cache.load(folder, key, schema)
    if entry is not None:
        logger.info("encoded rows of an earlier run are used: %s", folder / key)
        for name, level, text in entry.messages:
            logging.getLogger(name).log(level, "%s", text)
    return entry


def _larger(schema: Schema, sources: Sources, paths: Sequence[str]) -> int | None:
    """Return the memory that encoded rows may take, where they are likely to take more."""
    limit = resolved(sources.memory)
    if limit is None:
        return None
    joined = [each for each in sources.splits.values() if isinstance(each, Joined)]
    frames = [
        read(each, schema) for each in sources.splits.values() if not isinstance(each, Joined)
    ]
    row = stream.row_bytes(schema)
    if not joined and all(path.lower().endswith((".csv", ".tsv")) for path in paths):
        # A field ends with a separator or a line: so many rows at most, and none need be counted.
        size = sum(Path(path).stat().st_size for path in paths)
        if size // min(len(column_names(frame)) for frame in frames) * row <= limit:
            return None
    needed = sum(map(count_rows, frames)) * row
    for each in joined:
        rows, shared = Shared.of(each, schema)
        needed += count_rows(rows) * stream.row_bytes(schema, shared.features) + shared.bytes
    return limit if needed > limit else None


def _opened(source: Any, schema: Schema) -> pl.LazyFrame | Joined:
    if isinstance(source, Joined):
        return Joined(read(source.rows, schema), read(source.shared, schema), source.key)
    return read(source, schema)


def _streamed(
    schema: Schema, sources: Sources, folder: Path, key: str, limit: int, before: Before | None
) -> cache.Entry:
    """Encode files that memory does not hold into the cache, by chunks of rows, and map them."""
    logger.info("the rows may exceed the memory: they are encoded by chunks into %s", folder / key)
    with cache.noted() as messages, writing(folder / key, DataError):
        rows = {split: _opened(source, schema) for split, source in sources.splits.items()}
        check_rule(sources.orphans)
        chunk = stream.chunk_rows(schema, limit)
        plans = {
            split: stream.planned(frame, schema, sources.orphans, split, chunk)
            for split, frame in rows.items()
        }
        vocab = stream.fitted(rows["train"], schema, plans["train"], before)
        check_leaks(rows["train"].lazy(), schema)

        def write(to: Path) -> dict[str, dict[str, Any]]:
            return {
                split: stream.write_table(
                    to, split, frame, schema, vocab, plans[split], orphans=sources.orphans,
                    carried=sources.carried if split in sources.scored else (),
                    numbers=sources.numbers, keyed=split in sources.scored or schema.ranked,
                )
                for split, frame in rows.items()
            }  # fmt: skip

        cache.store_written(folder, key, vocab, write, messages)
    entry = cache.load(folder, key, schema)
    if entry is None:
        raise DataError(f"{folder / key} could not be read again: is the disk full or failing?")
    return entry


def fingerprint(vocab: Vocab, tables: Mapping[str, Table]) -> str:
    """Return checksums of the vocabularies and of about 100,000 rows per split, for checkpoints."""
    entries = 0
    for name, table in vocab.tables.items():
        values = table.values.cast(pl.String).fill_null("").str.join("\n").item()
        entries = crc32(f"{name} {table.rows} {values}".encode(), entries)
    parts = [f"vocabulary {entries:08x}"]
    for split, table in tables.items():
        rows = some_rows(table, FINGERPRINT_ROWS)
        arrays = [table.dense, table.labels, table.extras, table.numbers]
        checksum = crc32(table.ids[:, rows].tobytes())
        for array in arrays:
            checksum = crc32((array[rows] if len(array) else array).tobytes(), checksum)
        for bag in table.bags:
            if bag.rows is None:
                some = bag.take(rows)
            else:  # long lists: some of them, and which rows have which
                checksum = crc32(bag.rows[rows].tobytes(), checksum)
                lists = np.linspace(0, len(bag.offsets) - 2, FINGERPRINT_LISTS).astype(np.int64)
                some = replace(bag, rows=None).take(lists)
            checksum = crc32(some.offsets.tobytes(), crc32(some.ids.tobytes(), checksum))
            if some.weights is not None:
                checksum = crc32(some.weights.tobytes(), checksum)
        parts.append(f"{split} {len(table)} rows {checksum:08x}")
    return ", ".join(parts)


def _encoded(schema: Schema, sources: Sources, before: Before | None = None) -> cache.Entry:
    with cache.noted() as messages, _one_warning_of_orphans():
        rows = {split: _opened(source, schema) for split, source in sources.splits.items()}
        vocab = Vocab.fit(rows["train"], schema, before)
        check_leaks(rows["train"].lazy(), schema)
        tables = {
            split: encode(
                frame, schema, vocab, split=split, orphans=sources.orphans,
                carried=sources.carried if split in sources.scored else (),
                numbers=sources.numbers,
            )
            for split, frame in rows.items()
        }  # fmt: skip
    return cache.Entry(vocab, tables, tuple(messages))


@contextmanager
def _one_warning_of_orphans() -> Generator[None]:
    """Join the warnings of all splits about orphans into one."""
    found: list[str] = []
    source, thread = logging.getLogger(labels.__name__), get_ident()

    def keep(record: logging.LogRecord) -> bool:
        mine = record.thread == thread and record.levelno >= logging.WARNING
        if mine:
            found.append(record.getMessage())
        return not mine

    source.addFilter(keep)
    try:
        yield
    finally:
        source.removeFilter(keep)
        if found:
            source.warning("%s", "\n  ".join(found))
