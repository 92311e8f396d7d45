"""What the labels of a log show: values, orphans, missing classes, and the scales of losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding, finding
from polyrank.data.delays import Times, cuts, late
from polyrank.data.labels import (
    Orphans,
    bad_labels,
    find_orphans,
    label_arrays,
    raw_label,
    remark_in_words,
    zeroed,
)
from polyrank.data.requests import request_statistics
from polyrank.delay.method import IMMATURE
from polyrank.errors import DataError
from polyrank.labels.kind import Remark
from polyrank.ranking import Ranking
from polyrank.schema import Schema, Task
from polyrank.terms import ALL, Population, own_population, population, population_label

# Losses that differ by less than this factor start alike enough to need no balance.
UNEVEN_LOSSES = 2.0
# The newest tenth of a log is cold if an event's rate there is below that of the earlier ones by a
# sixth, and by 4 standard deviations; with fewer expected events, chance decides.
TENTHS = 10
COLD_SHARE = 1 / 6
COLD_DEVIATIONS = 4.0
COLD_EVENTS = 20


def read_outcomes(
    frame: pl.DataFrame,
    schema: Schema,
    orphans: Orphans,
    split: str,
    weight: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """Return the labels of one split as they will be learned, and what is wrong with them.

    They are NaN where they were not observed, where they cannot be read, and where the row will be
    dropped as an orphan; a row of weight 0 has no label to learn. The frame holds the label columns
    and those beside them, and the keys that messages may show.
    """
    findings, bad = [], bad_labels(frame, schema, split)
    ends: Mapping[str, float] = {}
    if frame.height:
        try:
            ends = cuts(frame, schema, split)
        except DataError as error:
            findings.append(finding("no-time", str(error), schema.keys.time, split))
    for task, reason in bad.items():
        column, numbers = schema.by_name[task].column, {"rows": frame.height}
        findings.append(finding("label-values", reason, column, split, numbers))
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(column))
    dropped = np.zeros(frame.height, dtype=bool)
    # All are found before any is zeroed, as in training.
    for orphan in list(find_orphans(frame, schema, zero=orphans == "zero")):
        rows = int(orphan.rows.sum())
        numbers = {"rows": rows, "share": rows / frame.height, "parent": orphan.parent}
        message, note = f"{split}: {orphan.found} where its parent {orphan.parent!r} = 0", ""
        if orphans == "error":
            message += f": {orphan.first}"
        else:
            note = "nothing, if that is what the log means"
            message += f"; by orphans = {orphans!r} "
        if orphans == "drop":
            message += "they are left out"
            dropped |= orphan.rows.to_numpy()
        elif orphans == "zero":
            message += "the child counts as 0"
            frame = zeroed(frame, orphan)
        findings.append(finding("orphans", message, orphan.child, split, numbers, note=note))
    labels = label_arrays(frame, schema)
    for task in schema.tasks:
        if task.name not in bad and (task.label_kind.reads or task.label_kind.made_of):
            labels[task.name] = _beside(frame, task, split, findings, labels[task.name])
        if task.name in ends and task.name not in bad:
            labels[task.name] = _in_time(
                frame, schema, task, ends[task.name], split, findings, labels[task.name]
            )
    if dropped.any():
        labels = {task: np.where(dropped, np.nan, label) for task, label in labels.items()}
    found = _class_findings(schema, labels, split, set(bad), weight)
    return labels, [*findings, *found, *_absent_findings(schema, labels, split, set(bad))]


def _beside(
    frame: pl.DataFrame, task: Task, split: str, findings: list[Finding], label: np.ndarray
) -> np.ndarray:
    """Return a label as the columns beside it have it learned; add what these show."""
    try:
        own, columns = raw_label(frame, task)
    except DataError as error:
        findings.append(finding("values", f"{split}: {error}", task.column, split))
        return label
    findings += _remarked(task, task.label_kind.remarks(own, columns), split)
    return task.label_kind.observed(own, columns).astype(np.float64)


def _in_time(
    frame: pl.DataFrame, schema: Schema, task: Task, cut: float, split: str,
    findings: list[Finding], label: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return a label that is known late as its times have it learned; add what these show."""
    try:
        found, remarks = late(frame, schema, task, label.astype(np.float32), cut)
    except DataError as error:
        findings.append(finding("values", f"{split}: {error}", task.column, split))
        return label
    findings += _remarked(task, remarks, split)
    return found.label.astype(np.float64)


