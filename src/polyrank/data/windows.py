"""The order of an epoch over a table that is larger than memory: runs of rows through a window.

A permutation of all rows touches a page of the mapped file for every number of every row. Here an
epoch takes runs of consecutive rows in a random order, copies as many as a window holds, and
permutes the rows in the window. So the file is read in pieces, each once, and rows that lie far
apart still meet in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polyrank.data import mapped
from polyrank.data.requests import batch_ends, first_rows, shuffled
from polyrank.data.shares import WHOLE, Share
from polyrank.features.bags import Bag, offsets_of

if TYPE_CHECKING:
    from polyrank.data.table import Table

# A run of a column of ids is 16 KiB then, or a page where a window holds few: of a log that is
# sorted, many runs must meet in a window, or its batches know little but a few users or hours.
RUN_ROWS, SHORT_RUN = 4096, 1024
RUNS = 64  # that a window should hold
PIECE_ROWS = 1 << 22  # that statistics look at together: sums of fewer rows keep their bits


def windows(
    table: Table,
    most: int,
    size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    share: Share = WHOLE,
    stream: int = 0,
) -> Iterator[tuple[Table, np.ndarray]]:
    """Yield tables in memory with about `most` rows each, and an order of their rows.

    Each order but the last has a multiple of `size` rows; what is left of a window goes on to the
    next. All of it follows from (seed, epoch) and the stream. The first `start` batches are left
    out, and of windows that end before them no row is read.
    """
    length = min(RUN_ROWS, max(most // RUNS, SHORT_RUN))
    numbers = np.random.default_rng([seed, epoch]).permutation(-(-len(table) // length))
    runs = _cut(numbers, length, len(table), *share.parts(len(table), size)[stream])
    several = max(most // length, 1)
    own = [runs[first : first + several] for first in range(0, len(runs), several)]
    of_stream = [] if share.streams == 1 else [stream]
    rest, before = np.empty(0, dtype=np.int64), 0
    left: Table | None = None  # the rows of `rest`, where their window was in memory
    for number, each in enumerate(own):
        numbers = np.concatenate([rest, *(np.arange(run.start, run.stop) for run in each)])
        order = np.random.default_rng([seed, epoch, number, *of_stream]).permutation(len(numbers))
        last = number == len(own) - 1
        whole = len(order) if last else len(order) // size * size
        skipped = min(max(start * size - before, 0), whole)
        if skipped < whole:
            if left is None and len(rest):
                left = part(table, rest)
            window = _read(table, left, each)
            left = None if last else part(window, order[whole:])
            if not last:
                expect(table, own[number + 1])
            # Nobody but the caller holds it then, who may drop it before the next one is read.
            only = [window]
            del window
            yield only.pop(), order[skipped:whole]
        else:
            left = None
        rest, before = numbers[order[whole:]], before + whole


def request_windows(
    table: Table, size: int, seed: int, epoch: int, start: int, share: Share, stream: int
) -> Iterator[tuple[Table, list[np.ndarray]]]:
    """Yield tables in memory, and the rows of batches of whole requests in them.

    As `windows`, with runs that begin and end between requests. The k-th batch takes the requests
    that begin at one of its `size` places of the stream, wherever a window ends; the last takes
    what is left, since runs that are moved to whole requests may give a stream some rows more.
    """
    requests, most = table.requests, table.window
    assert requests is not None
    assert most is not None
    length = min(RUN_ROWS, max(most // RUNS, SHORT_RUN))
    numbers = np.random.default_rng([seed, epoch]).permutation(-(-len(table) // length))
    cut = _cut(numbers, length, len(table), *share.parts(len(table), size)[stream])
    firsts = np.r_[first_rows(requests), len(table)]
    runs = [
        slice(low, high)
        for low, high in firsts[np.searchsorted(firsts, [(run.start, run.stop) for run in cut])]
        if low < high
    ] if cut else []  # fmt: skip
    several = max(most // length, 1)
    own = [runs[first : first + several] for first in range(0, len(runs), several)] or [[]]
    of_stream = [] if share.streams == 1 else [stream]
    steps, done, before = share.steps(len(table), size), 0, 0
    rest, left = np.empty(0, dtype=np.int64), None
    for number, each in enumerate(own):
        numbers = np.concatenate([rest, *(np.arange(run.start, run.stop) for run in each)])
        random = np.random.default_rng([seed, epoch, number, *of_stream])
        order, first = shuffled(requests[numbers], random)
        last = number == len(own) - 1
        ready = steps if last else min((before + len(order)) // size, steps - 1)
        ends = batch_ends(before + first, before + len(order), size, np.arange(done, ready + 1))
        ends = ends - before
        if last:
            ends[-1] = len(order)
        batches = [order[ends[at] : ends[at + 1]] for at in range(ready - done)]
        wanted, over = batches[max(start - done, 0) :], int(ends[-1])
        if wanted:
            if left is None and len(rest):
                left = part(table, rest)
            window = _read(table, left, each)
            left = None if last else part(window, order[over:])
            if not last:
                expect(table, own[number + 1])
            only = [window]
            del window
            yield only.pop(), wanted
        else:
            left = None
        rest, before, done = numbers[order[over:]], before + over, ready


def _cut(runs: np.ndarray, length: int, rows: int, start: int, end: int) -> list[slice]:
    """Return the rows from `start` to `end` of a table whose runs of a length come in an order."""
    found, before = [], 0
    for at in runs.tolist():
        low, high = at * length, min((at + 1) * length, rows)
        first, last = max(low, low + start - before), min(high, low + end - before)
        if first < last:
            found.append(slice(first, last))
        before += high - low
    return found


def _read(table: Table, left: Table | None, runs: Sequence[slice]) -> Table:
    """Return the rows that are left of a window, and some runs, in memory."""
    files = [*_columns(table), *(each for bag in table.bags for each in bag.arrays)]
    with mapped.no_more_than_touched(files):
        return joined([*([] if left is None else [left]), *(part(table, run) for run in runs)])


def expect(table: Table, runs: Sequence[slice]) -> None:
    """Begin to read runs of a table's rows, as far as its columns are files."""
    for run in runs:
        for column in _columns(table):
            mapped.expect(column[run])
        for bag in table.bags:
            if bag.rows is not None:  # lists that rows share stay where they are
                mapped.expect(bag.rows[run])
                continue
            mapped.expect(bag.offsets[run.start : run.stop + 1])
    for bag in table.bags:  # their offsets are on the way
        for run in runs if bag.rows is None else ():
            mapped.expect(bag.ids[bag.offsets[run.start] : bag.offsets[run.stop]])


