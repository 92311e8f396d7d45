"""Batches of whole requests, and what requests have to learn from.

A batch of `size` rows takes the requests whose first row stands at one of `size` places of the
epoch's order, so that an epoch has the steps that it has with batches of rows, and the k-th batch
follows from (seed, epoch) alone. A batch has a few rows more or less than `size`.

Letters: N rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from polyrank.data.shares import WHOLE, Share
from polyrank.errors import DataError
from polyrank.terms import Population

if TYPE_CHECKING:
    from polyrank.data.table import Table


def with_requests(table: Table, split: str) -> Table:
    """Return a table that knows the request of each row.

    Raises:
        DataError: without the key column, with a null in it, or, of a table that is read through a
            window, with a request whose rows lie apart.
    """
    name, key = table.schema.keys.request, table.request
    if key is None:
        raise DataError(f"{split}: a ranking loss needs the key column {name!r}: add it")
    if nulls := key.null_count():
        raise DataError(
            f"{split}: {nulls:,} rows have no {name!r}, which a ranking loss needs: give each of "
            "them a request of its own, or leave them out"
        )
    codes = key.rank("dense").to_numpy().astype(np.int32) - 1
    if table.parted and len(first_rows(codes)) > int(codes.max()) + 1:
        raise DataError(
            f"{split}: the rows of a request lie apart, and the log is larger than what is held "
            f"at a time: sort it by {name!r}"
        )
    return replace(table, requests=codes)


@dataclass(frozen=True)
class RequestStatistics:
    """What a ranking term has to learn from.

    Args:
        requests: with a row of the term's population whose label is observed.
        mixed: those of these that have two different labels; all others give nothing.
        rows: in mixed ones.
        longest: rows of the longest request of the table.
    """

    requests: int
    mixed: int
    rows: int
    longest: int


def request_statistics(requests: np.ndarray, label: np.ndarray) -> RequestStatistics:
    """Count the requests of a population.

    Args:
        requests: the request of each row, numbered from 0.
        label: NaN where it is not observed, or the row is not of the population.

    Shape:
        int (N,), float64 (N,)

    Examples:
        >>> request_statistics(np.array([0, 0, 1, 2, 2]), np.array([0.0, 1.0, 1.0, 0.0, 0.0]))
        RequestStatistics(requests=3, mixed=1, rows=2, longest=2)
    """
    count = int(requests.max()) + 1 if len(requests) else 0
    known = ~np.isnan(label)
    codes, label = requests[known], label[known]
    rows = np.bincount(codes, minlength=count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, codes, label)
    np.maximum.at(high, codes, label)
    mixed = low < high
    return RequestStatistics(
        requests=int(np.count_nonzero(rows)),
        mixed=int(np.count_nonzero(mixed)),
        rows=int(rows[mixed].sum()),
        longest=int(np.bincount(requests).max()) if count else 0,
    )


def labelled_requests(
    requests: np.ndarray, label: np.ndarray, population: Population, split: str
) -> RequestStatistics:
    """Return the counts of a ranking term's population, which must have a mixed request.

    Raises:
        DataError: no request has two different labels.
    """
    found = request_statistics(requests, label)
    if not found.mixed:
        raise DataError(
            f"{population.name!r} has no request with two different labels in "
            f"{split} ({found.requests:,} requests): there is nothing to rank; leave ranking out"
        )
    return found


def request_batches(
    table: Table, size: int, seed: int, epoch: int, start: int, share: Share = WHOLE,
    stream: int = 0,
) -> Iterator[tuple[Table, list[np.ndarray]]]:  # fmt: skip
    """Yield the table and the rows of batches in it, of a stream of an epoch from a batch on.

    A table that is read through a window has `polyrank.data.windows.request_windows`. There are
    `share.steps` batches in all, some perhaps without rows.
    """
    assert table.requests is not None
    order, first = shuffled(table.requests, np.random.default_rng([seed, epoch]))
    steps = share.steps(len(table), size)
    ends = batch_ends(first, len(order), size, np.arange(steps * share.streams + 1))
    own = range(start * share.streams + stream, steps * share.streams, share.streams)
    yield table, [order[ends[each] : ends[each + 1]] for each in own]


def shuffled(requests: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an order of rows with the requests permuted, and where each begins in it.

    Examples:
        >>> order, first = shuffled(np.array([0, 0, 1, 1, 1]), np.random.default_rng(1))
        >>> order.tolist(), first.tolist()
        ([0, 1, 2, 3, 4], [0, 2])
    """
    together = np.argsort(requests, kind="stable")
    first = first_rows(requests[together])
    lengths = np.diff(np.r_[first, len(requests)])
    chosen = random.permutation(len(first))
    lengths = lengths[chosen]
    begin = np.cumsum(lengths) - lengths
    places = np.repeat(first[chosen] - begin, lengths) + np.arange(len(requests))
    return together[places], begin


def batch_ends(first: np.ndarray, rows: int, size: int, numbers: np.ndarray) -> np.ndarray:
    """Return the row at which each batch begins, of requests that begin at rows `first`.

    Examples:
        >>> batch_ends(np.array([0, 3, 7]), 9, 4, np.arange(4)).tolist()
        [0, 7, 9, 9]
    """
    return np.r_[first, rows][np.searchsorted(first, numbers * size)]


def first_rows(requests: np.ndarray) -> np.ndarray:
    """Return the rows that are of another request than the row before."""
    if not len(requests):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.r_[True, requests[1:] != requests[:-1]])
