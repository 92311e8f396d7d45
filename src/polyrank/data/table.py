"""Encoded rows in columns, and the batches cut from them, a block of batches at once.

Letters: F fields of ids, S bags, B rows of a batch, D dense columns, L labels, E columns that kinds
of label read, M numeric features, N rows of the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.delays import cuts, late_columns
from polyrank.data.labels import Orphans, apply_orphans, check_labels, raw_label, tell_of_remarks
from polyrank.data.read import Joined, by_column, collect, column_names
from polyrank.data.requests import request_batches
from polyrank.data.shared import Shared, Sharing
from polyrank.data.shares import WHOLE, Share
from polyrank.data.vocab import Vocab
from polyrank.data.windows import joined_bags, request_windows, windows
from polyrank.errors import DataError
from polyrank.features.bags import Bag
from polyrank.features.dense import float32_of
from polyrank.features.kind import Encoded, Feature
from polyrank.layout import Layout
from polyrank.meter import metered
from polyrank.schema import Schema
from polyrank.terms import TRUE, output_columns

logger = logging.getLogger(__name__)
BLOCK_ROWS = 16384


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows, ready for a model.

    Args:
        ids: rows of the packed tables, field-major, so that one table's ids are contiguous.
        dense: dense columns.
        labels: in task order; NaN = not observed.
        weight: sample weights, or None where all are 1.
        bags: rows of the packed tables for each bag, in order.
        extras: the raw numbers that kinds of label read, NaN = missing.
        rows: their numbers in the table.
        given: what first stages say of them, where a stage says it of a whole table at once.
        requests: numbers of their requests, where the table knows them.

    Shape:
        ids: int32 (F, B) · dense: float32 (B, D) · labels: float32 (B, L) · weight: float32 (B,) ·
        extras: float32 (B, E) · rows: int64 (B,) · given: float32 (B, heads) each ·
        requests: int32 (B,)
    """

    ids: np.ndarray
    dense: np.ndarray
    labels: np.ndarray
    weight: np.ndarray | None
    bags: tuple[Bag, ...] = ()
    extras: np.ndarray | None = None
    rows: np.ndarray | None = None
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    requests: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dense)

    def none(self) -> Batch:
        """Return a batch like this one, without rows."""
        return Batch(
            self.ids[:, :0],
            self.dense[:0],
            self.labels[:0],
            None if self.weight is None else self.weight[:0],
            tuple(bag.take(slice(0)) for bag in self.bags),
            None if self.extras is None else self.extras[:0],
            None if self.rows is None else self.rows[:0],
            {name: each[:0] for name, each in self.given.items()},
            None if self.requests is None else self.requests[:0],
        )


