"""Where a row stood in its list: known when it was logged, and not when it is ranked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding, finding
from polyrank.data.read import collect, column_names
from polyrank.features.ids import as_type, plain_ids
from polyrank.schema import Schema
from polyrank.text import says

# Words of a column's name that say so.
WORDS = ("position", "pos", "rank", "slot")
# Standard deviations of r = 0, which no log without an effect reaches by chance.
DEVIATIONS = 5.0


def looks_like_position(name: str) -> bool:
    """Return whether a column's name has a word for a place in a list.

    Examples:
        >>> [looks_like_position(name) for name in ("ad_position", "slotId", "pos", "deposit")]
        [True, True, True, False]
    """
    return says(name, WORDS) is not None


def position_findings(
    schema: Schema, train: pl.LazyFrame | pl.DataFrame, labels: Mapping[str, np.ndarray]
) -> Iterator[Finding]:
    """Yield each column that looks like a position, goes with an event, and is not served.

    Args:
        schema: its features are compared with the columns.
        train: the training rows, with all their columns.
        labels: of the tasks, NaN = not observed: (N,) each.
    """
    features = {each.name: each for each in schema.features}
    others = {*schema.labels, *schema.made_of, *schema.extras, *schema.keys.columns}
    for name in column_names(train):
        feature = features.get(name)
        served = feature is not None and feature.served
        if served or name in others or not looks_like_position(name):
            continue
        column = collect(train, [name])[name]
        # A place is a whole number, in a CSV file perhaps as text; a score called rank is not.
        if not (column.dtype.is_integer() or column.dtype == pl.String):
            continue
        places = as_type(plain_ids(column), "int")
        if places.null_count() > column.null_count():
            continue
        values = places.cast(pl.Float64).fill_null(np.nan).to_numpy()
        found = {
            task.name: correlation(values, labels[task.name])
            for task in schema.tasks
            if task.label_kind.is_event and task.name in labels
        }
        told = {
            task: (r, rows) for task, (r, rows) in found.items() if abs(r) * sqrt(rows) > DEVIATIONS
        }
        if not told:
            continue
        task, (r, rows) = max(told.items(), key=lambda each: abs(each[1][0]))
        check = "position-no-feature" if feature is None else "position-not-served"
        what = "is no feature" if feature is None else "is a feature without serving"
        message = (
            f"column {name!r} looks like a position, goes with {task!r} (correlation {r:.3f} in "
            f"{rows:,} rows) and {what}"
        )
        yield finding(check, message, name, "train", {"correlation": r, "rows": rows, "task": task})


def correlation(values: np.ndarray, label: np.ndarray) -> tuple[float, int]:
    """Return Pearson's correlation of the rows that have both, and their number; 0 of a constant.

    Examples:
        >>> correlation(np.array([1.0, 2, 3, np.nan]), np.array([1.0, 0, 0, 1]))
        (-0.866..., 3)
    """
    rows = np.isfinite(values) & np.isfinite(label)  # a label that is too young to know is inf
    x, y = values[rows], label[rows].astype(np.float64)
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return 0.0, len(x)
    return float(np.corrcoef(x, y)[0, 1]), len(x)
