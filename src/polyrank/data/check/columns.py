"""What one column of a log shows, in training and in the splits after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding
from polyrank.data.check.coding import Coded, Coding, Ids
from polyrank.data.check.drift import MOST_DRIFT, stability_index
from polyrank.data.check.one_feature import suspicion
from polyrank.data.labels import HiddenLabel, find_leak
from polyrank.terms import Population

# An id that is new in nine rows of ten teaches next to nothing, with a table as long as the log.
NEARLY_UNIQUE = 0.9
# In fewer rows even an honest id may be new in most.
LEAST_UNIQUE_ROWS = 100

Labels = Sequence[tuple[Population, np.ndarray]]


def label_findings(
    column: pl.Series, coded: Coded, hidden: Sequence[HiddenLabel], labels: Mapping[str, Labels]
) -> list[Finding]:
    """Return whether a training column states a label, exactly or as good as.

    Args:
        column: its raw values.
        coded: the same as codes.
        hidden: labels that no feature may state.
        labels: populations of each binary task with their labels.
    """
    findings = []
    for label in hidden:
        if leak := find_leak(column, label):
            check = "label-opposite" if leak.opposite else "label-equal"
            findings.append(
                Finding(
                    "error", check, f"{leak}: a model would read the label", column.name, "train",
                    {"rows": leak.rows, "task": label.task},
                    f"remove {column.name!r} from the features",
                )
            )  # fmt: skip
    if findings:  # that it ranks well goes without saying
        return findings
    for of_task in labels.values():
        found = suspicion(column.name, coded.codes, coded.offsets, of_task)
        if found is not None:
            numbers = {
                "auc": found.auc, "positives": found.positives, "negatives": found.negatives,
                "population": found.population,
            }  # fmt: skip
            findings.append(
                Finding(
                    "warning", "may-state-label", str(found), column.name, "train", numbers,
                    f"find out when {column.name!r} is written: if after the outcome, or from it, "
                    "remove it from the features",
                )
            )  # fmt: skip
    return findings


def value_findings(name: str, coding: Coding, coded: Mapping[str, Coded]) -> list[Finding]:
    """Return what is odd about the values of a feature.

    Args:
        name: of the column.
        coding: fitted on the training rows.
        coded: the column in each split.
    """
    train = coded["train"]
    rows, findings = len(train.exact), []
    if coding.distinct <= 1:
        value = "no value" if train.nulls == rows else "one value"
        findings.append(
            Finding(
                "info", "constant", f"feature {name!r} has {value} in all {rows:,} training rows",
                name, "train", {"rows": rows}, "remove it: it teaches nothing",
            )
        )  # fmt: skip
    lists = train.offsets is not None
    if isinstance(coding, Ids) and not lists and _nearly_unique(coding.distinct, rows):
        findings.append(
            Finding(
                "info", "nearly-unique", f"feature {name!r} has {coding.distinct:,} distinct ids "
                f"in {rows:,} training rows: most have one row to learn from", name, "train",
                {"distinct": coding.distinct, "rows": rows},
                "remove it, or set min_count so that rare ids share a row",
            )
        )  # fmt: skip
    shares = {split: each.nulls / max(len(each.exact), 1) for split, each in coded.items()}
    if any(shares.values()):
        shown = ", ".join(f"{share:.2%} in {split}" for split, share in shares.items())
        findings.append(
            Finding(
                "info", "nulls", f"feature {name!r} is null: {shown}", name, None, shares,
                "nothing: a null id is an id, and a missing number has its own bin or indicator",
            )
        )  # fmt: skip
    return findings


def drift_findings(name: str, coding: Coding, coded: Mapping[str, Coded]) -> list[Finding]:
    """Return where a feature's distribution in a later split is not that of training."""
    findings = []
    for split, later in coded.items():
        if split == "train":
            continue
        index, noise = stability_index(*coding.bins(coded["train"].counts, later.counts))
        if index - noise <= MOST_DRIFT:
            continue
        findings.append(
            Finding(
                "warning", "drift", f"feature {name!r} has drifted from train to {split}: "
                f"population stability index {index:.3f}, of which sampling explains {noise:.3f}",
                name, split, {"psi": index, "noise": noise},
                "find out what changed; train on later rows, or remove the feature if it is a "
                "clock or a counter",
            )
        )  # fmt: skip
    return findings


def _nearly_unique(distinct: int, rows: int) -> bool:
    return rows >= LEAST_UNIQUE_ROWS and distinct > NEARLY_UNIQUE * rows
