"""What a model has learned from, so that a warm start does not learn it twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from polyrank.data import checksums
from polyrank.data.read import Joined, collect, column_names, count_rows, files, read
from polyrank.errors import DataError
from polyrank.features.hashing import stable64
from polyrank.features.ids import plain_ids
from polyrank.paths import store_of
from polyrank.schema import Schema

Moment = int | float | str


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The training rows of one run, as its bundle and all that start from it keep them.

    Args:
        rows: how many they were.
        start: the version of the bundle that the run started from; None from scratch.
        time: the column of time, if the schema declares one that the rows have.
        first: its least value; a date or a time as its text.
        last: its greatest value.
        fingerprints: without a time, a SHA-256 of each file of this machine, or of the rows of
            anything else.
        retained: share of what earlier rows told that still counted in the run.
    """

    rows: int
    start: str | None = None
    time: str | None = None
    first: Moment | None = None
    last: Moment | None = None
    fingerprints: Sequence[str] = ()
    retained: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprints", tuple(self.fingerprints))


def learned_of(source: Any, schema: Schema) -> Learned:
    """Return what training rows are known by: their span of time, else what they hold.

    Examples:
        >>> from polyrank.schema import Keys, SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click")], Keys(time="day"))
        >>> found = learned_of({"item": [1, 2], "click": [0, 1], "day": [3, 4]}, schema)
        >>> found.rows, found.first, found.last
        (2, 3, 4)
    """
    rows = source.rows if isinstance(source, Joined) else source
    frame, time = read(rows, schema), schema.keys.time
    if time is not None and time in column_names(frame):
        return _of_times(frame, time)
    if isinstance(rows, str | Path) and store_of(rows) is None:
        found = checksums.of_files(files(str(rows)))
        return Learned(rows=count_rows(frame), fingerprints=found)
    return Learned(rows=count_rows(frame), fingerprints=[fingerprint(frame, schema)])


def _of_times(frame: pl.LazyFrame, time: str) -> Learned:
    column = pl.col(time)
    try:
        found = frame.select(
            pl.len().alias("rows"), column.null_count().alias("nulls"),
            column.min().alias("first"), column.max().alias("last"),
        ).collect(engine="streaming")  # fmt: skip
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"the time {time!r} cannot be read: {error}") from None
    if nulls := int(found["nulls"][0]):
        raise DataError(
            f"the time {time!r} is null in {nulls:,} training rows: a later warm start could not "
            "tell whether it has learned them; drop these rows, or leave time out of [keys]"
        )
    first, last = (_moment(found[name]) for name in ("first", "last"))
    return Learned(rows=int(found["rows"][0]), time=time, first=first, last=last)


def _moment(column: pl.Series) -> Moment | None:
    return (column if column.dtype.is_numeric() else column.cast(pl.String)).item()


def fingerprint(frame: pl.LazyFrame, schema: Schema) -> str:
    """Return a SHA-256 of the columns of a schema, which depends on the order of the rows.

    Examples:
        >>> from polyrank.schema import SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click")])
        >>> rows = pl.LazyFrame({"item": [1, 2], "click": [0, 1], "other": [5, 6]})
        >>> fingerprint(rows, schema) == fingerprint(rows.drop("other"), schema)
        True
        >>> fingerprint(rows, schema) == fingerprint(rows.reverse(), schema)
        False
    """
    known = column_names(frame)
    wanted = dict.fromkeys([*schema.inputs, *(task.label for task in schema.tasks)])
    digest = hashlib.sha256()
    for name, column in (
        collect(frame, [each for each in wanted if each in known]).to_dict().items()
    ):
        digest.update(name.encode())
        while isinstance(column.dtype, pl.List | pl.Array):
            listed = column.cast(pl.List(column.dtype.inner))
            digest.update(listed.list.len().fill_null(-1).cast(pl.Int64).to_numpy().tobytes())
            column = listed.explode(empty_as_null=False)
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if column.dtype.is_float():
            held = column.fill_null(0.0).cast(pl.Float64).to_numpy()
        else:
            plain = plain_ids(column)
            if plain.dtype != pl.Int64:
                plain = plain.cast(pl.String)
            held = stable64(plain.fill_null(0 if plain.dtype == pl.Int64 else ""))
        digest.update(held.tobytes())
    return digest.hexdigest()


def share_of_last(learned: Sequence[Learned]) -> float:
    """Return the share of the last run's rows in all rows that still count.

    Rows of n runs ago count by the product of the shares that each run since retained.

    Examples:
        >>> runs = [Learned(rows=300), Learned(rows=50, retained=0.5), Learned(rows=50, retained=1)]
        >>> share_of_last(runs)  # 50 of 150 + 50 + 50
        0.2
    """
    total = 0.0
    for each in learned:
        total = each.rows + (1.0 if each.retained is None else each.retained) * total
    return learned[-1].rows / total


def refuse_learned(new: Learned, before: Sequence[Learned]) -> None:
    """Refuse rows that a model has learned: they would count twice in what it knows.

    Raises:
        DataError: rows at or before the last time, or files or rows that were there before.
    """
    known = [each for each in before if each.rows]
    for each in known:
        if each.time is None or new.time is None:
            continue
        if each.time != new.time:
            raise DataError(
                f"the earlier rows are known by their time {each.time!r}, and the new ones have "
                f"{new.time!r}: name the same column as time in [keys]"
            )
        assert new.first is not None
        assert each.last is not None
        if isinstance(new.first, str) != isinstance(each.last, str):
            raise DataError(
                f"the time {new.time!r} was such as {each.last!r}, and is now such as "
                f"{new.first!r}: write it as one type"
            )
        if new.first <= each.last:  # pyrefly: ignore
            raise DataError(
                f"the training rows begin at {new.time} {new.first!r}, and the model has learned "
                f"rows up to {each.last!r}: they would count twice; keep those after it, or train "
                "from scratch without start"
            )
    seen = {found for each in known for found in each.fingerprints}
    twice = sum(found in seen for found in new.fingerprints)
    if twice:
        raise DataError(
            f"{twice} of {len(new.fingerprints)} files or frames of training rows were learned by "
            "the model before, and would count twice: give new rows alone, or train from scratch "
            "without start; with a time in [keys], a warm start tells by that"
        )
    if any((each.time is None) != (new.time is None) for each in known):
        raise DataError(
            "the earlier rows are known by "
            f"{'their time' if new.time is None else 'what they hold'}, and the new ones by "
            f"{'what they hold' if new.time is None else 'their time'}, so that it cannot be told "
            "whether some were learned before: declare time in [keys] for both or for neither"
        )
