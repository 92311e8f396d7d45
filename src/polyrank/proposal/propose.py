"""A schema from the names, the types and the values of columns.

A label is told by its name, and by what no coincidence explains: a column that is 1 only where
another one is 1. All else is decided column by column; what the audit then finds to state a label,
or cannot read, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.check import check
from polyrank.data.read import Source, collect, column_names, count_rows, read
from polyrank.data.split import split
from polyrank.errors import DataError, did_you_mean
from polyrank.features import FEATURES, Feature
from polyrank.labels import LABELS, LabelKind
from polyrank.proposal import names
from polyrank.proposal.proposal import Proposal
from polyrank.proposal.proposal import names as shown
from polyrank.schema import Keys, Schema, Task
from polyrank.text import says

# Enough for rates of a thousandth; a larger log gives 20 blocks, which keep whole requests.
SAMPLE_ROWS = 200_000
BLOCKS = 20
# ln of the chance at which an implication between two columns is no coincidence.
COINCIDENCE = log(1e-6)
# So many distinct whole numbers whose middle lies at half of the largest: counts crowd at 0.
MANY, EVEN = 100, 0.15
NEARLY = 0.9  # of the rows with an outcome have its parent: the others are faults of the log
FEW = 11  # distinct whole numbers that are rather codes than amounts
_TRUTH = ("true_", "do_")
_LEFT_OUT = ("label-equal", "label-opposite", "may-state-label", "values", "nearly-unique")
_ISO = r"^\d{4}-\d{2}-\d{2}"
_DATE = r"^\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b"  # in any other order


@dataclass
class _Found:
    """What is decided so far."""

    rows: pl.DataFrame
    reasons: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    amounts: dict[str, LabelKind] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)

    def leave(self, column: str, why: str, kind: str = "sparse") -> None:
        self.features.pop(column, None)
        self.left_out[column] = kind
        self.reasons[column] = why

    def take(self, column: str, kind: LabelKind, why: str) -> None:
        self.features.pop(column)
        self.amounts[column] = kind
        self.reasons[column] = why


def infer(
    log: Source, *, labels: Sequence[str] = (), among: Sequence[str] | None = None
) -> Proposal:
    """Propose a schema for a log; deterministic.

    Args:
        log: as `polyrank.data.read.read` takes it. Of more than 200,000 rows, 20 blocks evenly
            spaced are looked at.
        labels: 0/1 columns that are labels whatever their names say.
        among: the columns to look at, such as those that all files have; None takes all.

    Raises:
        DataError: a log that cannot be read, has no rows, no feature, or no column that could be a
            label; a named label that is not there, or is not 0 and 1.

    Examples:
        >>> found = infer({"item": ["a", "b", "c", "b"] * 30, "click": [0, 1, 1, 0] * 30})
        >>> print(found.schema.objective)
        term         probability  label  rows  kind
        click @ all  P(click)     click  all   binary
    """
    frame = read(log)
    known = [name for name in column_names(frame) if among is None or name in among]
    for label in labels:
        if label not in known:
            raise DataError(f"label {label!r} is no column of the log{did_you_mean(label, known)}")
    total = count_rows(frame)
    if not total:
        raise DataError("the log has no rows: nothing can be told from its header alone")
    found = _Found(_sample(frame, known, total))
    for column in known:
        _place(found, column, labels)
    _events_by_structure(found)
    _amounts_by_name(found)
    _amounts_by_structure(found)
    if not found.events and not found.amounts:
        raise _no_label(found)
    _leave_out_twins(found)
    _funnel(found)
    by = _split_by(found)
    schema = _audited(found, by)
    return Proposal(
        schema=schema, by=by, reasons=found.reasons, left_out=found.left_out,
        rows=found.rows.height, of=total,
    )  # fmt: skip


def _sample(frame: pl.LazyFrame, columns: list[str], total: int) -> pl.DataFrame:
    if total <= SAMPLE_ROWS:
        return collect(frame, columns)
    index = "row"
    while index in columns:
        index += "_"
    period, block = total // BLOCKS, SAMPLE_ROWS // BLOCKS
    wanted = frame.with_row_index(index).filter(pl.col(index) % period < block)
    return collect(wanted, columns)


def _place(found: _Found, column: str, labels: Sequence[str]) -> None:
    """Decide what one column is, by its name, its type and its values."""
    values = found.rows[column]
    dtype, present = values.dtype, values.drop_nulls()
    binary = _is_binary(values)
    if column in labels:
        if not binary:
            raise DataError(
                f"label {column!r} must hold both 0 and 1, got "
                f"{shown([str(each) for each in present.unique(maintain_order=True).head(5)])}"
                f"{_as_events([column], values)}"
            )
        found.events.append(column)
        found.reasons[column] = f"named as a label; {_rate(values)}"
        return None
    if column.startswith(_TRUTH):
        return found.leave(
            column, "by its name it is a known truth, which no model may read", "dense"
        )
    if isinstance(dtype, pl.List | pl.Array):
        return _place_lists(found, column, values)
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration):
        return found.leave(column, f"a column of {dtype} is no feature")
    distinct = present.n_unique()
    event, past = says(column, names.EVENTS), says(column, names.PAST)
    if distinct <= 1:
        return found.leave(column, _constant(values, event if not past else None))
    if event and not past and (yes := _yes(values)):
        return found.leave(
            column,
            f"its name says {event!r}, but it is text: a label holds 0 and 1; write {yes!r} as 1",
        )
    if event and not past and binary:
        found.events.append(column)
        found.reasons[column] = f"0/1, and its name says {event!r}; {_rate(values)}"
        return None
    if (word := says(column, names.AFTERWARDS)) and not past and dtype.is_numeric():
        reason = f"its name says {word!r}: how long something took, known only afterwards"
        return found.leave(column, reason, "dense")
    if says(column, names.TIMES) and not binary and _is_time(values):
        if found.rows[column].null_count():
            return found.leave(column, "a time, but null in some rows: no key, and no feature")
        return _place_time(found, column, distinct)
    time = says(column, names.TIMES)
    if time and _is_other_date(values):
        return found.leave(
            column,
            f"its name says {time!r}, but its text is not ISO 8601, such as 2026-05-31 09:30: "
            "written so, it is the key of time, and splits the rows",
        )
    return _place_rest(found, column, values, distinct)


def _place_lists(found: _Found, column: str, values: pl.Series) -> None:
    inner: Any = values.dtype
    if inner.inner.is_nested():
        return found.leave(column, "lists of lists are no feature", "sequence")
    lengths = values.drop_nulls().list.len() if isinstance(inner, pl.List) else None
    if inner.inner.is_float():
        if lengths is None or lengths.n_unique() == 1:
            found.features[column] = "vector"
            found.reasons[column] = "a list of numbers of one length in every row"
            return None
        return found.leave(column, "lists of numbers of unlike lengths are no ids", "sequence")
    found.features[column] = "sequence"
    found.reasons[column] = "a list of ids in every row"
    return None


def _place_time(found: _Found, column: str, distinct: int) -> None:
    """Keep the finest time as the key: a clock is no feature."""
    other = found.keys.get("time")
    if other is not None and found.rows[other].n_unique() >= distinct:
        return found.leave(column, f"a time, coarser than {other!r}: a clock drifts")
    if other is not None:
        found.leave(other, f"a time, coarser than {column!r}: a clock drifts")
    found.keys["time"] = column
    found.reasons[column] = f"a time by its name and its values; {distinct:,} distinct"
    return None


def _place_rest(found: _Found, column: str, values: pl.Series, distinct: int) -> None:
    past, rows = says(column, names.PAST), found.rows.height
    if says(column, names.POSITIONS) and values.dtype.is_numeric():
        return found.leave(
            column,
            "a position is not known when rows are ranked; as a feature it needs a value for "
            f'serving: [features."{column}"] serving = 1',
            "dense",
        )
    user, request = says(column, names.USERS), says(column, names.REQUESTS)
    repeated = rows > distinct and not values.dtype.is_float()
    if request and repeated and not user and not past and "request" not in found.keys:
        found.keys["request"] = column
        found.reasons[column] = f"its name says {request!r}; {rows / distinct:.1f} rows of each"
        return None
    kind, why = _kind(column, values, distinct)
    person = column.lower() in names.PERSONS and distinct > FEW  # fewer are kinds of users
    identifies = person or says(column, ("id", "uid"))
    if user and kind == "sparse" and "user" not in found.keys and identifies:
        found.keys["user"] = column
        why = f"an id of a user by its name; {distinct:,} distinct"
    found.features[column] = kind
    found.reasons[column] = why
    return None


def _kind(column: str, values: pl.Series, distinct: int) -> tuple[str, str]:
    """Return whether a column is of ids or of numbers, and why."""
    dtype = values.dtype
    if not dtype.is_numeric():
        return "sparse", f"{_type(dtype)}; {distinct:,} distinct{_not_numbers(values)}"
    number, id_ = says(column, names.NUMBERS), says(column, names.IDS)
    if dtype.is_float():
        return "dense", f"numbers with fractions; {distinct:,} distinct"
    if id_ and not number:
        return "sparse", f"whole numbers, and its name says {id_!r}; {distinct:,} distinct"
    if number and distinct > 2:
        return "dense", f"whole numbers, and its name says {number!r}; {distinct:,} distinct"
    low, high = int(values.min()), int(values.max())  # pyrefly: ignore  (a numeric column)
    if low in (0, 1) and distinct >= 0.9 * (high - low + 1):
        return (
            "sparse",
            f"whole numbers from {low} on without gaps, as codes are; {distinct:,} distinct",
        )
    if distinct > MANY and low >= 0 and abs(_middle(values) / high - 0.5) < EVEN:
        return "sparse", f"whole numbers spread evenly, as ids are; {distinct:,} distinct"
    if distinct <= FEW:
        return "sparse", f"whole numbers; only {distinct} distinct"
    return "dense", f"whole numbers from {low:,} to {high:,}; {distinct:,} distinct"


def _not_numbers(values: pl.Series) -> str:
    """Say what keeps a column of text from being one of numbers, if little does."""
    if values.dtype != pl.String:
        return ""
    texts = values.drop_nulls().unique().sort()
    odd = texts.filter(texts.cast(pl.Float64, strict=False).is_null())
    if len(odd) in range(1, 4) and len(texts) - len(odd) > FEW:
        named = ", ".join(map(repr, odd))
        return f"; numbers but for {named}: if it is one, leave these fields empty"
    without = texts.str.replace_all(",", "", literal=True)
    if len(odd) > FEW and not without.cast(pl.Float64, strict=False).null_count():
        return f"; numbers but for commas, as in {odd[0]!r}: if it is one, write 1234.5"
    return ""


def _events_by_structure(found: _Found) -> None:
    """Find 0/1 columns that are never 1 without an event."""
    for column in _single(found):
        values = found.rows[column]
        if not _is_binary(values):
            continue
        above = _above(values)
        event = next((each for each in found.events if _implies(above, found.rows[each])), None)
        if event is not None:
            found.features.pop(column)
            found.events.append(column)
            found.reasons[column] = f"0/1, and never 1 without {event!r}; {_rate(values)}"


def _amounts_by_name(found: _Found) -> None:
    """Find numbers whose names say that they are outcomes, and which look like it."""
    for column in _single(found):
        values = found.rows[column]
        if not values.dtype.is_numeric() or says(column, names.PAST):
            continue
        for name, kind in LABELS.items():
            word = says(column, kind.words)
            proposed = word and kind.proposed(*_numbers(found, column, values.is_not_null()))
            if proposed:
                found.take(column, proposed, f"its name says {word!r}; {name}")
                break


def _amounts_by_structure(found: _Found) -> None:
    """Find numbers that are 0 or null wherever an event did not happen."""
    for column in _single(found):
        values = found.rows[column]
        event = _parent(found, column)
        if event is None or not values.dtype.is_numeric():
            continue
        read = _happened(found.rows[event]) & values.is_not_null()
        label, numbers = _numbers(found, column, read)
        why = f"0 or null without {event!r}, in {int(_above(values).sum()):,} rows not: an outcome"
        kinds = (kind.proposed(label, numbers) for kind in LABELS.values() if not kind.words)
        proposed = next(filter(None, kinds), None)
        if proposed:
            found.take(column, proposed, why)
        else:
            found.leave(column, why)


def _single(found: _Found) -> list[str]:
    """Return the features of one value a row that could be outcomes."""
    return [
        column
        for column, kind in found.features.items()
        if kind in ("sparse", "dense")
        and (found.rows[column].dtype.is_numeric() or _is_binary(found.rows[column]))
    ]


def _numbers(
    found: _Found, column: str, read: pl.Series
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a column, and the other features that are numbers, in some of the rows."""
    rows = found.rows.filter(read)
    others = [
        each
        for each, kind in found.features.items()
        if kind in ("sparse", "dense") and each != column and rows[each].dtype.is_numeric()
    ]
    every = {
        each: rows[each].cast(pl.Float64).fill_null(np.nan).to_numpy() for each in [column, *others]
    }
    return every.pop(column), every