def _remarked(task: Task, remarks: Iterable[Remark], split: str) -> Iterator[Finding]:
    for remark in remarks:
        if rows := int(remark.rows.sum()):
            message = remark_in_words(task, remark, split)
            note = "" if remark.refused else "nothing, if that is what the log means"
            if not remark.refused:
                message += f": {remark.becomes}"
            numbers = {"rows": rows, "share": rows / len(remark.rows)}
            yield finding(remark.check, message, remark.column, split, numbers, note=note)


def _class_findings(
    schema: Schema,
    labels: Mapping[str, np.ndarray],
    split: str,
    without: set[str],
    weight: np.ndarray | None,
) -> Iterator[Finding]:
    """Yield an error for each term, and each task on all rows, that has no label or only one.

    What follows from an ancestor's finding is not repeated; tasks `without` a readable label are
    skipped.
    """
    weightless = np.zeros(0, dtype=int) if weight is None else np.flatnonzero(weight == 0)
    among = " of weight above 0" if len(weightless) else ""
    for where in _supervised(schema):
        if without & {*where.conditions, *where.heads}:
            continue
        label = population_label(labels, where)
        label[weightless] = np.nan
        observed, positives = int((~np.isnan(label)).sum()), int((label == 1).sum())
        if not observed:
            missing, check = "no row with an observed label", "no-labels"
        elif not where.label_kind.is_event or 0 < positives < observed:
            continue
        else:
            missing = "no negatives" if positives else "no positives"
            check = missing.replace(" ", "-")
        if check != "no-negatives":
            without = without | {where.task}
        message = f"{split}: {where.name!r} has {missing}{among}"
        if observed:
            message += f" ({positives:,} positives in {observed:,} observed rows)"
        column = schema.by_name[where.task].column
        numbers = {"rows": observed, "positives": positives}
        remedy = f"enlarge {split}, or split in another way: {where.name!r} cannot be scored on it"
        if not observed and any((labels[head] == IMMATURE).any() for head in where.heads):
            message += ": its rows are younger than the delay's window"
            remedy = (
                "say by `now` of the delay when the log was read, if that was a window later, or "
                f"split at random or by user: {where.name!r} cannot be scored on {split}"
            )
        yield finding(check, message, column, split, numbers, remedy=remedy * (split != "train"))


def _absent_findings(
    schema: Schema, labels: Mapping[str, np.ndarray], split: str, without: set[str]
) -> Iterator[Finding]:
    """Yield a warning for each task of which some value never occurs in training."""
    for task in schema.tasks:
        if split != "train" or task.name in without:
            continue
        label = population_label(labels, own_population(schema, task))
        label = label[~np.isnan(label)]
        if len(label) and (absent := task.label_kind.absent(label)):
            shown = ", ".join(absent[:8]) + (f", … {len(absent) - 8:,} more" * (len(absent) > 8))
            message = f"{split}: no row of label {task.column!r} (task {task.name!r}) is {shown}"
            numbers = {"values": len(absent), "rows": len(label)}
            yield finding("absent-values", message, task.column, split, numbers)


