"""Replay of a log: each period is scored by the model of the period before, and then learned.

OUT/
  replay.json               what is replayed, and of finished periods what they scored and cost
  before/                   the run on all rows before the first period, from which all start
  STRATEGY/PERIOD/          the run that has learned a period
  STRATEGY/PERIOD.json      what the model before scored on it, and what learning it cost

A period counts once its file is there, which is written whole or not at all, after its run.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import quote

import polars as pl

from polyrank import spec
from polyrank.bundle.model import Bundle, load
from polyrank.data.read import known_columns
from polyrank.data.split import ISO_OFFSET, ordered, split
from polyrank.errors import ConfigError, DataError, TrainingError, did_you_mean
from polyrank.files import replacing, replacing_folder, writing
from polyrank.metrics.scorecard import Scorecard
from polyrank.text import aligned
from polyrank.train.run import only_writer
from polyrank.train.start import Start

logger = logging.getLogger(__name__)

RECORD = "replay.json"
FORMAT = 1  # of the record
MOST_PERIODS = 1000
BEFORE = "before"
# Rows (training, validation), what the run starts from, its folder, and whether it is resumed.
Fit = Callable[[Any, Any, "Start | None", Path, bool], Bundle]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How a period is learned.

    Args:
        name: of its column and its folder.
        starts: from the model of the period before; otherwise from scratch.
        window: periods that a model from scratch learns, this one included; None is all so far.
        retain: share of what wide rows learned of earlier periods that still counts.

    Examples:
        >>> [each.name for each in strategies(retain=0.8)]
        ['scratch', 'warm', 'forget']
    """

    name: str
    starts: bool = True
    window: int | None = None
    retain: float = 1.0


def strategies(window: int | None = None, retain: float = 0.9) -> tuple[Strategy, ...]:
    """Return the three that a replay compares: from scratch, warm start, and with forgetting."""
    if window is not None:
        spec.whole("window", window)
    spec.number("retain", retain, above=0, below=1)
    return (
        Strategy(name="scratch", starts=False, window=window),
        Strategy(name="warm"),
        Strategy(name="forget", retain=float(retain)),
    )


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One period under one strategy.

    Args:
        period: as text.
        strategy: its name.
        rows: of the period, all scored.
        scorecard: of the model that had learned everything before, on them.
        learned: training rows of the run that then learned it.
        seconds: that this run took, encoding included.
        resumed: whether the run was interrupted, so that `seconds` is of its end alone.
    """

    period: str
    strategy: str
    rows: int
    scorecard: Scorecard
    learned: int
    seconds: float
    resumed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        own = {name: value for name, value in vars(self).items() if name != "scorecard"}
        return own | {"scorecard": self.scorecard.to_json()}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Replayed:
        """Read what `to_json` returned."""
        plain = {name: value for name, value in table.items() if name != "scorecard"}
        return cls(scorecard=Scorecard.from_json(table["scorecard"]), **plain)


@dataclass(frozen=True)
class Replay:
    """A finished replay; prints one line a period.

    Args:
        folder: which holds its runs.
        cells: by period, then by strategy.
        score: the score that is shown, such as `click @ all`.
        metric: of it.
    """

    folder: Path
    cells: tuple[Replayed, ...]
    score: str
    metric: str

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names of the strategies, in order."""
        return tuple(dict.fromkeys(each.strategy for each in self.cells))

    @property
    def periods(self) -> tuple[str, ...]:
        """The periods, in order."""
        return tuple(dict.fromkeys(each.period for each in self.cells))

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "format": FORMAT,
            "folder": str(self.folder),
            "score": self.score,
            "metric": self.metric,
            "periods": [each.to_json() for each in self.cells],
        }

    def frame(self) -> pl.DataFrame:
        """Return a row a period and strategy: value, low and high of the metric, and the cost."""
        lines = []
        for each in self.cells:
            found = each.scorecard[self.score].metrics.get(self.metric, {})
            value, low, high = (found.get(name) for name in ("value", "low", "high"))
            lines.append(
                {
                    "period": each.period, "strategy": each.strategy, "rows": each.rows,
                    "value": value, "low": low, "high": high, "learned": each.learned,
                    "seconds": each.seconds,
                }
            )  # fmt: skip
        types = dict.fromkeys(("value", "low", "high"), pl.Float64)
        return pl.DataFrame(lines, schema_overrides=types)

    def __str__(self) -> str:
        frame = self.frame()
        header = ["period", "rows", *self.strategies]
        lines = []
        for period in self.periods:
            own = frame.filter(pl.col("period") == period)
            lines.append([period, f"{own['rows'][0]:,}", *map(_shown, own.iter_rows(named=True))])
        costs = []
        # The first strategy is from scratch, where that was chosen: the others are its share.
        dearest = frame.filter(pl.col("strategy") == self.strategies[0])["seconds"][-1]
        for name in self.strategies:
            own = frame.filter(pl.col("strategy") == name)
            last = own.row(-1, named=True)
            costs.append(
                [
                    name,
                    f"{own['learned'].sum():,}",
                    f"{own['seconds'].sum():.1f}",
                    f"{last['learned']:,}",
                    f"{last['seconds']:.1f}",
                    f"{100 * last['seconds'] / dearest:.0f} %",
                ]
            )
        cost = ["strategy", "rows learned", "seconds", "of the last", "seconds of the last"]
        cost.append(f"of {self.strategies[0]}'s")
        return (
            f"{self.score}, {self.metric}, each period by the model of the one before\n"
            f"{aligned(header, lines, right=[1])}\n\n{aligned(cost, costs, right=[1, 2, 3, 4, 5])}"
        )


