"""Labels: the values they may hold, orphans (a child without its parent), and leaks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import polars as pl

from polyrank.data.delays import late, with_cut
from polyrank.data.read import Joined, Source, collect, read
from polyrank.errors import DataError, did_you_mean
from polyrank.features.dense import float32_of
from polyrank.labels.kind import Remark
from polyrank.schema import Schema, Task
from polyrank.terms import joint_label

logger = logging.getLogger(__name__)

Orphans = Literal["error", "drop", "zero"]
EMPTY: Mapping[str, float] = MappingProxyType({})
# Rows read of every feature before the few that equal a label there are read whole.
_FIRST_ROWS = 10_000


@dataclass(frozen=True)
class Leak:
    """A feature that states a label: its column, the label in words, whether it is 1 − label."""

    feature: str
    label: str
    rows: int
    opposite: bool = False

    def __str__(self) -> str:
        how = "is 1 −" if self.opposite else "equals"
        return f"feature {self.feature!r} {how} {self.label} on all {self.rows:,} labelled rows"


@dataclass(frozen=True, eq=False)
class HiddenLabel:
    """A label, or a joint label, that no feature may state.

    Args:
        words: what it is, for messages.
        task: whose outcome it is.
        values: float64 (rows,), NaN where it was not observed.
        event: whether 1 − the label states it too.
    """

    words: str
    task: str
    values: np.ndarray
    event: bool


@dataclass(frozen=True, eq=False)
class Orphan:
    """Rows where a child happened though its parent did not.

    Args:
        child: column of the child's label.
        parent: column of the parent's label.
        count: how many they are.
        rows: a mask of them.
        first: the first of them in words.
    """

    child: str
    parent: str
    count: int
    rows: pl.Series
    first: str

    @property
    def found(self) -> str:
        """How many they are, in words."""
        return f"{self.count:,} row{'s'[: self.count > 1]} with {self.child!r} = 1"


def check_labels(frame: pl.DataFrame, schema: Schema, split: str = "data") -> None:
    """Refuse labels that no task of the schema can mean; null and NaN mean not observed."""
    for reason in bad_labels(frame, schema, split).values():
        raise DataError(reason)


def bad_labels(frame: pl.DataFrame, schema: Schema, split: str = "data") -> dict[str, str]:
    """Return what is wrong with the labels, by task; valid ones are left out.

    Examples:
        >>> from polyrank.schema import SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click")])
        >>> list(bad_labels(pl.DataFrame({"click": [0, None, 2]}), schema))
        ['click']
    """
    found = {
        task.name: _fault(_where_it_counts(frame, schema, task), task, split)
        for task in schema.tasks
    }
    return {name: fault for name, fault in found.items() if fault is not None}


def raw_label(frame: pl.DataFrame, task: Task) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a task's label and the columns that its kind takes beside it.

    All are float32 (rows,), NaN where they are missing.
    """
    names = [*task.label_kind.reads, *task.label_kind.made_of]
    label = frame[task.column].cast(pl.Float32).to_numpy()
    return label, {name: float32_of(frame[name]) for name in names}


def tell_of_remarks(
    frame: pl.DataFrame, schema: Schema, split: str = "data", cuts: Mapping[str, float] = EMPTY
) -> None:
    """Refuse what labels may not be beside other columns, and log the rest.

    `cuts` are of the log, by task with a delay.
    """
    for task, remark in find_remarks(frame, schema, cuts):
        words = remark_in_words(task, remark, split)
        if remark.refused:
            raise DataError(f"{words}, the first in row {int(remark.rows.argmax())}")
        logger.info("%s: %s", words, remark.becomes)


def find_remarks(
    frame: pl.DataFrame, schema: Schema, cuts: Mapping[str, float]
) -> Iterator[tuple[Task, Remark]]:
    """Yield what labels show beside the columns of their kinds and their delays, where they do."""
    for task in schema.tasks:
        if task.delay is not None:
            label, _ = raw_label(frame, task)
            for remark in late(frame, schema, task, label, cuts[task.name])[1]:
                if remark.rows.any():
                    yield task, remark
        if task.label_kind.reads or task.label_kind.made_of:
            for remark in task.label_kind.remarks(*raw_label(frame, task)):
                if remark.rows.any():
                    yield task, remark