def _columns(table: Table) -> list[np.ndarray]:
    """Return the arrays of which an element, or a row, is a row's of the table."""
    some = [table.dense, table.labels, table.extras, *table.given.values()]
    return [*table.ids, *table.numbers.T, *some, *([] if table.weight is None else [table.weight])]


def pieces(table: Table, most: int = PIECE_ROWS) -> Iterator[Table]:
    """Yield views of up to `most` rows each; a table of no more rows is its own only piece."""
    if len(table) <= most:
        yield table
        return
    for start in range(0, len(table), most):
        yield part(table, slice(start, start + most))


def some_rows(table: Table, most: int) -> np.ndarray:
    """Return the numbers of about `most` rows, evenly spaced.

    Of a table with a window they are short runs, since single rows would touch a page for each
    number.
    """
    if table.window is None or len(table) <= most:
        return np.arange(0, len(table), max(-(-len(table) // most), 1))
    starts = np.linspace(0, len(table) - SHORT_RUN, max(most // SHORT_RUN, 1)).astype(np.int64)
    return np.unique((starts[:, None] + np.arange(SHORT_RUN)).ravel())


def part(table: Table, rows: slice | np.ndarray) -> Table:
    """Return some rows of what a model reads and learns from; their numbers are those of `table`.

    Keys, truths and what is carried for a scorecard stay behind.
    """
    some = rows if isinstance(rows, np.ndarray) else slice(*rows.indices(len(table)))
    numbers = np.arange(some.start, some.stop) if isinstance(some, slice) else some
    return replace(
        table,
        ids=table.ids[:, some],
        dense=table.dense[some],
        labels=table.labels[some],
        weight=None if table.weight is None else table.weight[some],
        keys=pl.DataFrame(),
        truth={},
        bags=tuple(bag.part(some) for bag in table.bags),
        extras=table.extras[some] if table.schema.extras else table.extras,
        carried=pl.DataFrame(),
        numbers=table.numbers[some] if table.numbers.size else table.numbers,
        given={name: each[some] for name, each in table.given.items()},
        rows=numbers if table.rows is None else table.rows[some],
        window=None,
        requests=None if table.requests is None else table.requests[some],
    )


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of parts of one table, one after the other, in memory of their own."""
    first = tables[0]
    weights = [each.weight for each in tables if each.weight is not None]
    rows = [each.rows for each in tables if each.rows is not None]
    requests = [each.requests for each in tables if each.requests is not None]
    return replace(
        first,
        ids=_joined_columns([each.ids for each in tables]),
        dense=_joined([each.dense for each in tables]),
        labels=_joined([each.labels for each in tables]),
        weight=_joined(weights) if weights else None,
        bags=tuple(map(joined_bags, zip(*(each.bags for each in tables), strict=True))),
        extras=_joined([each.extras for each in tables]),
        numbers=_joined_columns([each.numbers.T for each in tables]).T,
        given={name: _joined([each.given[name] for each in tables]) for name in first.given},
        rows=np.concatenate(rows) if rows else None,
        requests=_joined(requests) if requests else None,
    )


def _joined(arrays: Sequence[np.ndarray], out: np.ndarray | None = None) -> np.ndarray:
    """Return the rows of all; while those of one are copied, the next ones come from the disk."""
    first = arrays[0]
    if out is None:
        out = np.empty((sum(map(len, arrays)), *first.shape[1:]), first.dtype)
    start = 0
    mapped.expect(first)
    for each, following in zip_longest(arrays, arrays[1:]):
        if following is not None:
            mapped.expect(following)
        out[start : start + len(each)] = each
        start += len(each)
    return out


def _joined_columns(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rows of all, of which each has a column one after the other: (columns, rows)."""
    total = sum(each.shape[1] for each in columns)
    out = np.empty((len(columns[0]), total), columns[0].dtype)
    for place, target in enumerate(out):
        _joined([each[place] for each in columns], target)
    return out


def joined_bags(bags: Sequence[Bag]) -> Bag:
    """Return the lists of some columns one after the other."""
    rows = [bag.rows for bag in bags if bag.rows is not None]
    if rows:  # of one table, so the lists are the same
        return replace(bags[0], rows=_joined(rows))
    lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
    ids = np.concatenate([bag.ids for bag in bags])
    weights = [bag.weights for bag in bags if bag.weights is not None]
    return Bag(ids, offsets_of(lengths), _joined(weights) if weights else None)