def _funnel(found: _Found) -> None:
    """Give each outcome the rarest event without which it never happened."""
    for child in [*found.events, *found.amounts]:
        parent = _parent(found, child)
        if parent is not None:
            own = int(_above(found.rows[child]).sum())
            found.given[child] = parent
            found.reasons[f"{child} given"] = f"in all {own:,} rows with it, {parent!r} is 1"
        elif child in found.events:
            _nearly_given(found, child)


def _nearly_given(found: _Found, child: str) -> None:
    """Name the event that a few orphans keep from being the parent, by the names of both."""
    happened = _happened(found.rows[child])
    own = int(happened.sum())
    for each in found.events:
        with_it = int((happened & _happened(found.rows[each])).sum())
        if _follows(child, each) and NEARLY * own <= with_it < own:
            found.reasons[f"{child} nearly given"] = (
                f'given = "{_identifier(each, found.events)}"  # in {with_it:,} of {own:,} rows '
                f'with it {each!r} is 1; for the others say orphans = "drop" or "zero" in [data]'
            )


def _parent(found: _Found, child: str) -> str | None:
    """Return the rarest event that happened wherever a column is neither 0 nor null."""
    happened = _above(found.rows[child])
    counts = {each: int(_happened(found.rows[each]).sum()) for each in found.events}
    least = int(happened.sum()) + (child in found.events)
    parents = [
        each
        for each, count in counts.items()
        if each != child
        and count >= least
        and _implies(happened, found.rows[each], known=_follows(child, each))
    ]
    return min(parents, key=lambda each: counts[each], default=None)


