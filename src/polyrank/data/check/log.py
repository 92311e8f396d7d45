"""The audit itself: it reads a column at a time, and continues after a fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import polars as pl

from polyrank.data.check.audit import Audit, Finding, finding
from polyrank.data.check.columns import (
    Coded,
    Coding,
    coding,
    drift_findings,
    label_findings,
    value_findings,
)
from polyrank.data.check.drawn import drawn
from polyrank.data.check.one_feature import labels_by_task
from polyrank.data.check.outcomes import (
    cold_findings,
    loss_findings,
    read_outcomes,
    request_findings,
)
from polyrank.data.check.position import position_findings
from polyrank.data.check.splits import (
    add_column,
    add_label,
    duplicate_findings,
    no_rows_yet,
    time_findings,
    twin_findings,
    user_findings,
)
from polyrank.data.labels import Orphans, hidden_labels
from polyrank.data.read import Joined, by_column, collect, column_names
from polyrank.data.sampling import SPLITS
from polyrank.data.shared import Shared
from polyrank.data.table import sample_weights
from polyrank.errors import DataError, did_you_mean
from polyrank.meter import metered
from polyrank.schema import DenseFeature, Feature, Schema, SparseFeature

Frame = pl.LazyFrame | pl.DataFrame


def check(
    schema: Schema,
    frames: Mapping[str, Frame | Joined],
    *,
    orphans: Orphans = "error",
    normalized: bool = True,
    memory: int | None = None,
) -> Audit:
    """Return everything that a log shows before it is trained on; see docs/audit.md.

    One column is in memory at a time where the frames are Parquet files. Where even that is more
    than `memory`, rows are drawn at random, and a finding says how many.

    Args:
        schema: features, tasks and keys.
        frames: rows of `train` and, if there are any, of `valid` and `test`. Lists that rows share
            are not looked at, which is a finding: joined, they may be a hundred times the log.
        orphans: what becomes of a child label without its parent.
        normalized: whether the balance divides each loss by its constant predictor's.
        memory: bytes that the audit may take; None is no limit.

    Raises:
        DataError: a split that is unknown or missing, an unknown rule, or a log that cannot be
            read, such as one without a column.
    """
    for split in frames:
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
    if "train" not in frames:
        raise DataError("an audit compares with the training rows: give train")
    if orphans not in get_args(Orphans):
        hint = did_you_mean(orphans, get_args(Orphans))
        raise DataError(f"unknown value of orphans: {orphans!r}{hint}")
    rows, elsewhere, keys = _joined(frames, schema)
    features = [feature for feature in schema.features if feature.name not in elsewhere]
    rows, notes = drawn(schema, features, keys, rows, memory)
    findings: list[Finding] = [*notes]
    for name in elsewhere:
        message = f"feature {name!r} has lists that rows share: the audit does not look at them"
        findings.append(finding("shared-lists", message, name))
    opened = {
        name: _opened(name, each, schema, features, keys, orphans, findings)
        for name, each in rows.items()
    }
    splits = {name: each for name, each in opened.items() if len(each.checksums)}
    if "train" in splits:
        findings += loss_findings(schema, splits["train"].labels, normalized=normalized)
        request = schema.keys.request
        if schema.ranked and request in column_names(splits["train"].frame):
            train = splits["train"]
            findings += request_findings(schema, train.labels, train.column(request))
        time = schema.keys.time
        if time is not None and time in column_names(splits["train"].frame):
            train = splits["train"]
            findings += cold_findings(schema, train.labels, train.column(time))
        if schema.ranked and request not in column_names(splits["train"].frame):
            message = f"train: a ranking loss needs the key column {request!r}"
            findings.append(finding("nothing-to-rank", message, request, "train"))
        findings += position_findings(schema, rows["train"], splits["train"].labels)
        _check_features(schema, features, keys, splits, findings)
        _check_keys(schema, splits, findings)
        findings += duplicate_findings({name: each.checksums for name, each in splits.items()})
    return Audit(tuple(findings), {name: len(each.checksums) for name, each in opened.items()})


def _joined(
    frames: Mapping[str, Frame | Joined], schema: Schema
) -> tuple[dict[str, Frame], dict[str, Feature], list[str]]:
    """Return the rows of each split, the features whose lists they share, and the keys of these."""
    rows: dict[str, Frame] = {}
    features: dict[str, Feature] = {}
    keys: dict[str, str] = {}
    for split, each in frames.items():
        if isinstance(each, Joined):
            rows[split], shared = Shared.of(each, schema)
            features |= shared.features
            keys[split] = each.key
        else:
            rows[split] = each
    if keys and (len(keys) < len(frames) or len(set(keys.values())) > 1):
        raise DataError(f"all splits must share their lists by one key, got {keys}")
    return rows, features, list(dict.fromkeys(keys.values()))


@dataclass(frozen=True, eq=False)
class _Split:
    """One split: its rows, its labels, and checksums of the columns that were read so far."""

    frame: Frame
    labels: Mapping[str, np.ndarray]
    checksums: np.ndarray

    def column(self, name: str) -> pl.Series:
        return collect(self.frame, [name]).to_series()

    def read(self, feature: Feature) -> pl.Series:
        return feature.column(collect(self.frame, feature.columns))


def _opened(
    name: str, frame: Frame, schema: Schema, features: Sequence[Feature], lists: Sequence[str],
    orphans: Orphans, findings: list[Finding],
) -> _Split:  # fmt: skip
    known, keys = column_names(frame), schema.keys
    missing = [key for key in keys.columns if key not in known and key != keys.weight]
    for key in missing:
        message = f"{name}: the key column {key!r} is not in the data"
        findings.append(finding("missing-key", message, key, name))
    shown = [key for key in keys.columns if key not in missing]
    columns = [column for feature in features for column in feature.columns]
    labelled = [*schema.labels, *schema.extras, *schema.made_of]
    frame = by_column(frame, [*columns, *lists, *labelled, *shown])
    data = collect(frame, dict.fromkeys([*shown, *labelled]))
    checksums = no_rows_yet(data.height)
    if not data.height:
        findings.append(finding("no-rows", f"{name} has no rows", None, name, {"rows": 0}))
        return _Split(frame, {}, checksums)
    weight = None
    if keys.weight is not None:
        try:
            weight = sample_weights(data[keys.weight], name)
        except DataError as error:
            findings.append(_unusable(error, keys.weight, name))
    labels, found = read_outcomes(data, schema, orphans, name, weight)
    findings += found
    for label in labels.values():
        add_label(checksums, label)
    return _Split(frame, labels, checksums)


def _check_features(
    schema: Schema, features: Sequence[Feature], lists: Sequence[str],
    splits: Mapping[str, _Split], findings: list[Finding],
) -> None:  # fmt: skip
    train = splits["train"]
    rows, whole = no_rows_yet(len(train.checksums)), True
    for key in lists:  # rows of one key have the same lists
        found = _coded(SparseFeature(key), train.column(key), splits, findings)
        if found is not None:
            add_column(rows, found[1]["train"].exact)
    known, by_task = hidden_labels(train.labels, schema), labels_by_task(schema, train.labels)
    for feature in metered(features, "auditing the log", unit="features"):
        column = train.read(feature)
        found = _coded(feature, column, splits, findings)
        if found is None:
            whole = False  # rows that differ in this feature alone would look alike
            continue
        fitted, coded = found
        add_column(rows, coded["train"].exact)
        findings += label_findings(column, coded["train"], known, by_task)
        findings += value_findings(feature.name, fitted, coded)
        findings += drift_findings(feature.name, fitted, coded)
    if whole:
        findings += twin_findings(rows, train.labels.values())


def _check_keys(schema: Schema, splits: Mapping[str, _Split], findings: list[Finding]) -> None:
    keys, features = schema.keys, {feature.name for feature in schema.features}
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
            coded[name] = fitted.encode(train if name == "train" else split.read(feature))
        except DataError as error:
            findings.append(_unusable(error, feature.name, name))
    if not seen and len(coded) == len(splits):  # else no row of one split could equal another's
        for name, split in splits.items():
            add_column(split.checksums, coded[name].exact)
    return fitted, coded


def _unusable(error: DataError, column: str, split: str) -> Finding:
    message = str(error) if str(error).startswith(f"{split}: ") else f"{split}: {error}"
    return finding("values", message, column, split)