def joined_batch(batches: Sequence[Batch]) -> Batch:
    """Return the rows of batches of one table, one after the other."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    return Batch(
        np.concatenate([each.ids for each in batches], axis=1),
        np.concatenate([each.dense for each in batches]),
        np.concatenate([each.labels for each in batches]),
        _together([each.weight for each in batches]),
        tuple(map(joined_bags, zip(*(each.bags for each in batches), strict=True))),
        _together([each.extras for each in batches]),
        _together([each.rows for each in batches]),
        {name: np.concatenate([each.given[name] for each in batches]) for name in first.given},
        _together([each.requests for each in batches]),
    )


def _together(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [each for each in arrays if each is not None]
    return np.concatenate(known) if known else None


class Gather:
    """Cuts batches from columns of N rows.

    A random row of 23 fields took 0.24 µs among 1 M rows and 0.32 µs among 20 M, of steps that took
    4.1 µs a row: each field is one cache miss at either size, and sorting a block's rows first
    gained nothing.
    """

    def __init__(self, table: Table, layout: Layout, size: int) -> None:
        self.table, self.size = table, size
        self.offsets = layout.offsets.astype(np.int32)
        self.bag_offsets = layout.bag_offsets.astype(np.int32)
        self.block_rows = max(BLOCK_ROWS // size, 1) * size

    def block(self, rows: slice | np.ndarray) -> list[Batch]:
        """Return the batches of a range of rows, or of row numbers in any order."""
        table, size = self.table, self.size
        dense, labels = table.dense[rows], table.labels[rows]
        weight = None if table.weight is None else table.weight[rows]
        extras = table.extras[rows] if table.schema.extras else None
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        numbers = numbers if table.rows is None else table.rows[rows]
        given = {name: each[rows] for name, each in table.given.items()}
        requests = None if table.requests is None else table.requests[rows]
        whole = len(dense) // size
        ids = list(self._ids(rows, 0, whole)) if whole else []
        if len(dense) % size:
            ids.extend(self._ids(rows, whole * size, 1))
        return [
            Batch(
                each,
                dense[start : start + size],
                labels[start : start + size],
                None if weight is None else weight[start : start + size],
                self._bags(rows, start) if table.bags else (),
                None if extras is None else extras[start : start + size],
                numbers[start : start + size],
                {name: each[start : start + size] for name, each in given.items()},
                None if requests is None else requests[start : start + size],
            )
            for each, start in zip(ids, range(0, len(dense), size), strict=True)
        ]

    def _ids(self, rows: slice | np.ndarray, start: int, batches: int) -> np.ndarray:
        """Return the rows of the packs: (batches, F, B), so that each batch lies together."""
        part = _part(rows, start, batches * self.size)
        length = part.stop - part.start if isinstance(part, slice) else len(part)
        ids = np.empty((batches, len(self.table.ids), length // batches), dtype=np.int32)
        for place, (column, offset) in enumerate(zip(self.table.ids, self.offsets, strict=True)):
            found = column[part] if isinstance(part, slice) else column.take(part)
            np.add(found.reshape(batches, -1), offset, out=ids[:, place])
        return ids

    def _bags(self, rows: slice | np.ndarray, start: int) -> tuple[Bag, ...]:
        bags = tuple(bag.take(_part(rows, start, self.size)) for bag in self.table.bags)
        for bag, offset in zip(bags, self.bag_offsets, strict=True):
            bag.ids[:] += offset
        return bags


class Drop:
    """Replaces ids of a batch by row 0 of their table, each with probability `rate`."""

    def __init__(self, layout: Layout, rate: float, seed: tuple[int, ...]) -> None:
        self.rate, self.seed = rate, _words(*seed)
        schema = layout.schema
        self.fields = np.flatnonzero([slot.unseen for slot in schema.fields])
        self.bags = [index for index, slot in enumerate(schema.bags) if slot.unseen]
        self.rows = layout.offsets.astype(np.int32)
        self.bag_rows = layout.bag_offsets.astype(np.int32)

    def __call__(self, batch: Batch, number: int) -> None:
        """Replace ids of the batch of a number, in place."""
        seed = [*self.seed, *_words(number)]
        if len(self.fields):
            size = batch.ids.shape[1]
            where = self._cells(len(self.fields) * size, [*seed, 1])
            if len(where):
                fields = self.fields[where // size]
                batch.ids[fields, where % size] = self.rows[fields]
        for index in self.bags:
            bag = batch.bags[index]
            bag.ids[self._cells(len(bag.ids), [*seed, 2, index])] = self.bag_rows[index]

    def _cells(self, cells: int, seed: list[int]) -> np.ndarray:
        """Draw the number of cells first, then the cells.

        A uniform for each cell would cost more than gathering it.
        """
        generator = np.random.default_rng(np.array(seed, dtype=np.uint32))
        dropped = generator.binomial(cells, self.rate)
        if not dropped:
            return np.empty(0, dtype=np.int64)
        return generator.choice(cells, dropped, replace=False, shuffle=False)


def _words(*numbers: int) -> list[int]:
    """Return the 32-bit words of which numpy makes a seed; it is slower at finding them itself.

    Examples:
        >>> words = np.array(_words(7, 2**32), dtype=np.uint32)
        >>> words
        array([7, 0, 1], dtype=uint32)
        >>> np.random.default_rng(words).random() == np.random.default_rng([7, 2**32]).random()
        True
    """
    words = []
    for number in map(int, numbers):
        words.append(number & 0xFFFFFFFF)
        while number := number >> 32:
            words.append(number & 0xFFFFFFFF)
    return words


def _part(rows: slice | np.ndarray, start: int, length: int) -> slice | np.ndarray:
    if isinstance(rows, slice):
        return slice(rows.start + start, min(rows.start + start + length, rows.stop))
    return rows[start : start + length]


@dataclass(frozen=True, eq=False)
class Table:
    """Encoded rows: columns of ids, numbers, labels and keys.

    Args:
        schema: what the columns mean.
        ids: rows of each slot's own table, in the order of `schema.fields`.
        dense: columns of `schema.dense`, one slot after the other.
        labels: in task order, NaN = not observed; no columns where encoded without labels.
            Regression labels are float32 in their own unit. After them, of each task with a delay,
            the time to the log's cut and the time to the event, in windows.
        weight: sample weights, or None.
        keys: the key columns user, request and time that the data has.
        truth: known truth of probabilities, by output column; never an input, and not read where
            encoded without labels.
        unseen: ids that are not in the vocabulary, by feature.
        nulls: missing values, by feature.
        slices: columns of `dense` that each slot fills.
        bags: rows of each slot's own table, in the order of `schema.bags`.
        extras: the raw numbers of `schema.extras`, NaN = missing.
        carried: raw columns that were asked for, such as those of a fused score or of segments.
        numbers: the raw columns of the numeric features, in the order of `schema.features` and
            NaN = missing, where they were asked for; else no columns.
        given: what first stages say of the rows, by stage, where a stage says it at once.
        rows: the numbers of the rows in the table that they are a part of; None of a whole one.
        window: rows that an epoch may hold in memory at a time; None permutes all of them at once.
        requests: the number of each row's request, where somebody asked; see `with_requests`.

    Shape:
        ids: int32 (F, N) · dense: float32 (N, D) · labels: float32 (N, L) · weight: float32 (N,) ·
        extras: float32 (N, E) · numbers: float32 (N, M) · given: float32 (N, heads) each ·
        requests: int32 (N,)
    """

    schema: Schema
    ids: np.ndarray
    dense: np.ndarray
    labels: np.ndarray
    weight: np.ndarray | None
    keys: pl.DataFrame
    truth: Mapping[str, np.ndarray]
    unseen: Mapping[str, int]
    nulls: Mapping[str, int]
    slices: Mapping[str, slice] = field(default_factory=dict)
    bags: tuple[Bag, ...] = ()
    extras: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    carried: pl.DataFrame = field(default_factory=pl.DataFrame)
    numbers: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray | None = None
    window: int | None = None
    requests: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dense)

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        arrays = [self.ids, self.dense, self.labels, self.extras, self.numbers]
        arrays += [
            *self.truth.values(),
            *self.bags,
            *([] if self.weight is None else [self.weight]),
            *([] if self.requests is None else [self.requests]),
        ]
        frames = (self.keys, self.carried)
        return sum(a.nbytes for a in arrays) + sum(int(f.estimated_size()) for f in frames)

    @property
    def labels_by_task(self) -> dict[str, np.ndarray]:
        """Each task's label: float64 (N,), NaN = not observed."""
        return {
            task.name: self.labels[:, index].astype(np.float64)
            for index, task in enumerate(self.schema.tasks)
        }

    @property
    def user(self) -> pl.Series | None:
        """The user key of each row, where the schema declares one and the data has it.

        A Series, because numpy would make floats of integers where one is null.
        """
        return self._key(self.schema.keys.user)

    @property
    def request(self) -> pl.Series | None:
        """The request key of each row, where the schema declares one and the data has it."""
        return self._key(self.schema.keys.request)

    def _key(self, name: str | None) -> pl.Series | None:
        return self.keys[name] if name is not None and name in self.keys.columns else None

    def batches(
        self,
        layout: Layout,
        size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        unseen_rate: float = 0.0,
        start: int = 0,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """Yield the rows in batches; the last may be short.

        All randomness comes from (seed, epoch, batch), so a batch is the same whoever made the
        ones before it.

        Args:
            layout: where each table begins in its pack.
            size: rows a batch.
            shuffle: whether to permute the rows, anew each epoch.
            seed: of the shuffle and of the id dropout.
            epoch: 0, 1, …
            unseen_rate: probability with which an id is replaced by row 0, so that this row is
                trained; never for `bins`, whose row 0 is for missing values.
            start: batches to leave out at the beginning; the others are as they would be.
            share: of several processes: a batch has up to `size` rows of each of its streams, and
                all processes get as many batches, some perhaps without rows.
        """
        return chain.from_iterable(
            self.blocks(
                layout,
                size,
                shuffle=shuffle,
                seed=seed,
                epoch=epoch,
                unseen_rate=unseen_rate,
                start=start,
                share=share,
            )
        )

    def blocks(
        self,
        layout: Layout,
        size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        unseen_rate: float = 0.0,
        start: int = 0,
        share: Share = WHOLE,
        whole_requests: bool = False,
    ) -> Generator[list[Batch]]:
        """Yield the same batches by the list: as many as are gathered at once.

        A small batch costs its slices only. See `batches`, also for the arguments. With
        `whole_requests` the rows are shuffled by the request, none of which is cut: a batch has
        about `size` rows, and perhaps none; the table must know the requests.
        """
        if size < 1:
            raise DataError(f"a batch must have at least 1 row, got size {size}")
        of_epoch = layout, size, shuffle, seed, epoch, unseen_rate, start, share, whole_requests
        if share == WHOLE:
            yield from self._stream(0, *of_epoch)
            return
        streams = [chain.from_iterable(self._stream(each, *of_epoch)) for each in share.own]
        none = Gather(self, layout, 1).block(slice(0, 1))[0].none()
        for _ in range(start, share.steps(len(self), size)):
            found = [batch for each in streams if (batch := next(each, None)) is not None]
            yield [joined_batch(found) if found else none]

    def _stream(
        self, stream: int, layout: Layout, size: int, shuffle: bool, seed: int, epoch: int,
        unseen_rate: float, start: int, share: Share, whole_requests: bool,
    ) -> Generator[list[Batch]]:  # fmt: skip
        """Yield the batches of one stream of an epoch, by the list."""
        of_stream = () if share.streams == 1 else (stream,)
        drop, number = Drop(layout, unseen_rate, (seed, epoch, *of_stream)), start
        if whole_requests:
            source = request_windows if self.parted else request_batches
            for table, batches in source(self, size, seed, epoch, start, share, stream):
                gather = Gather(table, layout, max(1, *map(len, batches)) if batches else 1)
                for rows in batches:
                    found = gather.block(rows)
                    batch = found[0] if found else gather.block(slice(0, 1))[0].none()
                    if unseen_rate > 0 and found:
                        drop(batch, number)
                    number += 1
                    yield [batch]
                del table, batches, gather
            return
        for table, order in self._parts(size, shuffle, seed, epoch, start, share, stream):
            gather = Gather(table, layout, size)
            first, end = (start * size, len(table)) if order is None else (0, len(order))
            for low in range(first, end, gather.block_rows):
                rows = slice(low, min(low + gather.block_rows, end))
                block = gather.block(rows if order is None else order[rows])
                if unseen_rate > 0:
                    for place, batch in enumerate(block, start=number):
                        drop(batch, place)
                number += len(block)
                yield block
            # A window goes before the next one is read: two would not fit.
            del table, order, gather

    @property
    def parted(self) -> bool:
        """Whether a window reads it, so that several processes read different parts of it."""
        return self.window is not None and self.window < len(self)

    def _parts(
        self, size: int, shuffle: bool, seed: int, epoch: int, start: int, share: Share,
        stream: int,
    ) -> Iterable[tuple[Table, np.ndarray | None]]:  # fmt: skip
        """Return tables whose rows, each in its order, are a stream's from a batch on."""
        if shuffle and self.parted:
            return windows(self, self.window or 1, size, seed, epoch, start, share, stream)
        if not shuffle and share == WHOLE:
            return [(self, None)]
        if shuffle:
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
        else:
            order = np.arange(len(self))
        if share.streams > 1:
            order = order[(np.arange(len(order)) // size) % share.streams == stream]
        return [(self, order[start * size :])]

    def columns(self) -> dict[str, np.ndarray | Bag]:
        """Return views of the inputs by slot: ids (N,), bags, dense (N, columns)."""
        schema = self.schema
        names = [slot.name for slot in schema.lookups]
        found: dict[str, np.ndarray | Bag] = dict(zip(names, [*self.ids, *self.bags], strict=True))
        found |= {name: self.dense[:, columns] for name, columns in self.slices.items()}
        return {slot.name: found[slot.name] for each in schema.features for slot in each.slots}


def as_served(table: Table, vocab: Vocab) -> Table:
    """Return encoded rows with the values that features have at prediction, where these are set.

    Only what changes is copied.
    """
    served = table.schema.served
    values = {each.name: vocab.codecs[each.name].served(1).values for each in served}
    found = with_values(table, vocab, values)
    unseen = {name: 0 if name in values else count for name, count in table.unseen.items()}
    nulls = {name: 0 if name in values else count for name, count in table.nulls.items()}
    return replace(found, unseen=unseen, nulls=nulls)


def with_values(table: Table, vocab: Vocab, values: Mapping[str, Any]) -> Table:
    """Return encoded rows in which features have one value each, given as `Codec.read` has it.

    A kind of label that reads the column of such a feature reads that value too. Only what changes
    is copied.

    Args:
        table: the rows.
        vocab: by which they are encoded.
        values: by feature, of one row; no lists.
    """
    schema = table.schema
    if not values:
        return table
    arrays = (table.ids, table.dense, table.numbers, table.extras)
    ids, dense, numbers, extras = (each.copy("K") for each in arrays)
    fields = [slot.name for slot in schema.fields]
    numeric = [feature.name for feature in schema.features if feature.numeric]
    for feature, found in values.items():
        if feature in numeric and numbers.shape[1]:
            numbers[:, numeric.index(feature)] = found
        if feature in schema.extras:
            extras[:, schema.extras.index(feature)] = found
        for name, each in vocab.codecs[feature].place(found).items():
            if name in fields:
                ids[fields.index(name)] = each
            else:
                dense[:, table.slices[name]] = each
    return replace(table, ids=ids, dense=dense, numbers=numbers, extras=extras)


def outcomes(tables: Sequence[Table]) -> Table:
    """Return the rows of parts of a log, one after the other, without what a model reads of them.

    It is what a scorecard takes, beside the predictions.
    """
    first, rows = tables[0], sum(map(len, tables))
    weights = [each.weight for each in tables if each.weight is not None]
    return Table(
        schema=first.schema,
        ids=np.empty((0, rows), np.int32),
        dense=np.empty((rows, 0), np.float32),
        labels=np.concatenate([each.labels for each in tables]),
        weight=np.concatenate(weights) if weights else None,
        keys=pl.concat([each.keys for each in tables]),
        truth={name: np.concatenate([each.truth[name] for each in tables]) for name in first.truth},
        extras=np.concatenate([each.extras for each in tables]),
        carried=pl.concat([each.carried for each in tables]),
        unseen={name: sum(each.unseen[name] for each in tables) for name in first.unseen},
        nulls={name: sum(each.nulls[name] for each in tables) for name in first.nulls},
    )


def encode(
    frame: pl.LazyFrame | pl.DataFrame | Joined,
    schema: Schema,
    vocab: Vocab,
    *,
    split: str = "data",
    orphans: Orphans = "error",
    labels: bool = True,
    carried: Sequence[str] = (),
    numbers: bool = False,
    served: bool = False,
) -> Table:
    """Return rows encoded by a fitted vocabulary.

    Args:
        frame: raw rows; only the columns that the schema names are read.
        schema: the columns.
        vocab: fitted on the training rows.
        split: name of these rows in messages.
        orphans: what to do with a child label without its parent; see `apply_orphans`.
        labels: False to predict: label, weight and truth columns are not read.
        carried: raw columns to keep beside the encoded ones, row by row.
        numbers: whether to keep the raw numbers too, which first-stage trees read.
        served: whether features have the values that are set at prediction; their columns are
            then not read.

    Raises:
        DataError: no rows, a missing column, labels, weights or known truths that cannot be,
            orphans.
    """
    sharing = None
    if isinstance(frame, Joined):
        frame, shared = Shared.of(frame, schema)
        keys = collect(frame, [shared.key])[shared.key]
        times = shared.times([shared.places(keys, split)])
        sharing = Sharing.of(shared, times, vocab.codecs)
    columns = Columns.of(
        frame, schema, split, labels=labels, carried=carried, sharing=sharing, served=served
    )
    return encode_columns(
        frame, schema, vocab, columns, split=split, orphans=orphans, labels=labels, numbers=numbers,
        sharing=sharing,
    )  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The raw columns that a table is made of, of those that a log has.

    Args:
        keys: the key columns user, request and time.
        truth: columns that hold known probabilities, by output.
        others: all but the features.
        features: those of the features, but of lists that are shared.
        carried: those that are kept as they are.
        cuts: of the whole log, by task with a delay.
        served: whether features have the values that are set at prediction, of no column.
    """

    keys: list[str]
    truth: Mapping[str, str]
    others: list[str]
    features: list[str]
    carried: list[str]
    cuts: Mapping[str, float]
    served: bool = False

    @classmethod
    def of(
        cls, frame: pl.LazyFrame | pl.DataFrame, schema: Schema, split: str, *, labels: bool,
        carried: Sequence[str], sharing: Sharing | None = None, served: bool = False,
    ) -> Columns:  # fmt: skip
        """Find them, and log which key is missing."""
        keys, known = schema.keys, column_names(frame)
        truth = _truth_columns(schema, known, split) if labels else {}
        present = [name for name in dict.fromkeys((keys.user, keys.request, keys.time)) if name]
        if labels:
            for name in present:
                if name not in known:
                    logger.warning("%s: the key column %r is not in the data", split, name)
        present = [name for name in present if name in known]
        others = [*present, *truth.values(), *carried, *schema.extras]
        if labels:
            others += [*schema.labels, *schema.made_of, *([keys.weight] if keys.weight else [])]
        elsewhere = {} if sharing is None else sharing.lists
        features = [
            column
            for feature in schema.features
            if feature.name not in elsewhere and not (served and feature.served)
            for column in feature.columns
        ]
        if sharing is not None:
            others.append(sharing.shared.key)
        ends = cuts(frame, schema, split) if labels else {}
        kept = list(dict.fromkeys(carried))
        return cls(present, truth, others, features, kept, ends, served)


def encode_columns(
    frame: pl.LazyFrame | pl.DataFrame,
    schema: Schema,
    vocab: Vocab,
    columns: Columns,
    *,
    split: str,
    orphans: Orphans = "error",
    labels: bool = True,
    numbers: bool = False,
    sharing: Sharing | None = None,
) -> Table:
    """Return the rows of a log or of a chunk of it; see `encode`."""
    keys = schema.keys
    frame = by_column(frame, [*columns.others, *columns.features])
    # With a feature among them, these columns have the number of rows, whatever else there is.
    data = collect(frame, [*columns.others, *columns.features[:1]])
    if not data.height:
        raise DataError(f"no rows in {split}" if labels else "there are no rows to predict")
    kept: pl.Series | None = None
    if labels:
        check_labels(data, schema, split)
        tell_of_remarks(data, schema, split, columns.cuts)
        data, kept = _without_orphans(data, schema, orphans, split)
        if not data.height:
            raise DataError(f"no rows in {split} after its orphans were dropped")
    weight = sample_weights(data[keys.weight], split) if labels and keys.weight else None
    true_values = {
        output: _true_values(data[name], split) for output, name in columns.truth.items()
    }
    places = None
    if sharing is not None:
        places = sharing.shared.places(data[sharing.shared.key], split)

    def encoded(feature: Feature) -> Encoded:
        if sharing is not None and places is not None and feature.name in sharing.lists:
            return sharing.encoded(feature.name, places)
        if columns.served and feature.served:
            return vocab.codecs[feature.name].served(data.height)
        column = feature.column(collect(frame, feature.columns))
        return vocab.codecs[feature.name].read(column if kept is None else column.gather(kept))

    inputs = map(encoded, metered(schema.features, f"encoding {split}", unit="features"))
    return Table(
        schema=schema,
        **_inputs(inputs, data.height, schema, vocab, numbers=numbers),
        labels=_label_columns(data, schema, columns.cuts)
        if labels
        else np.empty((data.height, 0), np.float32),
        weight=weight,
        keys=data.select(columns.keys),
        truth=true_values,
        extras=_numbers(data, schema.extras),
        carried=data.select(columns.carried),
    )


def _without_orphans(
    data: pl.DataFrame, schema: Schema, orphans: Orphans, split: str
) -> tuple[pl.DataFrame, pl.Series | None]:
    """Return the rows after the rule for orphans, and their numbers where some were dropped."""
    number = "row number"
    while number in data.columns:
        number += "_"
    found = apply_orphans(data.with_row_index(number), schema, orphans, split)
    kept = found[number] if found.height < data.height else None
    return found.drop(number), kept


def _inputs(
    encoded: Iterable[Encoded], rows: int, schema: Schema, vocab: Vocab, *, numbers: bool
) -> dict[str, Any]:
    """Return the fields of a Table that come of its features."""
    unseen: dict[str, int] = {}
    nulls: dict[str, int] = {}
    ends = np.cumsum([vocab.columns[slot.name] for slot in schema.dense], dtype=np.int64).tolist()
    slices = {
        slot.name: slice(start, end)
        for slot, start, end in zip(schema.dense, [0, *ends], ends, strict=False)
    }
    ids = np.empty((len(schema.fields), rows), dtype=np.int32)
    dense = np.empty((rows, ends[-1] if ends else 0), dtype=np.float32)
    bags: dict[str, Bag] = {}
    places: dict[str, np.ndarray] = dict(
        zip((slot.name for slot in schema.fields), ids, strict=True)
    )
    places |= {name: dense[:, columns] for name, columns in slices.items()}
    names = [feature.name for feature in schema.features if feature.numeric] if numbers else []
    # One column after the other in memory, as they are written here and read by trees.
    raw = np.empty((len(names), rows), dtype=np.float32).T
    kept: dict[str, np.ndarray] = dict(zip(names, raw.T, strict=True))
    for feature, found in zip(schema.features, encoded, strict=True):
        codec = vocab.codecs[feature.name]
        nulls[feature.name] = found.nulls
        if feature.id_tables:
            unseen[feature.name] = found.unseen
        if feature.name in kept:
            kept[feature.name][:] = found.values
        for name, values in codec.place(found.values).items():
            if isinstance(values, Bag):
                bags[name] = values
            else:
                places[name][:] = values
    return {
        "ids": ids,
        "dense": dense,
        "bags": tuple(bags[slot.name] for slot in schema.bags),
        "slices": slices,
        "unseen": unseen,
        "nulls": nulls,
        "numbers": raw,
    }


def _numbers(data: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    """The columns that kinds of label read beside the label: float32 (N, E), NaN = missing."""
    columns = [float32_of(data[name]) for name in names]
    return np.column_stack(columns) if columns else np.empty((data.height, 0), np.float32)


def _label_columns(data: pl.DataFrame, schema: Schema, ends: Mapping[str, float]) -> np.ndarray:
    labels = np.empty((data.height, len(schema.tasks)), dtype=np.float32)
    for index, task in enumerate(schema.tasks):
        labels[:, index] = task.label_kind.observed(*raw_label(data, task))
    return late_columns(data, schema, labels, ends)


def sample_weights(series: pl.Series, split: str) -> np.ndarray:
    """Return sample weights as float32; DataError if one is negative, null or not finite."""
    return _checked(
        series, f"{split}: the weight {series.name!r}", pl.Float32(),
        "finite numbers of at least 0", lambda values: np.isfinite(values) & (values >= 0),
    )  # fmt: skip


def _true_values(series: pl.Series, split: str) -> np.ndarray:
    return _checked(
        series, f"{split}: the truth {series.name!r}", pl.Float64(),
        "probabilities", lambda values: (values >= 0) & (values <= 1),
    )  # fmt: skip


def _checked(
    series: pl.Series,
    where: str,
    dtype: pl.DataType,
    rule: str,
    allowed: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return a column as numbers, each of which a rule allows."""
    if not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"{where} must hold numbers, got {series.dtype}")
    values = series.cast(dtype).to_numpy(writable=True)
    bad = ~allowed(values)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{where} must hold {rule}, but {int(bad.sum()):,} of its values are not, the first "
            f"{series[first]} in row {first}: correct them, or rename the column"
        )
    return values


def _truth_columns(schema: Schema, known: list[str], split: str) -> dict[str, str]:
    """Columns that hold the known truth of a probability, by output."""
    truth = {}
    for task in schema.tasks:
        for output in output_columns(task):
            if TRUE + output not in known:
                continue
            if task.label_kind.is_event:
                truth[output] = TRUE + output
            else:
                logger.info("%s: %r is no probability: not read", split, TRUE + output)
    return truth