def loss_findings(
    schema: Schema, labels: Mapping[str, np.ndarray], *, normalized: bool
) -> Iterator[Finding]:
    """Yield how far apart the constant predictors' losses of the terms lie, in training.

    Kinds of label whose loss the label alone does not tell are left out.
    """
    losses: dict[str, float] = {}
    for term in schema.objective:
        if isinstance(term.method, Ranking):  # of the same rows as the likelihood beside it
            continue
        label = population_label(labels, term.population)
        values = label[~np.isnan(label)]
        if not len(values) or not values.std():  # its loss is 0
            continue
        if term.population.label_kind.is_event:
            rate = float(values.mean())
            losses[term.name] = float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))
        elif term.population.label_kind.standardised:
            losses[term.name] = 1.0
    if len(losses) < 2:
        return
    low, high = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
    ratio = losses[high] / losses[low]
    if ratio < UNEVEN_LOSSES:
        return
    does = "divides each by its own (normalize), so they start level"
    message = (
        f"a constant prediction costs {losses[high]:.4g} on {high!r} and {losses[low]:.4g} on "
        f"{low!r}, {ratio:.1f} times less; the balance "
        f"{does if normalized else 'does not divide them by that'}"
    )
    yield finding("loss-scale", message, None, "train", {"ratio": ratio, **losses})


def request_findings(
    schema: Schema, labels: Mapping[str, np.ndarray], request: pl.Series
) -> Iterator[Finding]:
    """Yield how many requests of training have nothing to rank, for each term that ranks.

    Args:
        schema: of the log.
        labels: of the training rows, by task.
        request: the request of each.
    """
    codes = request.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    for term in schema.objective:
        if not isinstance(term.method, Ranking):
            continue
        label = population_label(labels, term.population)
        found = request_statistics(codes, label)
        numbers = {"requests": found.requests, "mixed": found.mixed, "rows": found.rows}
        idle = found.requests - found.mixed
        message = (
            f"{term.name!r}: {idle:,} of {found.requests:,} requests have one label only, or one "
            "row, and give nothing"
        )
        check = "requests" if found.mixed else "nothing-to-rank"
        yield finding(check, message, request.name, "train", numbers)


def cold_findings(
    schema: Schema, labels: Mapping[str, np.ndarray], times: pl.Series
) -> Iterator[Finding]:
    """Yield which events look as if some of their newest labels had not come yet.

    Rows are cut into tenths in time. The last one is cold if its rate is well below that of the
    others, by what their rates differ among themselves and by chance. A task with a delay is not
    looked at: time decides which of its labels are known.

    Args:
        schema: of the log.
        labels: of the training rows, by task.
        times: of their impressions.
    """
    try:
        seconds = Times.of(times).seconds
    except DataError:  # which has a finding of its own
        return
    for task in schema.tasks:
        if task.delay is not None or not task.label_kind.is_event:
            continue
        where = own_population(schema, task)
        label = population_label(labels, where)
        rows = np.flatnonzero(~(np.isnan(label) | np.isnan(seconds)))
        if len(rows) < TENTHS:
            continue
        ordered = rows[np.argsort(seconds[rows], kind="stable")]
        tenths = np.array_split(label[ordered], TENTHS)
        rates = np.array([each.mean() for each in tenths])
        before, last = rates[:-1].mean(), rates[-1]
        count = len(tenths[-1])
        # The tenth before the last may be cold as well: it says nothing of how rates differ.
        spread = rates[:-2].var(ddof=1) + before * (1 - before) / count
        drop = before - last
        if before * count < COLD_EVENTS or drop < COLD_SHARE * before:
            continue
        if drop > COLD_DEVIATIONS * np.sqrt(spread):
            message = (
                f"train: the last tenth of the rows in time has {where.predicted!r} in {last:.3g} "
                f"of them, and the earlier ones in {before:.3g}: not all labels may have come yet"
            )
            numbers = {"rows": count, "rate": float(last), "earlier": float(before)}
            yield finding("cold-end", message, task.column, "train", numbers)


def _supervised(schema: Schema) -> Iterator[Population]:
    """The terms' populations and each binary task's on all rows, parents first, each once."""
    found: dict[str, Population] = {}
    for task in sorted(schema.tasks, key=lambda task: len(schema.ancestors(task.name))):
        spaces = (ALL, *task.spaces) if task.label_kind.is_event else task.spaces
        for space in spaces:
            where = population(schema, task, space)
            found.setdefault(where.name, where)
    yield from found.values()