def _shown(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    if row["low"] is None:
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"


@dataclass(frozen=True)
class Periods:
    """A log cut by a column of time.

    Args:
        frame: its rows, with their period in the column `name`.
        name: of that column.
        known: all periods that occur, in order.
        chosen: those that are replayed, in order.
    """

    frame: pl.LazyFrame
    name: str
    known: tuple[Any, ...]
    chosen: tuple[Any, ...]

    @classmethod
    def of(
        cls, frame: pl.LazyFrame, by: str, *, every: str | None = None,
        first: Any = None, last: Any = None,
    ) -> Periods:  # fmt: skip
        """Cut a log.

        Args:
            frame: its rows.
            by: the column whose values are periods, or times where `every` is given.
            every: the length of a period: "1d" of a time, or a number of the column's unit.
            first: period; by default the second one that occurs. It needs one before it.
            last: period; by default the last one.

        Raises:
            DataError: no such column, one with nulls, too many values for periods, or text that is
                neither numbers nor ISO 8601.
            ConfigError: a period that is none, or no row before the first.
        """
        known_columns(frame, [by])
        kind, name = frame.select(by).collect_schema()[by], "#period"
        column = pl.col(by)
        if every is not None:
            if kind == pl.String:  # as CSV files have them
                column, kind = _read(frame, by)
            column = _cut(column, by, kind, every)
        frame = frame.with_columns(column.alias(name))
        values = frame.select(pl.col(name).unique()).collect(engine="streaming")[name].sort()
        if values.null_count():
            raise DataError(f"{by!r} is null in some rows, which belong to no period: drop them")
        if len(values) > MOST_PERIODS:
            raise DataError(
                f"{by!r} has {len(values):,} values, too many for periods "
                f"(at most {MOST_PERIODS:,}): give the length of a period, such as --every 1d of a "
                "time, or 86400 of seconds"
            )
        known = tuple(values.to_list())
        if len(known) < 2:
            raise ConfigError(f"a replay needs at least two periods of {by!r}, got {len(known)}")
        begin = known[1] if first is None else _value(first, values, by, "from")
        end = known[-1] if last is None else _value(last, values, by, "to")
        chosen = tuple(each for each in known if begin <= each <= end)
        if not chosen:
            raise ConfigError(
                f"no period of {by!r} lies from {begin} to {end}: it has {known[0]} to {known[-1]}"
            )
        if chosen[0] == known[0]:
            raise ConfigError(
                f"there is no row before the first period, {chosen[0]}, to learn from: begin at "
                f"{known[1]} or later"
            )
        return cls(frame, name, known, chosen)

    def rows(self, *periods: Any) -> pl.LazyFrame:
        """Return the rows of some periods, without their column."""
        values = pl.Series(periods)
        return self.frame.filter(pl.col(self.name).is_in(values.implode())).drop(self.name)


def _read(frame: pl.LazyFrame, by: str) -> tuple[pl.Expr, pl.DataType]:
    """Return a column of text as numbers, or as times of the clock that it was written by."""
    texts = frame.select(pl.col(by).drop_nulls().unique()).collect(engine="streaming")[by]
    local = ordered(texts)
    if local.dtype != pl.String:
        return pl.col(by).cast(local.dtype), local.dtype
    length = max(map(len, local), default=0)
    form = {10: "%Y-%m-%d", 16: "%Y-%m-%dT%H:%M"}.get(length, "%Y-%m-%dT%H:%M:%S%.f")
    text = pl.col(by).str.replace(ISO_OFFSET, "").str.replace(" ", "T").str.replace(",", ".")
    day = text.str.to_date(form).cast(pl.Datetime("us"))
    read = day if length == 10 else text.str.to_datetime(form, time_unit="us")
    return read, pl.Datetime("us")


def _cut(column: pl.Expr, by: str, kind: pl.DataType, every: str) -> pl.Expr:
    if kind.is_temporal():
        try:
            pl.Series([None], dtype=pl.Datetime).dt.truncate(every)
        except pl.exceptions.PolarsError:
            raise ConfigError(f"every must be a duration such as '1d', got {every!r}") from None
        return column.dt.truncate(every)
    if not kind.is_numeric():
        raise ConfigError(
            f"every cuts a time or a number, and {by!r} is a column of {kind}: leave it out"
        )
    try:
        length = float(every)
    except ValueError:
        length = 0.0
    if not length > 0:
        raise ConfigError(
            f"every must be a number above 0 of the unit of {by!r}, which holds numbers, got "
            f"{every!r}"
        )
    return ((column / length).floor() * length).cast(kind if kind.is_integer() else pl.Float64)


def _value(given: Any, values: pl.Series, by: str, what: str) -> Any:
    """Return a period that was given as text in the type of the column."""
    try:
        if values.dtype.is_temporal():
            return pl.Series([str(given)]).str.to_datetime().cast(values.dtype).item()
        return pl.Series([str(given)]).cast(values.dtype).item()
    except pl.exceptions.PolarsError:
        raise ConfigError(
            f"{what} must be a period of {by!r}, such as {values[0]}, got {given!r}"
        ) from None


def replay(
    periods: Periods,
    chosen: Sequence[Strategy],
    fit: Fit,
    *,
    out: Path,
    settings: Mapping[str, Any],
    valid: float = 0.1,
    seed: int = 0,
    begun: Start | None = None,
    score: str,
    metric: str,
    resume: bool = False,
    force: bool = False,
) -> Replay:
    """Score each period by the model of the one before, then learn it, under each strategy.

    Args:
        periods: the log.
        chosen: the strategies.
        fit: trains a run, as its `Fit` says.
        out: the folder of the runs.
        settings: plain data that say what is replayed; a resumed replay must have the same.
        valid: share of the rows of each run that are held out to choose its epoch and calibrate.
        seed: of the held-out rows.
        begun: what the run before the first period starts from.
        score: that is shown.
        metric: that is shown.
        resume: go on where an earlier call ended; finished periods stay as they are.
        force: replace what is in `out`.

    Raises:
        ConfigError: a folder that holds something else, or another replay.
        DataError, TrainingError: as of a single run.
    """
    spec.number("valid", valid, least=0, below=1)

    def learned(train: Any, start: Start | None, folder: Path) -> tuple[Bundle, float, bool]:
        begun_at, resumed = perf_counter(), folder.exists()
        rows, held = train, None
        if valid > 0:
            rows, held, _ = split(train, "random", (1 - valid, valid, 0.0), None, seed)
        bundle = fit(rows, held, start, folder, resumed)
        return bundle, perf_counter() - begun_at, resumed

    with _folder(out, settings, resume=resume, force=force):
        before = out / BEFORE
        if not (before / "bundle").is_dir():
            at = periods.known.index(periods.chosen[0])
            learned(periods.rows(*periods.known[:at]), begun, before)
        runs = {each.name: before for each in chosen}
        cells: list[Replayed] = []
        for period in periods.chosen:
            for each in chosen:
                folder = out / each.name / quote(str(period), safe="")
                file = folder.with_name(f"{folder.name}.json")
                cell = _known(file)
                if cell is None:
                    day = periods.rows(period)
                    card = load(runs[each.name]).evaluate(day)
                    train, start = day, None
                    if each.starts:
                        start = Start(run=str(runs[each.name]), retain=each.retain)
                    else:
                        end = periods.known.index(period) + 1
                        train = periods.rows(*periods.known[:end][-(each.window or end) :])
                    bundle, seconds, resumed = learned(train, start, folder)
                    cell = Replayed(
                        period=str(period), strategy=each.name,
                        rows=int(day.select(pl.len()).collect().item()), scorecard=card,
                        learned=bundle.learned[-1].rows, seconds=seconds, resumed=resumed,
                    )  # fmt: skip
                    _put(file, cell.to_json())
                    logger.info("%s, %s: %.1f s", each.name, period, seconds)
                cells.append(cell)
                runs[each.name] = folder
                so_far = Replay(out, tuple(cells), score, metric)
                _put(out / RECORD, {**so_far.to_json(), "settings": settings})
    return Replay(out, tuple(cells), score, metric)


def strategies_named(names: Sequence[str], known: Sequence[Strategy]) -> tuple[Strategy, ...]:
    """Return the strategies of some names, in their order; all without a name."""
    by_name = {each.name: each for each in known}
    for name in names:
        if name not in by_name:
            raise ConfigError(f"unknown strategy {name!r}{did_you_mean(name, by_name)}")
    return tuple(by_name[name] for name in dict.fromkeys(names)) or tuple(known)


@contextmanager
def _folder(
    out: Path, settings: Mapping[str, Any], *, resume: bool, force: bool
) -> Generator[None]:
    """Keep others out of a folder, and make it that of this replay."""
    if resume and force:
        raise ConfigError("resume continues a replay and force replaces it: give one of them")
    with only_writer(out, "replaying into"):
        if out.exists():
            _check_folder(out, settings, resume=resume, force=force)
            if force:
                shutil.rmtree(out)
        if not out.exists():
            with writing(out, TrainingError), replacing_folder(out) as temporary:
                _put(temporary / RECORD, {"format": FORMAT, "periods": [], "settings": settings})
        yield


def _check_folder(out: Path, settings: Mapping[str, Any], *, resume: bool, force: bool) -> None:
    """Refuse a folder that this replay may not write to."""
    record = out / RECORD
    if not record.is_file():
        raise ConfigError(f"{out} exists and holds no replay: choose another --out")
    if force:
        return
    if not resume:
        raise ConfigError(
            f"{out} exists: go on with --resume, replace it with --force, or choose another --out"
        )
    if json.loads(record.read_text(encoding="utf-8")).get("settings") != settings:
        raise ConfigError(
            f"{out} holds a replay of another experiment, or with other options: --resume needs "
            "the same ones; use --force or another --out"
        )


def _known(file: Path) -> Replayed | None:
    """Return a finished period."""
    if not file.is_file():
        return None
    try:
        return Replayed.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{file} is damaged ({error}): remove it, and --resume") from error


def _put(path: Path, table: Mapping[str, Any]) -> None:
    with writing(path, TrainingError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            text = json.dumps(table, ensure_ascii=False, indent=1, default=str)
            temporary.write_text(f"{text}\n", encoding="utf-8")


def settings_of(config: Mapping[str, Any], chosen: Sequence[Strategy], **options: Any) -> dict:
    """Return what says which replay it is, as plain data that JSON keeps."""
    table = {
        "experiment": config,
        "strategies": [asdict(each) for each in chosen],
        **{name: None if value is None else str(value) for name, value in options.items()},
    }
    return json.loads(json.dumps(table, default=str))