def remark_in_words(task: Task, remark: Remark, split: str) -> str:
    """Return how many rows a remark is about, and of which label."""
    count = int(remark.rows.sum())
    rows = f"{count:,} row{'s'[: count > 1]}"
    return f"{split}: {rows} of label {task.column!r} (task {task.name!r}) with {remark.words}"


def closed(schema: Schema, train: Source) -> Schema:
    """Return the schema whose kinds of label, and delays, have what they take from training rows.

    Raises:
        DataError: labels that are no numbers, or too few or too many distinct ones; times that a
            delay cannot read.
    """
    if not (schema.delays or any(task.label_kind.is_open for task in schema.tasks)):
        return schema
    frame = read(train.rows if isinstance(train, Joined) else train, schema)
    schema = with_cut(schema, frame)
    tasks = []
    for task in schema.tasks:
        if task.label_kind.is_open:
            chain = [schema.by_name[name].column for name in schema.ancestors(task.name)]
            counted = frame.select(task.column, *chain).unique()
            label = _where_it_counts(collect(counted, [task.column, *chain]), schema, task)
            if (fault := _fault(label, task, "train")) is not None:
                raise DataError(fault)
            values = label.cast(pl.Float32).fill_nan(None).drop_nulls().unique().sort()
            try:
                kind = task.label_kind.closed(values.to_numpy())
            except DataError as error:
                raise DataError(f"task {task.name!r}: {error}") from None
            task = replace(task, kind=kind)
        tasks.append(task)
    return replace(schema, tasks=tuple(tasks))


def _where_it_counts(frame: pl.DataFrame, schema: Schema, task: Task) -> pl.Series:
    """Return a task's label; of what is no event, null where an ancestor did not happen.

    There it is not read: a log may have 0 as the price of what was not bought.
    """
    label = frame[task.column]
    if task.label_kind.is_event or not task.given:
        return label
    happened = pl.Series([True]).new_from_index(0, frame.height)
    for name in schema.ancestors(task.name):
        parent = frame[schema.by_name[name].column]
        if parent.dtype.is_numeric() or parent.dtype == pl.Boolean:
            happened &= (_numbers(parent) == 1).fill_null(value=False)
    return frame.select(pl.when(happened).then(pl.col(task.column)).alias(task.column)).to_series()


def _fault(label: pl.Series, task: Task, split: str) -> str | None:
    where = f"{split}: label {task.column!r} of task {task.name!r}"
    if not (label.dtype.is_numeric() or label.dtype in (pl.Boolean, pl.Null)):
        return f"{where} is a column of {label.dtype}; write it as numbers"
    values = _numbers(label).drop_nulls().to_numpy()
    bad = values[~task.label_kind.allows(values)]
    if not len(bad):
        return None
    wrong, rows = np.unique(bad), f"{len(bad):,} row{'s'[: len(bad) > 1]}"
    shown = ", ".join(f"{value:g}" for value in wrong[:5])
    more = f", … {len(wrong) - 5:,} more values" if len(wrong) > 5 else ""
    return (
        f"{where} must hold {task.label_kind.rule} (kind {task.label_kind.name!r}), got "
        f"{shown}{more} in {rows}; convert the label, or declare another kind"
    )


def apply_orphans(
    frame: pl.DataFrame, schema: Schema, orphans: Orphans = "error", split: str = "data"
) -> pl.DataFrame:
    """Return the rows after the rule for orphans: a child that happened though its parent did not.

    A null parent makes no orphan.

    Args:
        frame: rows with the label columns.
        schema: `given` names each task's parent.
        orphans: `error`, `drop` the rows, or `zero` the child (and so its own children).
        split: name of these rows in messages.

    Raises:
        DataError: orphans under `error`, with the first rows; an unknown rule.
    """
    check_rule(orphans)
    for orphan in find_orphans(frame, schema, zero=orphans == "zero"):
        tell_of_orphans(orphan, orphans, split)
    return without_orphans(frame, schema, orphans)