def _follows(child: str, parent: str) -> bool:
    """Whether names alone say that one event comes after another, as a purchase after a click."""
    later, earlier = (
        next((place for place, words in enumerate(names.FUNNEL) if says(each, words)), -1)
        for each in (child, parent)
    )
    return later > earlier >= 0


def _implies(happened: pl.Series, event: pl.Series, *, known: bool = False) -> bool:
    """Whether an event is 1, or unknown, wherever something happened, by more than coincidence.

    What is `known` to follow the event needs one row without a contradiction.
    """
    seen = event.is_not_null()
    count = int((happened & seen).sum())
    rate = int(_happened(event).sum()) / max(int(seen.sum()), 1)
    if (happened & seen & ~_happened(event)).any() or not 0 < rate < 1:
        return False
    return count > 0 if known else count * log(rate) < COINCIDENCE


def _split_by(found: _Found) -> str:
    """By time where each part then has both labels of every event; else at random."""
    time = found.keys.get("time")
    if time is None:
        return "random"
    try:
        parts = [each.collect() for each in split(found.rows, "time", column=time)]
    except DataError:
        return "random"
    held = all(
        part[each].drop_nulls().n_unique() > 1
        for part in parts
        for each in [*found.events, *found.amounts]
    )
    return "time" if held else "random"


