"""Repeated rows, within training and in later splits; how the splits relate in time and users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding, finding
from polyrank.data.check.columns import Coded, mix
from polyrank.data.split import ordered
from polyrank.errors import DataError

# A later split drawn from the same log repeats training rows as often as they repeat each other:
# a fifth more, plus 5 standard deviations of a Poisson count, is no coincidence.
REPEATED = 1.2
REPEATED_DEVIATIONS = 5.0
# Of pairs of a training row and a later one: random splits give .5, splits in order 0.
MOST_REVERSED = 0.75
# A boundary within a request leaves a smaller share of pairs out of order than this.
LEAST_INTERLEAVED = 0.001
# Below this share of the training rows, what a first stage learns from twins is lost in the rest.
TWINS = 0.01
_ROW = np.uint64(0xD1B54A32D192ED03)


def no_rows_yet(rows: int) -> np.ndarray:
    """Return the checksums of rows before their first column."""
    return np.full(rows, _ROW, dtype=np.uint64)


def add_column(rows: np.ndarray, exact: np.ndarray) -> None:
    """Add one more column's values to the checksums of rows, in place."""
    np.add(rows, exact.astype(np.uint64), out=rows)
    rows[:] = mix(rows)


def add_label(rows: np.ndarray, label: np.ndarray) -> None:
    """Add a label to the checksums of rows, in place; an unobserved one equals another."""
    add_column(rows, np.nan_to_num(label, nan=-1.5).view(np.uint64))


def duplicate_findings(rows: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Yield how many later rows repeat training rows, by checksums, beside what chance explains."""
    train = np.sort(rows["train"])
    natural = _repeated(train) / len(train)
    for split, later in rows.items():
        if split == "train":
            continue
        places = np.minimum(np.searchsorted(train, later), len(train) - 1)
        count = int(np.count_nonzero(train[places] == later))
        if not count:
            continue
        share, expected = count / len(later), natural * len(later)
        numbers = {"rows": count, "share": share, "train_share": natural, "expected": expected}
        message = (
            f"{count:,} of {len(later):,} rows of {split} ({share:.2%}) are in train as well, "
            f"alike in every feature, key and label; {natural:.2%} of the training rows have such "
            "a twin within train"
        )
        if count > REPEATED * expected + REPEATED_DEVIATIONS * np.sqrt(expected):
            yield finding("duplicates", message, None, split, numbers)
        else:
            message += ", so that is coincidence"
            yield finding("duplicates", message, None, split, numbers, note="nothing")


def twin_findings(features: np.ndarray, labels: Iterable[np.ndarray]) -> Iterator[Finding]:
    """Yield how many training rows have a twin, by checksums of their features, and its labels.

    What is fitted on other folds (a row's effects or margins out of fold) has still seen a twin.
    """
    rows, twins = len(features), _repeated(np.sort(features))
    if twins < TWINS * rows:
        return
    both = features.copy()
    for label in labels:
        add_label(both, label)
    agreeing = _repeated(np.sort(both))
    message = (
        f"{twins:,} of {rows:,} training rows ({twins / rows:.2%}) have a twin, alike in every "
        f"feature; {agreeing:,} of them ({agreeing / twins:.2%}) have one that is alike in every "
        "label too, which tells it to a first stage that is fitted on the other folds"
    )
    numbers = {"rows": twins, "share": twins / rows, "agreeing": agreeing}
    yield finding("twins", message, None, "train", numbers)


def _repeated(ordered: np.ndarray) -> int:
    """Return how many of sorted values occur more than once."""
    again = ordered[1:] == ordered[:-1]
    return int(np.count_nonzero(np.append(again, False) | np.insert(again, 0, False)))


def time_findings(times: Mapping[str, pl.Series]) -> Iterator[Finding]:
    """Yield where later splits lie in time before the training rows, or among them."""
    column = times["train"].name
    frames = [series.to_frame("time") for series in times.values()]
    joined = pl.concat(frames, how="vertical_relaxed")["time"].alias(column)
    try:
        order = ordered(joined)
    except DataError as error:
        yield finding("time-format", str(error), column)
        return
    order = order.rank("dense") if order.dtype == pl.String else order.to_physical()
    known = joined.is_not_null() & order.is_not_null()
    parts, start = {}, 0
    for split, series in times.items():
        own = slice(start, start + len(series))
        parts[split] = order[own].filter(known[own]).to_numpy()
        start = own.stop
    train = np.sort(parts["train"])
    for split, later in parts.items():
        if split == "train" or not len(later) or not len(train):
            continue
        after = len(train) - np.searchsorted(train, later, side="right")
        share = float(after.mean() / len(train))
        pairs = (
            f"in {share:.1%} of all pairs of a training and a {split} row, the {split} row is the "
            "earlier"
        )
        if share > MOST_REVERSED:
            message = f"{split} lies before train: {pairs}"
            yield finding("time-reversed", message, column, split, {"share": share})
        elif share > LEAST_INTERLEAVED:
            message = f"{split} is not after train: {pairs}"
            yield finding("time-interleaved", message, column, split, {"share": share})


def user_findings(column: str, users: Mapping[str, Coded]) -> Iterator[Finding]:
    """Yield the share of later splits' rows that belongs to users in train."""
    for split, later in users.items():
        if split == "train":
            continue
        rows = int(later.counts[1:].sum())
        known = int(np.count_nonzero(later.counts[1:]))
        if users["train"].nulls and later.nulls:  # null has a code of its own, and is no user
            rows, known = rows - later.nulls, known - 1
        share = rows / len(later.codes)
        message = f"{share:.1%} of the rows of {split} are of {known:,} users who are in train too"
        numbers = {"rows": rows, "share": share, "users": known}
        yield finding("user-overlap", message, column, split, numbers)