def check_rule(orphans: str) -> None:
    """Refuse a rule for orphans that there is none."""
    if orphans not in get_args(Orphans):
        hint = did_you_mean(orphans, get_args(Orphans))
        raise DataError(f"unknown value of orphans: {orphans!r}{hint}")


def without_orphans(frame: pl.DataFrame, schema: Schema, orphans: Orphans) -> pl.DataFrame:
    """Return the rows after the rule `drop` or `zero`."""
    dropped = np.zeros(frame.height, dtype=bool)
    for orphan in find_orphans(frame, schema, zero=orphans == "zero"):
        if orphans == "drop":
            dropped |= orphan.rows.to_numpy()
        else:
            frame = zeroed(frame, orphan)
    return frame.filter(~dropped) if dropped.any() else frame


def tell_of_orphans(orphan: Orphan, orphans: Orphans, split: str) -> None:
    """Refuse orphans under `error`, and log under the other rules what becomes of them."""
    if orphans == "error":
        raise DataError(
            f"{split}: {orphan.found} where its parent {orphan.parent!r} = 0: {orphan.first}; "
            "fix the log, or set orphans ([data] in a file, --orphans of evaluate) to 'drop' "
            "(leave the rows out) or 'zero' (the child did not happen)"
        )
    logger.warning(
        "%s: %s where %r = 0: %s; the first: %s",
        *(split, orphan.found, orphan.parent),
        "dropped" if orphans == "drop" else f"{orphan.child!r} set to 0",
        orphan.first,
    )


def find_orphans(
    frame: pl.DataFrame, schema: Schema, *, zero: bool = False, start: int = 0
) -> Iterator[Orphan]:
    """Yield each child that happened though its parent did not, parents first.

    Args:
        frame: rows with the label columns.
        schema: `given` names each task's parent.
        zero: whether each child is set to 0 before its own children are looked at, which makes
            orphans of these.
        start: the number of the first row, for messages.

    Examples:
        >>> from polyrank.schema import SparseFeature
        >>> schema = Schema([SparseFeature("item")], [Task("click"), Task("buy", given="click")])
        >>> log = pl.DataFrame({"click": [0, 1, None], "buy": [1, 1, 1]})
        >>> [orphan.found for orphan in find_orphans(log, schema)]
        ["1 row with 'buy' = 1"]
    """
    children = [task for task in schema.tasks if task.given and task.label_kind.is_event]
    for task in sorted(children, key=lambda task: len(schema.ancestors(task.name))):
        parent = schema.by_name[task.given or ""]
        happened, parent_did_not = (
            _numbers(frame[task.column]) == 1,
            _numbers(frame[parent.column]) == 0,
        )
        rows = (happened & parent_did_not).fill_null(value=False)
        if not rows.any():
            continue
        first = _first_rows(frame, schema, rows, start)
        orphan = Orphan(task.column, parent.column, int(rows.sum()), rows, first)
        yield orphan
        if zero:
            frame = zeroed(frame, orphan)


def zeroed(frame: pl.DataFrame, orphan: Orphan) -> pl.DataFrame:
    """Return rows where the child of an orphan did not happen."""
    label = frame[orphan.child].cast(pl.Float64).set(orphan.rows, 0.0)
    return frame.with_columns(label)


def find_leaks(
    frame: pl.LazyFrame | pl.DataFrame, schema: Schema, split: str = "train"
) -> tuple[Leak, ...]:
    """Return the features that state a label, or a task's joint label, wherever it is observed.

    A feature that is 1 − an event's label states it as well. Only labels that vary can leak. All
    features but lists are read for the first rows only; those that state a label there are then
    read whole.
    """
    features = [feature.name for feature in schema.features if not feature.lists]
    head = collect(frame.lazy().head(_FIRST_ROWS), [*features, *schema.labels])
    check_labels(head, schema, split)
    first = hidden_labels(label_arrays(head, schema), schema)
    suspects = {name for name in features if any(stated(head[name], label) for label in first)}
    if not suspects:
        return ()
    data = collect(frame, [*suspects, *schema.labels])
    check_labels(data, schema, split)
    return tuple(
        leak
        for label in hidden_labels(label_arrays(data, schema), schema)
        for name in features
        if name in suspects and (leak := find_leak(data[name], label))
    )