def _audited(found: _Found, by: Any) -> Schema:
    """Return the schema without the features that the audit says state a label."""
    schema = _schema(found)
    column = found.keys.get("time") if by == "time" else None
    train, valid, test = split(found.rows, by, column=column)
    audit = check(schema, {"train": train, "valid": valid, "test": test}, orphans="drop")
    for each in audit.findings:
        if each.column not in found.features or each.check not in _LEFT_OUT:
            continue
        # An id ranks a label well where people or items differ much; the audit warns of it.
        an_id = says(each.column, names.IDS) and found.features[each.column] == "sparse"
        if not (an_id and each.check == "may-state-label"):
            found.leave(each.column, each.message, found.features[each.column])
    return _schema(found)


def _leave_out_twins(found: _Found) -> None:
    seen: dict[Any, str] = {}
    for column in [*found.events, *found.features]:
        values = found.rows[column]
        if values.dtype.is_nested():
            continue
        mark = (str(values.dtype), values.hash(0).sum())
        other = seen.setdefault(mark, column)
        if other != column and values.equals(found.rows[other], check_names=False):
            kind = found.features.get(column, "sparse")
            found.events = [each for each in found.events if each != column]
            found.leave(column, f"equals {other!r} in all rows", kind)


def _schema(found: _Found) -> Schema:
    if not found.features:
        raise DataError(
            f"no column is left as a feature: {shown(list(found.left_out))} are left out, such as "
            + "; ".join(f"{each!r}: {found.reasons[each]}" for each in list(found.left_out)[:3])
        )
    columns = [*found.events, *found.amounts]
    tasks = {column: _identifier(column, columns) for column in columns}
    features: list[Feature] = [FEATURES[kind](name) for name, kind in found.features.items()]
    return Schema(
        features=features,
        tasks=[
            Task(
                tasks[column],
                label=column,
                kind=found.amounts.get(column, "binary"),
                given=tasks.get(found.given.get(column, "")),
            )
            for column in columns
        ],
        keys=Keys(**found.keys),
    )


def _identifier(column: str, columns: Sequence[str]) -> str:
    name = "".join(each if f"a{each}".isidentifier() else "_" for each in column)
    name = name if name.isidentifier() and name != "all" else f"task_{name}"
    while name != column and name in columns:
        name += "_"
    return name


