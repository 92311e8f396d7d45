"""The order of an epoch over a table that is larger than memory: runs of rows through a window.

A permutation of all rows touches a page of the mapped file for every number of every row. Here an
epoch takes runs of consecutive rows in a random order, copies as many as a window holds, and
permutes the rows in the window. So the file is read in pieces, each once, and rows that lie far
apart still meet in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polyrank.features.bags import Bag, offsets_of

if TYPE_CHECKING:
    from polyrank.data.table import Table

# A run of a column of ids is 16 KiB then: a few of the pages that the kernel reads ahead. Longer
# runs would let fewer of them meet in a window, and a log that is sorted needs many.
RUN_ROWS = 4096
SHORT_RUN = 1024
PIECE_ROWS = 1 << 22  # that statistics look at together: sums of fewer rows keep their bits


def windows(
    table: Table, most: int, size: int, seed: int, epoch: int, start: int = 0
) -> Iterator[tuple[Table, np.ndarray]]:
    """Yield tables in memory with about `most` rows each, and an order of their rows.

    Each order but the last has a multiple of `size` rows; what is left of a window goes on to the
    next. All of it follows from (seed, epoch). The first `start` batches are left out, and of
    windows that end before them no row is read.
    """
    runs = np.random.default_rng([seed, epoch]).permutation(-(-len(table) // RUN_ROWS))
    several, rest, before = max(most // RUN_ROWS, 1), np.empty(0, dtype=np.int64), 0
    for number, first in enumerate(range(0, len(runs), several)):
        own = [
            slice(at * RUN_ROWS, min((at + 1) * RUN_ROWS, len(table)))
            for at in runs[first : first + several].tolist()
        ]
        rows = len(rest) + sum(each.stop - each.start for each in own)
        order = np.random.default_rng([seed, epoch, number]).permutation(rows)
        last = first + several >= len(runs)
        whole = rows if last else rows // size * size
        skipped = min(max(start * size - before, 0), whole)
        if skipped < whole:
            found = [part(table, each) for each in ([rest] if len(rest) else []) + own]
            yield joined(found), order[skipped:whole]
        numbers = np.concatenate([rest, *(np.arange(each.start, each.stop) for each in own)])
        rest, before = numbers[order[whole:]], before + whole


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
    )


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of parts of one table, one after the other, in memory of their own."""
    first = tables[0]
    return replace(
        first,
        ids=np.concatenate([each.ids for each in tables], axis=1),
        dense=np.concatenate([each.dense for each in tables]),
        labels=np.concatenate([each.labels for each in tables]),
        weight=_joined([each.weight for each in tables]),
        bags=tuple(map(_joined_bags, zip(*(each.bags for each in tables), strict=True))),
        extras=np.concatenate([each.extras for each in tables]),
        numbers=np.concatenate([each.numbers for each in tables]),
        given={name: np.concatenate([each.given[name] for each in tables]) for name in first.given},
        rows=_joined([each.rows for each in tables]),
    )


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [each for each in arrays if each is not None]
    return np.concatenate(known) if known else None


def _joined_bags(bags: Sequence[Bag]) -> Bag:
    rows = _joined([bag.rows for bag in bags])
    if rows is not None:  # of one table, so the lists are the same
        return replace(bags[0], rows=rows)
    lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
    ids = np.concatenate([bag.ids for bag in bags])
    return Bag(ids, offsets_of(lengths), _joined([bag.weights for bag in bags]))