def find_leak(feature: pl.Series, label: HiddenLabel) -> Leak | None:
    """Return how a feature states a label that varies; None where it does not."""
    observed = label.values[~np.isnan(label.values)]
    how = stated(feature, label)
    if how is None or (observed == observed[:1]).all():
        return None
    return Leak(feature.name, label.words, len(observed), how == "opposite")


def check_leaks(frame: pl.LazyFrame | pl.DataFrame, schema: Schema, split: str = "train") -> None:
    """Refuse a feature that states a label or a joint label: a model would read the label."""
    leaks = find_leaks(frame, schema, split)
    if leaks:
        raise DataError(
            f"{'; '.join(map(str, leaks))}: a model would read the label; remove "
            f"{', '.join(repr(name) for name in dict.fromkeys(leak.feature for leak in leaks))} "
            "from the features"
        )


def label_arrays(frame: pl.DataFrame, schema: Schema) -> dict[str, np.ndarray]:
    """Return the label of each task as float64 with NaN where it was not observed."""
    return {task.name: _numbers(frame[task.column]).to_numpy() for task in schema.tasks}


def hidden_labels(labels: Mapping[str, np.ndarray], schema: Schema) -> list[HiddenLabel]:
    """Return each label, and each joint label of several tasks, from `label_arrays`."""
    found = []
    for task in schema.tasks:
        event, words = task.label_kind.is_event, f"the label {task.column!r} of task {task.name!r}"
        # What is not mature is not observed.
        own = joint_label([labels[task.name]]) if event else labels[task.name]
        found.append(HiddenLabel(words, task.name, own, event))
        chain = (*schema.ancestors(task.name), task.name)
        if len(chain) > 1 and event:
            words = f"the joint label of task {task.name!r} ({' & '.join(chain)})"
            joint = joint_label([labels[name] for name in chain])
            found.append(HiddenLabel(words, task.name, joint, event))
    return found


def stated(feature: pl.Series, label: HiddenLabel) -> Literal["equal", "opposite"] | None:
    """Return whether a feature is the label, or 1 − it, wherever it was observed."""
    if not feature.dtype.is_numeric() and feature.dtype not in (pl.Boolean, pl.String):
        if not isinstance(feature.dtype, pl.Categorical | pl.Enum):
            return None
        feature = feature.cast(pl.String)
    how: Literal["equal", "opposite"] | None = None
    # Most features differ within the first rows, and a log may have many millions.
    for column in (feature.head(_FIRST_ROWS), feature):
        values = label.values[: len(column)]
        observed = ~np.isnan(values)
        own = column.cast(pl.Float64, strict=False).to_numpy()[observed]
        if (own == values[observed]).all():
            how = "equal"
        elif label.event and (own == 1 - values[observed]).all():
            how = "opposite"
        else:
            return None
    return how


def _numbers(label: pl.Series) -> pl.Series:
    """A label as Float64, where null and NaN are both null; text that is no number is null too."""
    return label.cast(pl.Float64, strict=False).fill_nan(None)


def _first_rows(frame: pl.DataFrame, schema: Schema, orphan: pl.Series, start: int) -> str:
    keys = [name for name in schema.keys.columns if name in frame.columns]
    numbers = orphan.arg_true().head(3)
    shown = frame[numbers].select(list(dict.fromkeys([*keys, *schema.labels])))
    return "; ".join(
        ", ".join([f"row {start + number}", *(f"{name} {value}" for name, value in row.items())])
        for number, row in zip(numbers, shown.iter_rows(named=True), strict=True)
    )
