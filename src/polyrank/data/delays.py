"""Labels that time decides: when an impression was, when its event came, when the log was cut.

Letters: W a delay's window, d from an impression to its event, e from an impression to the cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.read import collect_chunks, column_names
from polyrank.data.split import ISO_OFFSET, ordered
from polyrank.delay import Delay
from polyrank.delay.method import IMMATURE
from polyrank.errors import DataError
from polyrank.labels.kind import Remark
from polyrank.schema import Schema, Task

_NUMBERS, _DATES, _ZONED = "numbers", "dates", "dates with a UTC offset"


@dataclass(frozen=True, eq=False)
class Times:
    """A column of times.

    Args:
        moments: Float64 of numbers, else Datetime in microseconds, of UTC where it has an offset.
        form: what they are, in words; None where all are missing.
    """

    moments: pl.Series
    form: str | None

    @classmethod
    def of(cls, times: pl.Series) -> Times:
        """Read a column; DataError for what is neither numbers, dates nor ISO 8601 text."""
        if times.null_count() == len(times):
            return cls(times.cast(pl.Float64, strict=False), None)
        if times.dtype == pl.String:
            found = ordered(times)
            if found.dtype != pl.String:
                return cls.of(found)
            return cls._of_text(times, found)
        if times.dtype.is_numeric():
            return cls(times.cast(pl.Float64).fill_nan(None), _NUMBERS)
        if times.dtype == pl.Date:
            return cls(times.cast(pl.Datetime("us")), _DATES)
        if isinstance(times.dtype, pl.Datetime):
            if times.dtype.time_zone is None:
                return cls(times.cast(pl.Datetime("us")), _DATES)
            utc = times.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return cls(utc.cast(pl.Datetime("us")), _ZONED)
        raise DataError(
            f"the times in {times.name!r} must be numbers of seconds, dates, or ISO 8601 text, got "
            f"{times.dtype}"
        )

    @classmethod
    def _of_text(cls, times: pl.Series, local: pl.Series) -> Times:
        """Read ISO 8601 text, of which `local` has no offset."""
        first = times.drop_nulls()[0]
        text = local.str.replace(" ", "T").str.replace(",", ".")
        length = len(str(local.drop_nulls()[0]))
        form = {10: "%Y-%m-%d", 16: "%Y-%m-%dT%H:%M"}.get(length, "%Y-%m-%dT%H:%M:%S%.f")
        if length == 10:
            moments = text.str.to_date(form).cast(pl.Datetime("us"))
        else:
            moments = text.str.to_datetime(form, time_unit="us")
        found = pl.Series([first]).str.extract(ISO_OFFSET)[0]
        if found is None:
            return cls(moments, _DATES)
        if found != "Z":
            sign = -1 if found[0] == "-" else 1
            minutes = sign * (60 * int(found[1:3]) + int(found[-2:]))
            moments = moments - pl.duration(minutes=minutes, time_unit="us")
            moments = pl.select(moments).to_series()
        return cls(moments, _ZONED)

    @property
    def seconds(self) -> np.ndarray:
        """Float64 (rows,), NaN where it is missing."""
        if isinstance(self.moments.dtype, pl.Datetime):
            return self.moments.dt.epoch("us").cast(pl.Float64).to_numpy() / 1e6
        return self.moments.to_numpy()

    @property
    def latest(self) -> str | float | None:
        """The latest, as `now` is written; None where all are missing."""
        found: Any = self.moments.max()
        if found is None or isinstance(found, float):
            return found
        return found.isoformat() + ("+00:00" if self.form == _ZONED else "")


@dataclass(frozen=True, eq=False)
class Late:
    """A task's label as it is learned, and the two times beside it in windows: float32 (rows,).

    Args:
        label: `IMMATURE` where e < W; else 1 where the event came within W, and 0 or NaN.
        elapsed: e ÷ W; NaN where the label was not observed.
        delay: d ÷ W; NaN without an event.
    """

    label: np.ndarray
    elapsed: np.ndarray
    delay: np.ndarray


@dataclass(frozen=True)
class DelayStatistics:
    """What a log shows of a task that is known late.

    Args:
        rows: all of them.
        immature: those younger than the window.
        events: those whose event came within its window and before the cut.
        early_events: those of these that are younger than the window.
        late_events: those whose event came after the window, which counts as none.
        window_seconds: of the task.
        now: the log's cut.
    """

    rows: int
    immature: int
    events: int
    early_events: int
    late_events: int
    window_seconds: float
    now: str | float | None


def cuts(frame: pl.LazyFrame | pl.DataFrame, schema: Schema, split: str) -> dict[str, float]:
    """Return the cut of a log in seconds, by task with a delay.

    Raises:
        DataError: a log without times, or training rows after the cut that the task names.
    """
    if not schema.delays:
        return {}
    span, found = _Span.of(frame, schema, split), {}
    for name, delay in schema.delays.items():
        found[name] = span.end
        if delay.now is not None:
            own = Times.of(pl.Series("now", [delay.now]))
            where = f"{split}: delay of task {name!r}: now"
            _refuse_mixed(own.form, span.form, f"{where} = {delay.now!r}", schema.keys.time)
            now = float(own.seconds[0])
            if now < span.end and split == "train":
                raise DataError(
                    f"{where} = {delay.now!r} lies before the latest impression, at "
                    f"{span.latest!r}: say when the log was read, or leave now out"
                )
            found[name] = max(now, span.end)
    return found


def with_cut(schema: Schema, train: pl.LazyFrame | pl.DataFrame) -> Schema:
    """Return the schema whose delays have what they take from the training rows."""
    if not schema.delays:
        return schema
    ends, span = cuts(train, schema, "train"), _Span.of(train, schema, "train")
    tasks = [
        task
        if task.delay is None
        else replace(task, delay=task.delay.closed(span.latest, ends[task.name] - span.start))
        for task in schema.tasks
    ]
    return replace(schema, tasks=tuple(tasks))


def late(
    frame: pl.DataFrame, schema: Schema, task: Task, label: np.ndarray, cut: float
) -> tuple[Late, tuple[Remark, ...]]:
    """Return what time makes of a task's label, and what its times show.

    Args:
        frame: rows with the times.
        schema: names the time of the impression.
        task: one with a delay.
        label: float32 (rows,), NaN where it was not observed.
        cut: of the log, in seconds.
    """
    delay, key = task.delay, schema.keys.time
    assert delay is not None
    assert key is not None
    shown, event = Times.of(frame[key]), Times.of(frame[delay.time])
    _refuse_mixed(event.form, shown.form, f"task {task.name!r}: its times {delay.time!r}", key)
    start, window = shown.seconds, delay.window_seconds
    e, d = cut - start, event.seconds - start
    happened, timed = label == 1, ~np.isnan(event.seconds)
    d = np.where(happened, d, np.nan)
    past = d > window
    immature = e < window
    learned = np.where(immature, np.float32(IMMATURE), np.where(past, np.float32(0), label))
    known = np.where(np.isnan(label), np.nan, e) / window
    found = Late(learned, known.astype(np.float32), (d / window).astype(np.float32))
    return found, tuple(_remarks(task, delay, key, start, happened, timed, d, e, immature))


def _remarks(
    task: Task, delay: Delay, key: str, start: np.ndarray, happened: np.ndarray,
    timed: np.ndarray, d: np.ndarray, e: np.ndarray, immature: np.ndarray,
) -> Iterator[Remark]:  # fmt: skip
    window = f"the window of {delay.window!r}" + "s" * (not isinstance(delay.window, str))
    yield Remark(
        "no-time", key, np.isnan(start), f"no time {key!r} of its impression",
        "", refused=True,
    )  # fmt: skip
    yield Remark(
        "no-time", delay.time, happened & ~timed, f"no time {delay.time!r} of its event",
        "", refused=True,
    )  # fmt: skip
    yield Remark(
        "event-before-impression", delay.time, d < 0,
        f"a time {delay.time!r} before that of its impression, {key!r}", "", refused=True,
    )  # fmt: skip
    yield Remark(
        "time-without-event", delay.time, ~happened & timed,
        f"a time {delay.time!r} and no event", "the label says what happened",
    )  # fmt: skip
    yield Remark(
        "late-event", delay.time, d > delay.window_seconds,
        f"an event after {window}", "it counts as none",
    )  # fmt: skip
    yield Remark(
        "after-the-cut", delay.time, (d > e) & (d <= delay.window_seconds),
        "an event after the log's cut", "it is not known yet: now says when the log was read",
    )  # fmt: skip
    yield Remark(
        "immature", delay.time, immature,
        f"an impression younger than {window} at the log's cut",
        "they leave every term whose path has the task"
        if task.supervision is not delay
        else f"only the terms of {delay.name!r} learn from them",
    )  # fmt: skip


def known_early(schema: Schema, labels: np.ndarray, task: str) -> np.ndarray:
    """Return the label of a task with a delay as it was known at the cut: float64 (rows,).

    Args:
        schema: of the log.
        labels: columns as `late_columns` returns them.
        task: its name.
    """
    names = [each.name for each in schema.tasks]
    column = len(names) + 2 * list(schema.delays).index(task)
    label, e, d = (labels[:, each] for each in (names.index(task), column, column + 1))
    early = np.where(np.isnan(e), np.nan, (d <= e) & (d <= 1))
    return np.where(label == IMMATURE, early, label).astype(np.float64)


def statistics(schema: Schema, labels: np.ndarray) -> dict[str, DelayStatistics]:
    """Return what the label columns of a table show of each task with a delay."""
    found = {}
    names = [task.name for task in schema.tasks]
    for index, (name, delay) in enumerate(schema.delays.items()):
        label = labels[:, names.index(name)]
        e, d = labels[:, len(names) + 2 * index], labels[:, len(names) + 2 * index + 1]
        immature, known = label == IMMATURE, (d <= e) & (d <= 1)
        found[name] = DelayStatistics(
            rows=len(labels),
            immature=int(immature.sum()),
            events=int(known.sum()),
            early_events=int((known & immature).sum()),
            late_events=int((d > 1).sum()),
            window_seconds=delay.window_seconds,
            now=delay.now,
        )
    return found


def late_columns(
    frame: pl.DataFrame, schema: Schema, labels: np.ndarray, cut: Mapping[str, float]
) -> np.ndarray:
    """Return label columns (N, T) as time decides them, then e ÷ W and d ÷ W of each delay.

    Shape:
        float32 (N, T + 2·delays)
    """
    more = []
    for index, task in enumerate(schema.tasks):
        if task.delay is not None:
            found, _ = late(frame, schema, task, labels[:, index], cut[task.name])
            labels[:, index] = found.label
            more += [found.elapsed, found.delay]
    return np.column_stack([labels, *more]) if more else labels


@dataclass(frozen=True)
class _Span:
    """The first and the last time of a log's impressions, in seconds."""

    start: float
    end: float
    latest: str | float  # the last one, as `now` is written
    form: str | None

    @classmethod
    def of(cls, frame: pl.LazyFrame | pl.DataFrame, schema: Schema, split: str) -> _Span:
        """Read the times by chunks; DataError where there are none."""
        key, found = schema.keys.time, None
        if key not in column_names(frame):
            raise DataError(
                f"{split}: a delay needs the time of impressions, and {key!r} is no column"
            )
        for part in collect_chunks(frame, [key]):
            times = Times.of(part[key])
            if times.latest is None:
                continue
            seconds = times.seconds
            own = cls(
                float(np.nanmin(seconds)), float(np.nanmax(seconds)), times.latest, times.form
            )
            if found is not None:
                _refuse_mixed(own.form, found.form, f"{split}: some times", key)
                last = own if own.end > found.end else found
                own = replace(last, start=min(own.start, found.start))
            found = own
        if found is None:
            raise DataError(f"{split}: a delay needs the time of impressions, and {key!r} has none")
        return found


def _refuse_mixed(own: str | None, impressions: str | None, what: str, key: str | None) -> None:
    if own is not None and own != impressions:
        raise DataError(
            f"{what} are {own}, and the times of impressions in {key!r} are {impressions}: write "
            "both in one way"
        )
