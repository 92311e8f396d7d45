"""What the labels of a log show: values, orphans, missing classes, and the scales of losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding
from polyrank.data.labels import (
    Orphans,
    bad_labels,
    find_orphans,
    label_arrays,
    zeroed,
)
from polyrank.schema import Schema
from polyrank.terms import ALL, Population, population, population_label

# Losses that differ less than this start so nearly alike that no balance is needed.
UNEVEN_LOSSES = 2.0


def read_outcomes(
    frame: pl.DataFrame,
    schema: Schema,
    orphans: Orphans,
    split: str,
    weight: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """Return the labels of one split as they will be learnt, and what is wrong with them.

    They are NaN where they were not observed, where they cannot be read, and where the row will be
    dropped as an orphan.

    Args:
        frame: rows with the label columns, and the keys that messages may show.
        schema: the tasks.
        orphans: the rule.
        split: name of these rows.
        weight: sample weights; a row of weight 0 gives a task no label to learn.
    """
    bad = bad_labels(frame, schema, split)
    findings = [
        Finding(
            "error", "label-values", reason, schema.by_name[task].column, split,
            {"rows": frame.height}, "convert the label: training refuses it as it is",
        )
        for task, reason in bad.items()
    ]  # fmt: skip
    unreadable = [schema.by_name[task].column for task in bad]
    frame = frame.with_columns(pl.lit(None, pl.Float64).alias(column) for column in unreadable)
    dropped = np.zeros(frame.height, dtype=bool)
    # All are found before any is zeroed, in the order in which training would.
    for orphan in list(find_orphans(frame, schema, zero=orphans == "zero")):
        rows = int(orphan.rows.sum())
        numbers = {"rows": rows, "share": rows / frame.height, "parent": orphan.parent}
        found = f"{split}: {orphan.found} where its parent {orphan.parent!r} = 0"
        if orphans == "error":
            findings.append(
                Finding(
                    "error", "orphans", f"{found}: {orphan.first}", orphan.child, split, numbers,
                    "fix the log, or set orphans = 'drop' (leave the rows out) or 'zero' (the "
                    "child did not happen)",
                )
            )  # fmt: skip
            continue
        effect = "they are left out" if orphans == "drop" else "the child is taken as 0"
        findings.append(
            Finding(
                "info", "orphans", f"{found}; by orphans = {orphans!r} {effect}", orphan.child,
                split, numbers, "nothing, if that is what the log means",
            )
        )  # fmt: skip
        if orphans == "drop":
            dropped |= orphan.rows.to_numpy()
        else:
            frame = zeroed(frame, orphan)
    labels = label_arrays(frame, schema)
    if dropped.any():
        labels = {task: np.where(dropped, np.nan, label) for task, label in labels.items()}
    return labels, [*findings, *_class_findings(schema, labels, split, set(bad), weight)]


def _class_findings(
    schema: Schema,
    labels: Mapping[str, np.ndarray],
    split: str,
    without: set[str],
    weight: np.ndarray | None,
) -> list[Finding]:
    """Return an error for each term, and each task on all rows, that has no label or only one.

    What follows from a finding about an ancestor is not said again, nor is anything of the tasks
    `without` a label that can be read.
    """
    findings: list[Finding] = []
    weightless = np.zeros(0, dtype=int) if weight is None else np.flatnonzero(weight == 0)
    among = " of weight above 0" if len(weightless) else ""
    for where in _supervised(schema):
        if without & {*where.conditions, *where.heads}:
            continue
        label = population_label(labels, where)
        label[weightless] = np.nan
        observed, positives = int((~np.isnan(label)).sum()), int((label == 1).sum())
        column = schema.by_name[where.task].column
        numbers = {"rows": observed, "positives": positives}
        if not observed:
            missing, check = "no row with an observed label", "no-labels"
        elif where.kind != "binary" or 0 < positives < observed:
            continue
        elif positives:
            missing, check = "no negatives", "no-negatives"
        else:
            missing, check = "no positives", "no-positives"
        if check != "no-negatives":
            without = without | {where.task}
        message = f"{split}: {where.name!r} has {missing}{among}"
        if observed:
            message += f" ({positives:,} positives in {observed:,} observed rows)"
        findings.append(
            Finding(
                "error", check, message,
                column, split, numbers,
                "check the join that made the label, take more rows, or leave the task out"
                if split == "train"
                else f"enlarge {split}, or split in another way: {where.name!r} cannot be scored "
                "on it",
            )
        )  # fmt: skip
    return findings


def loss_findings(
    schema: Schema, labels: Mapping[str, np.ndarray], *, normalized: bool
) -> list[Finding]:
    """Return how far apart the constant predictors' losses of the terms lie, in training."""
    losses: dict[str, float] = {}
    for term in schema.objective:
        label = population_label(labels, term.population)
        values = label[~np.isnan(label)]
        if not len(values):
            continue
        mean = float(values.mean())
        if term.population.kind == "binary":
            losses[term.name] = _entropy(mean)
        else:  # a target is standardised before it is learnt
            losses[term.name] = float(values.std() > 0)
    losses = {name: loss for name, loss in losses.items() if loss > 0}
    if len(losses) < 2:
        return []
    low, high = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
    ratio = losses[high] / losses[low]
    if ratio < UNEVEN_LOSSES:
        return []
    balanced = (
        "the balance divides each by its own (normalize), so they start level"
        if normalized
        else "the balance does not divide them by that"
    )
    message = (
        f"a constant prediction costs {losses[high]:.4g} on {high!r} and {losses[low]:.4g} on "
        f"{low!r}, {ratio:.1f} times less; {balanced}"
    )
    remedy = "balance = { kind = 'sum', normalize = true }, the default, levels them"
    return [
        Finding("info", "loss-scale", message, None, "train", {"ratio": ratio, **losses}, remedy)
    ]


def _supervised(schema: Schema) -> Iterator[Population]:
    """The terms' populations and each binary task's on all rows, parents first, each once."""
    found: dict[str, Population] = {}
    for task in sorted(schema.tasks, key=lambda task: len(schema.ancestors(task.name))):
        spaces = (ALL, *task.spaces) if task.kind == "binary" else task.spaces
        for space in spaces:
            where = population(schema, task, space)
            found.setdefault(where.name, where)
    yield from found.values()


def _entropy(rate: float) -> float:
    if not 0 < rate < 1:
        return 0.0
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))
