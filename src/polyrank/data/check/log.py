"""The audit itself: it reads a column at a time, and continues after a fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import polars as pl

from polyrank.data.check.audit import Audit, Finding, finding
from polyrank.data.check.coding import Coded, Coding, coding
from polyrank.data.check.columns import drift_findings, label_findings, value_findings
from polyrank.data.check.one_feature import labels_by_task
from polyrank.data.check.outcomes import loss_findings, read_outcomes
from polyrank.data.check.splits import (
    add_column,
    duplicate_findings,
    no_rows_yet,
    time_findings,
    user_findings,
)
from polyrank.data.labels import Orphans, hidden_labels
from polyrank.data.read import by_column, collect, column_names
from polyrank.data.sampling import SPLITS
from polyrank.data.table import sample_weights
from polyrank.errors import DataError, did_you_mean
from polyrank.schema import DenseFeature, Feature, Schema, SparseFeature

Frame = pl.LazyFrame | pl.DataFrame


def check(
    schema: Schema,
    frames: Mapping[str, Frame],
    *,
    orphans: Orphans = "error",
    normalized: bool = True,
) -> Audit:
    """Return everything that a log shows before it is trained on; see docs/audit.md.

    One column is in memory at a time where the frames are Parquet files.

    Args:
        schema: features, tasks and keys.
        frames: rows of `train` and, if there are any, of `valid` and `test`.
        orphans: what becomes of a child label without its parent.
        normalized: whether the balance divides each loss by its constant predictor's.

    Raises:
        DataError: a split that is unknown or missing, an unknown rule, or a log that cannot be
            read, such as one without a column.

    Example:
        >>> from polyrank.schema import SparseFeature, Task
        >>> schema = Schema([SparseFeature("item"), SparseFeature("clicked")], [Task("click")])
        >>> log = pl.DataFrame({"item": [1, 2] * 4, "clicked": [0, 0, 1, 1] * 2})
        >>> print(check(schema, {"train": log.with_columns(click="clicked")}))
        rows: train 8
        <BLANKLINE>
        error    label-equal: feature 'clicked' equals the label 'click' of task 'click' on all 8 \
labelled rows: a model would read the label
                 → remove 'clicked' from the features
        <BLANKLINE>
        1 error, 0 warnings, 0 notes
    """
    _refuse(frames, orphans)
    splits, findings = {}, []
    rows: dict[str, int] = {}
    for name, frame in frames.items():
        split = _opened(name, frame, schema, orphans)
        rows[name] = len(split.checksums)
        findings += split.findings
        if rows[name]:
            splits[name] = split
    if "train" not in splits:
        return Audit(tuple(findings), rows)
    findings += loss_findings(schema, splits["train"].labels, normalized=normalized)
    findings += _of_features(schema, splits)
    findings += _of_keys(schema, splits)
    findings += duplicate_findings({name: each.checksums for name, each in splits.items()})
    return Audit(tuple(findings), rows)


@dataclass(frozen=True, eq=False)
class _Split:
    """One split: its rows, its labels, and checksums of the columns that were read so far."""

    name: str
    frame: Frame
    labels: Mapping[str, np.ndarray]
    checksums: np.ndarray
    findings: tuple[Finding, ...]

    def column(self, name: str) -> pl.Series:
        return collect(self.frame, [name]).to_series()


def _refuse(frames: Mapping[str, Frame], orphans: str) -> None:
    for split in frames:
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
    if "train" not in frames:
        raise DataError("an audit compares with the training rows: give train")
    if orphans not in get_args(Orphans):
        hint = did_you_mean(orphans, get_args(Orphans))
        raise DataError(f"unknown value of orphans: {orphans!r}{hint}")


def _opened(name: str, frame: Frame, schema: Schema, orphans: Orphans) -> _Split:
    known, keys = column_names(frame), schema.keys
    missing = [key for key in keys.columns if key not in known and key != keys.weight]
    findings = [
        finding("missing-key", f"{name}: the key column {key!r} is not in the data", key, name)
        for key in missing
    ]
    shown = [key for key in keys.columns if key not in missing]
    features = [feature.name for feature in schema.features]
    frame = by_column(frame, [*features, *schema.labels, *shown])
    data = collect(frame, dict.fromkeys([*shown, *schema.labels]))
    checksums = no_rows_yet(data.height)
    if not data.height:
        findings.append(finding("no-rows", f"{name} has no rows", None, name, {"rows": 0}))
        return _Split(name, frame, {}, checksums, tuple(findings))
    weight = None
    if keys.weight is not None:
        try:
            weight = sample_weights(data[keys.weight], name)
        except DataError as error:
            findings.append(_unusable(error, keys.weight, name))
    labels, found = read_outcomes(data, schema, orphans, name, weight)
    for label in labels.values():
        add_column(checksums, np.nan_to_num(label, nan=-1.5).view(np.uint64))
    return _Split(name, frame, labels, checksums, (*findings, *found))


def _of_features(schema: Schema, splits: Mapping[str, _Split]) -> list[Finding]:
    train = splits["train"]
    known, by_task = hidden_labels(train.labels, schema), labels_by_task(schema, train.labels)
    findings: list[Finding] = []
    for feature in schema.features:
        column = train.column(feature.name)
        found = _coded(feature, column, splits, findings)
        if found is None:
            continue
        fitted, coded = found
        findings += label_findings(column, coded["train"], known, by_task)
        findings += value_findings(feature.name, fitted, coded)
        findings += drift_findings(feature.name, fitted, coded)
    return findings


def _of_keys(schema: Schema, splits: Mapping[str, _Split]) -> list[Finding]:
    keys, findings = schema.keys, list[Finding]()
    features = {feature.name for feature in schema.features}
    for key in keys.columns:
        having = {name: each for name, each in splits.items() if key in column_names(each.frame)}
        if "train" not in having:
            continue
        if key == keys.time:
            findings += time_findings({name: each.column(key) for name, each in having.items()})
        if key in features and key != keys.user:  # its values are in the checksums already
            continue
        of_key = DenseFeature(key) if key == keys.weight else SparseFeature(key)
        column = having["train"].column(key)
        seen = key in features or len(having) < len(splits)
        found = _coded(of_key, column, having, findings, seen=seen)
        if found is not None and key == keys.user:
            findings += user_findings(key, found[1])
    return findings


def _coded(
    feature: Feature,
    train: pl.Series,
    splits: Mapping[str, _Split],
    findings: list[Finding],
    *,
    seen: bool = False,
) -> tuple[Coding, dict[str, Coded]] | None:
    """Return a column of every split as codes, and add it to the checksums unless it is `seen`.

    A split whose values cannot be read is a finding and is left out; None if it is `train`.
    """
    try:
        fitted = coding(feature, train)
    except DataError as error:
        findings.append(_unusable(error, feature.name, "train"))
        return None
    coded: dict[str, Coded] = {}
    for name, split in splits.items():
        try:
            coded[name] = fitted.encode(train if name == "train" else split.column(feature.name))
        except DataError as error:
            findings.append(_unusable(error, feature.name, name))
    if not seen and len(coded) == len(splits):  # else no row of one split could equal another's
        for name, split in splits.items():
            add_column(split.checksums, coded[name].exact)
    return fitted, coded


def _unusable(error: DataError, column: str, split: str) -> Finding:
    message = str(error) if str(error).startswith(f"{split}: ") else f"{split}: {error}"
    return finding("values", message, column, split)
