"""What a page is written from, gathered once: sections read it and compute nothing heavy."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from polyrank.bundle.model import Bundle
from polyrank.calibration.fitting import Calibrator
from polyrank.data.check import Audit
from polyrank.data.delays import statistics
from polyrank.data.read import column_names
from polyrank.data.statistics import label_groups
from polyrank.data.table import Table
from polyrank.debias import PropensityUse
from polyrank.inspection.dependence import numbers_of
from polyrank.inspection.importance import Importance
from polyrank.labels.kind import LabelKind, RowGroups
from polyrank.metrics.fusion import trade_off
from polyrank.metrics.predicted import outputs_of, predicted, true_probability
from polyrank.metrics.scorecard import Scorecard
from polyrank.metrics.segments import columns_needed, dimensions, score_segments
from polyrank.metrics.undefined import Undefined
from polyrank.models.expert_use import ExpertUse, experts_of
from polyrank.report.first_stages import FirstStagesUse, first_stages, with_changes
from polyrank.schema import Schema
from polyrank.terms import ALL, population_label, populations

LIBRARIES = ("polyrank", "torch", "numpy", "numba", "polars", "pyarrow", "altair")


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows that one score of the scorecard saw; every array (rows,)."""

    name: str
    task: str
    is_event: bool
    prediction: np.ndarray
    label: np.ndarray | None  # None where only the truth is known, as of `buy|click @ all`
    truth: np.ndarray | None  # the true probability, where it is known
    weight: np.ndarray | None
    raw: np.ndarray | None = None  # before calibration; None where no calibration changes it
    groups: RowGroups | None = None  # of these rows, where their kind of label has groups
    outputs: np.ndarray | None = None  # (rows, outputs), all of a head that has several
    kind: LabelKind | None = None  # of the label, with its options

    @property
    def both(self) -> bool:
        """Whether both labels of an event are there, so that a curve can be drawn."""
        return self.is_event and self.label is not None and 0 < self.label.sum() < len(self.label)

    def mean(self, values: np.ndarray) -> float:
        """Return the weighted mean of something of these rows."""
        return float(np.average(values, weights=self.weight))


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that a page shows."""

    name: str  # the page's title
    schema: Schema
    config: Mapping[str, Any]  # the resolved experiment as plain tables
    history: pl.DataFrame  # one line an epoch
    scorecard: Scorecard | None  # None where nothing was scored
    rows: Mapping[str, ScoredRows]  # by score; empty where no rows could be read
    missing: str | None  # why there are no rows, in a sentence
    unaudited: str | None = None  # why there is no audit, likewise
    notes: tuple[str, ...] = ()  # what a reviewer should know of the figures, a sentence each
    trained: datetime | None = None  # when the bundle was written
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)  # by task
    first: FirstStagesUse | None = None  # None where the model has no first stage
    experts: tuple[ExpertUse, ...] = ()  # a level each; empty where no gate mixes
    propensities: tuple[PropensityUse, ...] = ()  # of each task that weighs its rows by them
    segments: Mapping[str, pl.DataFrame] = field(default_factory=dict)  # by joint score
    # By the name whose weight in the fused score is swept: that weight, then the metric of one
    # outcome and of another.
    trade_offs: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    importance: Importance | None = None  # of the features; None where nobody asked
    dependence: pl.DataFrame | None = None  # of outputs on numbers, likewise
    audit: Audit | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # libraries and machine

    @property
    def labelled(self) -> tuple[tuple[ScoredRows, np.ndarray], ...]:
        """The scores of events that have both labels, with these: what a curve can be drawn of."""
        both = (rows for rows in self.rows.values() if rows.both)
        return tuple((rows, rows.label) for rows in both if rows.label is not None)


def gather(
    bundle: Bundle,
    rows: Any = None,
    *,
    name: str | None = None,
    split: str | None = None,
    missing: str = "no rows were given",
    trained: datetime | None = None,
    audit: Audit | None = None,
    unaudited: str = "no audit was given",
    inspect: bool = False,
) -> Evidence:
    """Return the evidence of a bundle: predict the rows, and keep what the page draws.

    Without rows it is the bundle's own scorecard alone. `split` names rows that are others than
    that scorecard's: they get one of their own. `missing` says why there are no rows, `unaudited`
    why there is no audit of the log that the bundle learned from; `trained` is when it was written.
    With `inspect` there is the importance of the features and the dependence on numbers, which take
    many predictions: about (features × 5 + numbers × 20) of up to 20,000 and 2,000 rows.
    """
    about = Evidence(
        name=name or str(bundle.config.get("name", "run")),
        schema=bundle.schema,
        config=bundle.config,
        history=bundle.history,
        scorecard=bundle.scorecard,
        rows={},
        missing=missing,
        unaudited=None if audit is not None else unaudited,
        trained=trained,
        calibrators=bundle.calibrators,
        first=first_stages(bundle),
        audit=audit,
        environment=environment(),
    )
    return about if rows is None else _with_rows(about, bundle, rows, split, inspect=inspect)


def _with_rows(
    about: Evidence, bundle: Bundle, rows: Any, split: str | None, *, inspect: bool
) -> Evidence:
    """Return the evidence with all that takes rows: these are encoded once."""
    schema, frame = bundle.schema, bundle.opened(rows)
    carried = columns_needed(schema, column_names(frame.lazy()), None)
    # The scorecard's own rows are read as it read them: where they were sampled, weighted.
    own = "rows" if about.scorecard is None else about.scorecard.split
    table = bundle.encode(frame, split=split or own, carried=carried)
    table = bundle.ranker.told(table)  # once: trees take their time
    logits = bundle.logits(table)
    predictions = bundle.columns(table, logits)
    mapped = any(each.map is not None for each in bundle.calibrators.values())
    raw = bundle.columns(table, logits, raw=True) if mapped else None
    groups = label_groups(table, bundle.targets)
    scored = scored_rows(schema, predictions, table, raw, groups)
    fresh = split is not None or about.scorecard is None
    card = bundle.score_labelled(table, split or own) if fresh else about.scorecard
    assert card is not None
    first = about.first
    trade_offs, untraded = _trade_offs(bundle, table, predictions)
    return replace(
        about,
        scorecard=card,
        rows=scored,
        missing=None,
        notes=(*_young(table), *(() if fresh else differences(card, scored)), *untraded),
        first=None if first is None else with_changes(first, bundle, table, logits),
        experts=experts_of(bundle.ranker, table),
        # The weights of training were of rows as they were logged.
        propensities=bundle.propensities(frame, split=split or own)
        if schema.served
        else bundle.propensities_labelled(table, logits),
        segments=_segments(bundle, table, predictions),
        trade_offs=trade_offs,
        importance=bundle.importance_labelled(table, split or own, tied=bundle.tied(frame))
        if inspect
        else None,
        dependence=bundle.dependence_encoded(table, _numbers(bundle, table)) if inspect else None,
    )


def _numbers(bundle: Bundle, table: Table) -> dict[str, np.ndarray]:
    """Return the numbers of each feature that has some in these rows."""
    found = {
        each.name: each.values(table.carried[each.name]) for each in numbers_of(bundle.schema, None)
    }
    return {name: each for name, each in found.items() if not np.isnan(each).all()}


def _young(table: Table) -> Iterator[str]:
    """Say of each task that is known late how many of the scored rows time leaves out."""
    for name, each in statistics(table.schema, table.labels).items():
        window = table.schema.delays[name].window
        shown = window if isinstance(window, str) else f"{window:g} s"
        if each.immature:
            yield (
                f"{each.immature:,} of {each.rows:,} rows are younger than the window of {shown} "
                f"of {name!r} at the log's cut: every score whose path has it leaves them out."
            )


def scored_rows(
    schema: Schema,
    predictions: Mapping[str, np.ndarray],
    table: Table,
    raw: Mapping[str, np.ndarray] | None = None,
    groups: Mapping[str, RowGroups] = MappingProxyType({}),
) -> dict[str, ScoredRows]:
    """Return the rows of each score, as the scorecard chooses them.

    `raw` holds the output columns before calibration, where something is calibrated; `groups` those
    of the rows of each task whose kind of label has some.
    """
    labels, found = table.labels_by_task, {}
    counts = np.ones(len(table), bool) if table.weight is None else table.weight > 0
    for where in populations(schema):
        label = population_label(labels, where)
        truth = true_probability(schema, table.truth, where)
        estimate = predicted(schema, predictions, where)
        outputs = outputs_of(schema, predictions, where)
        before = None if raw is None else predicted(schema, raw, where)
        if before is not None and np.array_equal(before, estimate):
            before = None
        seen = [(where.name, label, counts & ~np.isnan(label))]
        if where.given and truth is not None:
            seen.append((where.on_all_rows, None, counts))
        for name, outcome, rows in seen:
            columns = (outcome, truth, table.weight, before)
            kept = [None if each is None else each[rows].astype(np.float64) for each in columns]
            prediction, is_event = estimate[rows].astype(np.float64), where.label_kind.is_event
            of = groups.get(where.task)
            own = None if of is None else replace(of, codes=of.codes[rows])
            found[name] = ScoredRows(
                name, where.task, is_event, prediction, *kept, groups=own,
                outputs=None if outputs is None else outputs[rows].astype(np.float64),
                kind=where.label_kind,
            )  # fmt: skip
    return found


def differences(card: Scorecard, scored: Mapping[str, ScoredRows]) -> tuple[str, ...]:
    """Say where the rows are no longer those that the scorecard is of."""
    for score in card:
        rows = scored.get(score.name)
        if rows is None or rows.label is None or score.rows is None or not len(rows.label):
            continue
        counts, expected = [f"{len(rows.label):,} rows"], [f"{score.rows:,} rows"]
        if score.positives is not None:
            counts.append(f"{int(rows.label.sum()):,} positives")
            expected.append(f"{score.positives:,} positives")
        mean = rows.mean(rows.prediction)
        before = score.prediction_mean
        same = before is None or abs(mean / before - 1) < 1e-3
        if (rows.weight is None and counts != expected) or not same:
            return (
                f"The {card.split} rows have changed since the run was scored: {score.name} now "
                f"has {' and '.join(counts)}, predicted at {mean:.4g}; the scorecard is of "
                f"{' and '.join(expected)}, at {before:.4g}. The charts show the "
                "rows as they are now.",
            )
    return ()


def joint_scores(schema: Schema) -> tuple[str, ...]:
    """Return the scores of outcomes on all rows, such as `buy @ all`, which every row has."""
    return tuple(
        where.name
        for where in populations(schema)
        if where.label_kind.is_event and where.space == ALL and where.given is None
    )


def _segments(
    bundle: Bundle, table: Table, predictions: Mapping[str, np.ndarray]
) -> dict[str, pl.DataFrame]:
    by = dimensions(table, bundle.vocab, None)
    return {
        score: score_segments(
            bundle.schema, predictions, table.labels_by_task, by, score=score, weight=table.weight
        )
        for score in joint_scores(bundle.schema)
    }


def _trade_offs(
    bundle: Bundle, table: Table, predictions: Mapping[str, np.ndarray]
) -> tuple[dict[str, pl.DataFrame], list[str]]:
    """Return a curve for each weight but the first: an order has no unit, so one may stand still.

    The first outcome is traded for the one whose weight is swept, or for the last one. Beside the
    curves stands a sentence for each that these rows cannot give.
    """
    scores = joint_scores(bundle.schema)
    if bundle.fusion is None or len(scores) < 2:
        return {}, []
    found, missing = {}, []
    for name in list(bundle.fusion.weights)[1:]:
        other = f"{name} @ {ALL}" if f"{name} @ {ALL}" in scores[1:] else scores[-1]
        try:
            found[name] = trade_off(
                bundle.schema, bundle.fusion, predictions, table.carried.to_dict(),
                table.labels_by_task, name, (scores[0], other), weight=table.weight,
            )  # fmt: skip
        except Undefined as reason:
            missing.append(f"There is no trade-off curve of the weight of {name}: {reason}.")
    return found, missing


def environment() -> dict[str, str]:
    """Return the machine and the libraries of this process."""
    found = {
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
