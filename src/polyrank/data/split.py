"""One log into training, validation and test rows: at random, by time, or by user."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose
from typing import Literal, get_args

import numpy as np
import polars as pl

from polyrank.data.read import collect, column_names
from polyrank.errors import DataError, did_you_mean
from polyrank.features.ids import as_type, id_type
from polyrank.text import counted

By = Literal["random", "time", "user"]
Splits = tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame]


def split(
    frame: pl.LazyFrame | pl.DataFrame,
    by: By,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    column: str | None = None,
    seed: int = 0,
) -> Splits:
    """Return training, validation and test rows, each in the order of the log.

    `random` permutes row numbers, so it depends on the order of rows. `user` keeps all rows of a
    user together and `time` trains on the earliest rows; neither depends on the order. Equal times
    stay together. Fractions are of rows, or of users. The column is the user, or the time: numbers,
    dates, datetimes, or text as in `ordered`.
    """
    cuts = _cuts(fractions)
    log = frame.lazy()
    if by not in get_args(By):
        raise DataError(f"unknown split {by!r}{did_you_mean(by, get_args(By))}")
    if by == "random":
        return _random(log, cuts, seed)
    known = column_names(log)
    if column is None:
        raise DataError(
            f"a split by {by} needs column, the {by}'s column (known: "
            f"{', '.join(map(repr, known[:20]))})"
        )
    values = collect(log, [column])[column]
    return _time(log, values, cuts) if by == "time" else _user(log, values, cuts, seed)


def _cuts(fractions: Sequence[float]) -> tuple[float, float]:
    parts = [float(part) for part in fractions]
    if len(parts) != 3 or not all(part >= 0 for part in parts) or not isclose(sum(parts), 1):
        raise DataError(
            "fractions must be three numbers of at least 0 that sum to 1 (train, valid, test), got "
            f"{list(fractions)}"
        )
    if parts[0] == 0:
        raise DataError(f"the training fraction must be above 0, got {list(fractions)}")
    # A part of 0 stays empty whatever the rounding of the sums.
    return parts[0], 1.0 if parts[2] == 0 else parts[0] + parts[1]


def _assigned(size: int, cuts: tuple[float, float]) -> np.ndarray:
    """Split 0, 1 or 2 of places 0 … size − 1."""
    first, second = (round(cut * size) for cut in cuts)
    places = np.arange(size)
    # One row is enough to train on, and a small log has no other.
    return (places >= max(first, 1)).astype(np.int8) + (places >= max(second, 1)).astype(np.int8)


def _random(log: pl.LazyFrame, cuts: tuple[float, float], seed: int) -> Splits:
    rows = int(collect(log.select(pl.len().alias("rows")), ["rows"]).item())
    _refuse_empty(rows)
    name = "row"
    while name in column_names(log):
        name += "_"
    of = _assigned(rows, cuts)[np.random.default_rng(seed).permutation(rows)]
    numbers = pl.Series(name, np.arange(rows, dtype=np.uint32))
    return _chosen(log.with_row_index(name), numbers, of, drop=name)


def _user(log: pl.LazyFrame, values: pl.Series, cuts: tuple[float, float], seed: int) -> Splits:
    _refuse_empty(len(values))
    keys = values.unique()
    ids = as_type(keys, id_type([keys])) if keys.dtype == pl.String else keys
    users = ids.unique().sort()  # a fixed order, whatever that of the rows
    of = _assigned(len(users), cuts)[np.random.default_rng(seed).permutation(len(users))]
    return _chosen(log, keys, _parts_of(ids, users, of))


def _time(log: pl.LazyFrame, values: pl.Series, cuts: tuple[float, float]) -> Splits:
    _refuse_empty(len(values))
    missing = values.null_count() + (int(values.is_nan().sum()) if values.dtype.is_float() else 0)
    if missing:
        raise DataError(
            f"a split by time needs a time in every row: {values.name!r} is null in "
            f"{counted(missing, 'row')}; leave them out"
        )
    counts = values.alias("key").value_counts(name="rows")
    keys = counts["key"].alias(values.name)
    moments = ordered(keys)
    times = counts.group_by(moments.alias("time")).agg(pl.col("rows").sum()).sort("time")
    rows = times["rows"].to_numpy().astype(np.int64)
    # A time that straddles a cut goes to the side where most of its rows lie.
    middle = (np.cumsum(rows) - rows / 2) / rows.sum()
    of = (middle >= cuts[0]).astype(np.int8) + (middle >= cuts[1]).astype(np.int8)
    if of[0] != 0:
        raise DataError(
            f"a split by {values.name!r} leaves no training rows: {rows[0] / rows.sum():.0%} of "
            f"the rows have its first value; raise the training fraction of {cuts[0]:g}"
        )
    return _chosen(log, keys, _parts_of(moments, times["time"], of))


def ordered(times: pl.Series) -> pl.Series:
    """Return what orders a column of times; a CSV file is ordered as the same rows are elsewhere.

    Text is ordered as numbers where it is all numbers; else it must be ISO 8601, all in one format
    and with one UTC offset, so that its order is that of the times; other text is a DataError.
    """
    if times.dtype != pl.String:
        return times
    for dtype in (pl.Int64, pl.Float64):
        numbers = times.cast(dtype, strict=False)
        if numbers.null_count() == times.null_count():
            return numbers
    present = times.drop_nulls().unique().sort()
    odd = present.filter(~present.str.contains(_ISO)).head(1)
    offsets, local = present.str.extract(ISO_OFFSET), present.str.replace(ISO_OFFSET, "")
    formats = local.str.replace(_FRACTION, "").str.replace_all(r"\d", "9")
    one_each = [present.gather(each.arg_unique()) for each in (formats, offsets)]
    if len(odd) or any(len(each) > 1 for each in one_each):
        shown = list(dict.fromkeys(text for each in (odd, *one_each) for text in each))
        raise DataError(
            f"the times in {times.name!r} must be numbers, dates, or ISO 8601 text in one format "
            f"(2024-05-31 or 2024-05-31T09:30:00), got {', '.join(map(repr, shown[:2]))}"
        )
    return times.str.replace(ISO_OFFSET, "")


ISO_OFFSET = r"(Z|[+-]\d{2}:?\d{2})$"
_FRACTION = r"[.,]\d+$"
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?$"


def _parts_of(ids: pl.Series, known: pl.Series, of: np.ndarray) -> np.ndarray:
    """Return the part of each id, where `of` has that of each known one."""
    parts, found = pl.DataFrame({"id": known, "part": of}), ids.alias("id").to_frame()
    found = found.join(parts, on="id", how="left", nulls_equal=True, maintain_order="left")
    return found["part"].to_numpy()


def _chosen(log: pl.LazyFrame, keys: pl.Series, of: np.ndarray, drop: str | None = None) -> Splits:
    parts = []
    for part in range(3):
        wanted = keys.filter(pl.Series(of == part)).to_frame().lazy()
        rows = log.join(wanted, on=keys.name, how="semi", nulls_equal=True, maintain_order="left")
        parts.append(rows.drop(drop) if drop else rows)
    return parts[0], parts[1], parts[2]


def _refuse_empty(rows: int) -> None:
    if not rows:
        raise DataError("the log has no rows to split")