def _no_label(found: _Found) -> DataError:
    alone = [
        each
        for each in found.rows.columns
        if says(each, names.EVENTS) and found.rows[each].drop_nulls().n_unique() == 1
    ]
    blank = [each for each in alone if found.rows[each].null_count()]
    if blank:
        return DataError(
            f"{shown(blank)}: one value or null, in {found.rows.height:,} rows; null is an outcome "
            "that is not known: write 0 where it did not happen, such as "
            f"polars.read_csv(…).with_columns(polars.col({blank[0]!r}).fill_null(0))"
        )
    if alone:
        return DataError(
            f"{shown(alone)}: one class only, in {found.rows.height:,} rows; a label needs both 0 "
            "and 1: take more rows, or rows without down-sampling"
        )
    could = [each for each in found.rows.columns if _is_binary(found.rows[each])]
    if could:
        return DataError(
            f"no column has the name of an outcome, such as click or buy; 0/1 columns are "
            f"{shown(could)}: name the labels among them (--label {could[0]})"
        )
    text = [each for each in found.rows.columns if _yes(found.rows[each])]
    if text:
        return DataError(
            f"no column holds 0 and 1, as a label does; {shown(text)} could be labels"
            f"{_as_events(text, found.rows[text[0]])}"
        )
    return DataError(
        f"no column could be a label: none holds 0 and 1 (columns: {shown(found.rows.columns)}); "
        "add one that says what happened, such as click"
    )


def _is_binary(values: pl.Series) -> bool:
    if values.dtype == pl.Boolean:
        return values.drop_nulls().n_unique() == 2
    return values.dtype.is_numeric() and set(values.drop_nulls().unique().to_list()) == {0, 1}


def _yes(values: pl.Series) -> str | None:
    """Return how text says that an event happened, where it says yes and no and nothing else."""
    if values.dtype != pl.String or values.drop_nulls().n_unique() != 2:
        return None
    held = {str(each).strip().casefold(): str(each) for each in values.drop_nulls().unique()}
    return next((held[yes] for yes, no in names.YES_NO if set(held) == {yes, no}), None)


def _as_events(columns: Sequence[str], values: pl.Series) -> str:
    """Say how columns of yes and no become labels; nothing where they hold something else."""
    yes = _yes(values)
    if yes is None:
        return ""
    every = ", ".join(map(repr, columns))
    return (
        f": write {yes!r} as 1 and the other as 0, such as polars.read_csv(…).with_columns("
        f"(polars.col({every}) == {yes!r}).cast(int))"
    )


def _constant(values: pl.Series, event: str | None) -> str:
    """Say why a column without two values is left out."""
    if values.null_count() == len(values):
        return "no value in any row"
    if not values.null_count():
        return "one value in all rows"
    if event:
        return (
            f"its name says {event!r}, but it is one value or null: write 0 where it did not happen"
        )
    return f"one value or null, in {values.null_count():,} rows: fill null, and it may be a feature"


def _above(values: pl.Series) -> pl.Series:
    """Whether a value is there and is not 0."""
    return (values.cast(pl.Float64, strict=False) != 0).fill_null(value=False)


def _happened(values: pl.Series) -> pl.Series:
    return (values.cast(pl.Float64) == 1).fill_null(value=False)


def _is_time(values: pl.Series) -> bool:
    """Whether values are dates, ISO 8601 text, days such as 20240531, or seconds since 1970."""
    if values.dtype.is_temporal():
        return True
    present = values.drop_nulls()
    if values.dtype == pl.String:
        return bool(present.str.contains(_ISO).all())
    if not values.dtype.is_numeric():
        return False
    low, high = float(present.min()), float(present.max())  # pyrefly: ignore  (numbers)
    ranges = [
        (19_000_101, 21_000_101),
        *((4e8 * unit, 4.2e9 * unit) for unit in (1, 1e3, 1e6, 1e9)),
    ]
    return any(least <= low and high <= most for least, most in ranges)


def _is_other_date(values: pl.Series) -> bool:
    """Whether text is dates of which the order is not that of the times."""
    return values.dtype == pl.String and bool(values.drop_nulls().str.contains(_DATE).all())


def _rate(values: pl.Series) -> str:
    return f"{int(_happened(values).sum()):,} of {values.count():,} rows have it"


def _middle(values: pl.Series) -> float:
    """Return the middle of the distinct values."""
    return float(values.drop_nulls().unique().median())  # pyrefly: ignore  (numbers)


def _type(dtype: pl.DataType) -> str:
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else str(dtype).lower()
