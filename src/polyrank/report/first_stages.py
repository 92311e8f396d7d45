"""What a page shows of first stages: what they say alone, and what the network makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from polyrank.bundle.model import Bundle
from polyrank.data.table import Table
from polyrank.labels import LABELS
from polyrank.metrics.scorecard import scorecard
from polyrank.models.outputs import margins_of
from polyrank.stages.effects import FieldEffects
from polyrank.stages.first import FirstStages
from polyrank.stages.stage import margin_name

MOST_EFFECTS = 10  # of a field and head
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Gain(NamedTuple):
    """The metric that a score is looked at first by, before calibration."""

    metric: str
    alone: float  # of the first stages' margins
    together: float  # with the network


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstStagesUse:
    """What the first stages of a bundle say, and what the network adds on some rows.

    Margins, effects and changes are logits, logarithms of a count's mean, or deviations of a label
    that is a number.

    Args:
        heads: names of the margins: that of a task, or `stars ≥ 2` of one with several.
        stages: names of those that have each margin, the one that is added first.
        units: what one deviation is in the label's own unit, of each margin that is a number.
        ratios: of each margin whose effects multiply a mean, what effects are multiplied by before
            they are exponents.
        effects: of ids, by field and margin.
        importance: of features, by stage and head: shares of the gain.
        margins: quantiles of each margin around its mean; {} without rows.
        changes: quantiles of what the network adds to it, likewise.
        gains: by score: what the network is worth; {} without rows, none of a score that the
            rows cannot measure.

    Shape:
        margins, changes: as long as `QUANTILES`
    """

    heads: tuple[str, ...]
    stages: Mapping[str, tuple[str, ...]]
    units: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict)
    effects: tuple[FieldEffects, ...] = ()
    importance: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    margins: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    changes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    gains: Mapping[str, Gain] = field(default_factory=dict)


def first_stages(bundle: Bundle) -> FirstStagesUse | None:
    """Return what a bundle's first stages say without a row; None if it has no first stage."""
    first = bundle.ranker.first
    if first is None:
        return None
    stages, names = dict(first.stage.items()), _names(bundle, first)
    units, ratios = {}, {}
    for (head, output), name in names.items():
        likelihood = bundle.likelihoods[head]
        curvature = bundle.schema.by_name[head].label_kind.curvatures[output]
        if curvature == "gaussian":
            (ratios if likelihood.of_log else units)[name] = likelihood.unit
        elif curvature == "poisson":
            ratios[name] = 1.0
    return FirstStagesUse(
        heads=tuple(names.values()),
        stages={name: _in_use(first, output) for output, name in names.items()},
        units=units,
        ratios=ratios,
        effects=tuple(
            found for each in stages.values() for found in each.effects(bundle.vocab, MOST_EFFECTS)
        ),
        importance={name: shares for name, each in stages.items() if (shares := each.importance())},
    )


def _names(bundle: Bundle, first: FirstStages) -> dict[tuple[str, int], str]:
    """Return what each margin is called, by head and output."""
    tasks = bundle.schema.by_name
    return {(head, at): margin_name(tasks[head], at) for head, at in first.outputs}


def _in_use(first: FirstStages, output: tuple[str, int]) -> tuple[str, ...]:
    of_head = first.added[:, first.heads.index(output[0])].tolist()
    added = dict(zip(first.places, of_head, strict=True))
    having = [name for name, each in first.stage.items() if output in each.outputs]
    return tuple(sorted(having, key=lambda name: -added[name]))


def with_changes(
    use: FirstStagesUse, bundle: Bundle, table: Table, logits: Mapping[str, np.ndarray]
) -> FirstStagesUse:
    """Return the same with what the network adds on encoded rows, by its logits on these."""
    margins = {
        head: each.numpy().astype(np.float64)
        for head, each in margins_of(bundle.ranker, table).items()
    }
    first = bundle.ranker.first
    counts = slice(None) if table.weight is None else table.weight > 0
    if first is None or not len(np.zeros(len(table))[counts]):
        return use
    own, changes = {}, {}
    for (head, output), name in _names(bundle, first).items():
        margin, logit = (
            each[head].reshape(len(table), -1)[counts, output] for each in (margins, logits)
        )
        own[name], changes[name] = _quantiles(margin - margin.mean()), _quantiles(logit - margin)
    alone = {head: np.where(np.isnan(each), logits[head], each) for head, each in margins.items()}
    return replace(use, margins=own, changes=changes, gains=_gains(bundle, table, alone, logits))


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist())


def _gains(
    bundle: Bundle,
    table: Table,
    margins: Mapping[str, np.ndarray],
    logits: Mapping[str, np.ndarray],
) -> dict[str, Gain]:
    """Measure the margins as if they were the logits, and the logits; both before calibration."""
    looked_at = {task.label_kind.default_metric for task in bundle.schema.tasks}
    alone, together = (
        scorecard(
            bundle.schema, bundle.columns(table, each, raw=True), table.labels_by_task,
            split="rows", weight=table.weight, only=looked_at,
        )
        for each in ({**logits, **margins}, logits)
    )  # fmt: skip
    found = {}
    for before, after in zip(alone, together, strict=True):
        name = LABELS[before.kind].default_metric
        if name in before.metrics and name in after.metrics:
            found[before.name] = Gain(name, before.value(name), after.value(name))
    return found
