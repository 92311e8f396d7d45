"""Labels: what they may hold, children without their parents, and features that state them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

from polyrank.data.read import collect
from polyrank.errors import DataError, did_you_mean
from polyrank.schema import Schema
from polyrank.terms import joint_label

logger = logging.getLogger(__name__)

Orphans = Literal["error", "drop", "zero"]
# Rows read of every feature before the few that equal a label there are read whole.
_FIRST_ROWS = 10_000


@dataclass(frozen=True)
class Leak:
    """A feature that states a label: its column, and the label in words."""

    feature: str
    label: str
    rows: int

    def __str__(self) -> str:
        return f"feature {self.feature!r} equals {self.label} on all {self.rows:,} labelled rows"


def check_labels(frame: pl.DataFrame, schema: Schema, split: str = "data") -> None:
    """Refuse labels that no task of the schema can mean; null and NaN mean not observed.

    Raises:
        DataError: a label column that is not numeric, a binary label other than 0 and 1 (with the
            values), or an infinite regression label.
    """
    for task in schema.tasks:
        label = frame[task.column]
        where = f"{split}: label {task.column!r} of task {task.name!r}"
        _refuse_type(label, where)
        if task.kind == "binary":
            _refuse_values(label, where)
        elif count := int(_numbers(label).cast(pl.Float32).is_infinite().sum()):
            raise DataError(
                f"{where} has {count:,} infinite value{'s'[: count > 1]} (±inf, or beyond the "
                "3.4e38 of float32): make them finite or null"
            )


def _refuse_type(label: pl.Series, where: str) -> None:
    if not (label.dtype.is_numeric() or label.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"{where} is a column of {label.dtype}; write it as numbers")


def _refuse_values(label: pl.Series, where: str) -> None:
    """Refuse values of a binary label other than 0 and 1."""
    values = _numbers(label)
    bad = values.filter((values != 0) & (values != 1)).unique().sort()
    if len(bad):
        shown = ", ".join(f"{value:g}" for value in bad.head(5))
        more = f", … {len(bad) - 5:,} more values" if len(bad) > 5 else ""
        raise DataError(
            f"{where} is binary, so it holds 0, 1 or null, however: {shown}{more}; "
            "convert it, or declare kind 'regression'"
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
    if orphans not in get_args(Orphans):
        hint = did_you_mean(orphans, get_args(Orphans))
        raise DataError(f"unknown value of orphans: {orphans!r}{hint}")
    # Parents first, so that a child zeroed here makes orphans of its own children in turn.
    children = [task for task in schema.tasks if task.given and task.kind == "binary"]
    dropped = np.zeros(frame.height, dtype=bool)
    for task in sorted(children, key=lambda task: len(schema.ancestors(task.name))):
        parent = schema.by_name[task.given or ""]
        happened, parent_did_not = (
            _numbers(frame[task.column]) == 1,
            _numbers(frame[parent.column]) == 0,
        )
        orphan = (happened & parent_did_not).fill_null(value=False)
        count = int(orphan.sum())
        if not count:
            continue
        found = f"{count:,} row{'s'[: count > 1]} with {task.column!r} = 1"
        if orphans == "error":
            raise DataError(
                f"{split}: {found} where its parent {parent.column!r} = 0: "
                f"{_first_rows(frame, schema, orphan)}; fix the log, or set orphans = 'drop' "
                "(leave the rows out) or 'zero' (the child did not happen)"
            )
        logger.warning(
            "%s: %s where %r = 0: %s; the first: %s",
            *(split, found, parent.column),
            "dropped" if orphans == "drop" else f"{task.column!r} set to 0",
            _first_rows(frame, schema, orphan),
        )
        if orphans == "drop":
            dropped |= orphan.to_numpy()
        else:
            frame = frame.with_columns(frame[task.column].cast(pl.Float64).set(orphan, 0.0))
    return frame.filter(~dropped) if dropped.any() else frame


def find_leaks(
    frame: pl.LazyFrame | pl.DataFrame, schema: Schema, split: str = "train"
) -> tuple[Leak, ...]:
    """Return the features that equal a label, or a task's joint label, wherever it is observed.

    Only labels that vary can leak. All features are read for the first rows only; those that equal
    a label there are then read whole.

    Raises:
        DataError: a label that is not numeric, or a binary one other than 0 and 1.
    """
    features = [feature.name for feature in schema.features]
    head = collect(frame.lazy().head(_FIRST_ROWS), [*features, *schema.labels])
    labels = list(_labels(head, schema, split))
    suspects = {name for name in features if any(_equal(head[name], y) for _, y in labels)}
    if not suspects:
        return ()
    data = collect(frame, [*suspects, *schema.labels])
    return tuple(
        Leak(name, words, int(np.count_nonzero(~np.isnan(y))))
        for words, y in _labels(data, schema, split)
        if len(np.unique(y[~np.isnan(y)])) > 1
        for name in features
        if name in suspects and _equal(data[name], y)
    )


def check_leaks(frame: pl.LazyFrame | pl.DataFrame, schema: Schema, split: str = "train") -> None:
    """Refuse a feature that equals a label or a joint label: a model would read the answer.

    Raises:
        DataError: the features and the labels; a label that `find_leaks` refuses.
    """
    leaks = find_leaks(frame, schema, split)
    if leaks:
        raise DataError(
            f"{'; '.join(map(str, leaks))}: a model would read the answer; remove "
            f"{', '.join(repr(name) for name in dict.fromkeys(leak.feature for leak in leaks))} "
            "from the features"
        )


def _labels(frame: pl.DataFrame, schema: Schema, split: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each label, and each joint label of several tasks, with its name in words."""
    for task in schema.tasks:  # before any arithmetic with them
        where = f"{split}: label {task.column!r} of task {task.name!r}"
        _refuse_type(frame[task.column], where)
        if task.kind == "binary":
            _refuse_values(frame[task.column], where)
    arrays = {task.name: _numbers(frame[task.column]).to_numpy() for task in schema.tasks}
    for task in schema.tasks:
        yield f"the label {task.column!r} of task {task.name!r}", arrays[task.name]
        chain = (*schema.ancestors(task.name), task.name)
        if len(chain) > 1 and task.kind == "binary":
            joint = joint_label([arrays[name] for name in chain])
            yield f"the joint label of task {task.name!r} ({' & '.join(chain)})", joint


def _equal(feature: pl.Series, label: np.ndarray) -> bool:
    if not feature.dtype.is_numeric() and feature.dtype not in (pl.Boolean, pl.String):
        if not isinstance(feature.dtype, pl.Categorical | pl.Enum):
            return False
        feature = feature.cast(pl.String)
    observed = ~np.isnan(label)
    values = feature.cast(pl.Float64, strict=False).to_numpy()
    return bool((values[observed] == label[observed]).all())


def _numbers(label: pl.Series) -> pl.Series:
    """A label as Float64, where null and NaN are both null; text that is no number is null too."""
    return label.cast(pl.Float64, strict=False).fill_nan(None)


def _first_rows(frame: pl.DataFrame, schema: Schema, orphan: pl.Series) -> str:
    keys = [name for name in schema.keys.columns if name in frame.columns]
    numbers = orphan.arg_true().head(3)
    shown = frame[numbers].select(list(dict.fromkeys([*keys, *schema.labels])))
    return "; ".join(
        ", ".join([f"row {number}", *(f"{name} {value}" for name, value in row.items())])
        for number, row in zip(numbers, shown.iter_rows(named=True), strict=True)
    )
