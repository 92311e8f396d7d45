"""What one column of a log shows, in training and in later splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding, finding
from polyrank.data.check.coding import Coded, Coding, Ids
from polyrank.data.check.drift import MOST_DRIFT, stability_index
from polyrank.data.check.one_feature import suspicion
from polyrank.data.labels import HiddenLabel, find_leak
from polyrank.terms import Population

# An id that is new in nine of ten rows teaches next to nothing, with a table as long as the log.
NEARLY_UNIQUE = 0.9
# In fewer rows, even an honest id may be new in most.
LEAST_UNIQUE_ROWS = 100

Labels = Sequence[tuple[Population, np.ndarray]]


def label_findings(
    column: pl.Series, coded: Coded, hidden: Sequence[HiddenLabel], labels: Mapping[str, Labels]
) -> Iterator[Finding]:
    """Yield whether a training column states a label, exactly or as good as.

    Args:
        column: its raw values.
        coded: the same as codes.
        hidden: labels that no feature may state.
        labels: populations of each event, with their labels.
    """
    stated = False
    for label in hidden:
        if leak := find_leak(column, label):
            stated = True
            check = "label-opposite" if leak.opposite else "label-equal"
            message = f"{leak}: a model would read the label"
            numbers = {"rows": leak.rows, "task": label.task}
            yield finding(check, message, column.name, "train", numbers)
    if stated:  # then it ranks well, too
        return
    for of_task in labels.values():
        if found := suspicion(column.name, coded.codes, coded.offsets, of_task):
            names = ("auc", "positives", "negatives", "population")
            numbers = {name: getattr(found, name) for name in names}
            yield finding("may-state-label", str(found), column.name, "train", numbers)


def value_findings(name: str, coding: Coding, coded: Mapping[str, Coded]) -> Iterator[Finding]:
    """Yield what is odd about the values of a feature, coded in each split."""
    train, distinct = coded["train"], coding.distinct
    rows = len(train.exact)
    if distinct <= 1:
        value = "no value" if train.nulls == rows else "one value"
        message = f"feature {name!r} has {value} in all {rows:,} training rows"
        yield finding("constant", message, name, "train", {"rows": rows})
    single = isinstance(coding, Ids) and train.offsets is None
    if single and rows >= LEAST_UNIQUE_ROWS and distinct > NEARLY_UNIQUE * rows:
        message = (
            f"feature {name!r} has {distinct:,} distinct ids in {rows:,} training rows: most have "
            "one row to learn from"
        )
        yield finding("nearly-unique", message, name, "train", {"distinct": distinct, "rows": rows})
    shares = {split: each.nulls / max(len(each.exact), 1) for split, each in coded.items()}
    if any(shares.values()):
        shown = ", ".join(f"{share:.2%} in {split}" for split, share in shares.items())
        yield finding("nulls", f"feature {name!r} is null: {shown}", name, None, shares)


def drift_findings(name: str, coding: Coding, coded: Mapping[str, Coded]) -> Iterator[Finding]:
    """Yield where a feature's distribution in a later split is not that of training."""
    for split, later in coded.items():
        index, noise = stability_index(*coding.bins(coded["train"].counts, later.counts))
        if split != "train" and index - noise > MOST_DRIFT:
            message = (
                f"feature {name!r} has drifted from train to {split}: population stability index "
                f"{index:.3f}, of which sampling explains {noise:.3f}"
            )
            yield finding("drift", message, name, split, {"psi": index, "noise": noise})
