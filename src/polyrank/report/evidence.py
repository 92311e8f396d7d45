"""What a page is written from, gathered once: a section reads it and computes nothing heavy."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
import polars as pl

from polyrank.bundle.model import Bundle
from polyrank.data.labels import Orphans
from polyrank.data.table import Table
from polyrank.metrics.scorecard import Scorecard
from polyrank.schema import Schema
from polyrank.terms import ALL, Population, joint_label, output_columns, populations

LIBRARIES = ("polyrank", "torch", "numpy", "numba", "polars", "pyarrow", "altair")


class Finding(Protocol):
    """What an audit of the log found."""

    @property
    def severity(self) -> str:
        """`error`, `warning` or `info`."""
        ...

    @property
    def check(self) -> str:
        """Which check found it."""
        ...

    @property
    def column(self) -> str | None:
        """Where; None for the log as a whole."""
        ...

    @property
    def message(self) -> str:
        """What was found, in a sentence."""
        ...

    @property
    def numbers(self) -> Mapping[str, Any]:
        """Its figures, by name."""
        ...

    @property
    def remedy(self) -> str:
        """What to do."""
        ...


@dataclass(frozen=True, eq=False)
class ExpertUse:
    """How the gates of one trunk, or of one level of it, use its experts.

    Args:
        name: of the level; empty where there is one.
        gates: names, a task's or `shared`.
        experts: names.
        weights: mean gate weight over the rows.
        utilisation: share of rows in which each expert has the largest weight of some gate.
        dead: share of each expert's units that are 0 in every row.
        similarity: of the experts' outputs, pairwise, 1 being the same.

    Shape:
        weights (gates, experts) · utilisation (experts,) · dead (experts,) ·
        similarity (experts, experts); None where it was not measured
    """

    name: str
    gates: tuple[str, ...]
    experts: tuple[str, ...]
    weights: np.ndarray
    utilisation: np.ndarray | None = None
    dead: np.ndarray | None = None
    similarity: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows that one score of the scorecard saw.

    Args:
        name: the score's.
        prediction: the model's probability.
        label: 0 or 1; None where only the truth is known, as of `buy|click @ all`.
        truth: the true probability, where it is known.
        weight: sample weights, if any.

    Shape:
        every array (rows,)
    """

    name: str
    prediction: np.ndarray
    label: np.ndarray | None
    truth: np.ndarray | None
    weight: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that a page shows.

    Args:
        name: the page's title.
        schema: features, tasks and keys.
        config: the resolved experiment as plain tables.
        history: one line an epoch.
        scorecard: of the rows; None where nothing was scored.
        rows: by score; empty where no rows could be read.
        missing: why there are no rows, in a sentence; None where there are.
        notes: what a reviewer should know of the figures, a sentence each.
        trained: when the bundle was written.
        experts: how gates use experts, a level each.
        segments: a line a segment, worst first.
        findings: of the audit; None where the log was not audited.
        fusion: the trade-off curve of a fused score: `weight`, then one column a metric.
        environment: libraries and machine, by name.
    """

    name: str
    schema: Schema
    config: Mapping[str, Any]
    history: pl.DataFrame
    scorecard: Scorecard | None
    rows: Mapping[str, ScoredRows]
    missing: str | None
    notes: tuple[str, ...] = ()
    trained: datetime | None = None
    experts: tuple[ExpertUse, ...] = ()
    segments: pl.DataFrame | None = None
    findings: tuple[Finding, ...] | None = None
    fusion: pl.DataFrame | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def labelled(self) -> tuple[tuple[ScoredRows, np.ndarray], ...]:
        """The scores that have both labels, with these: what a curve can be drawn of."""
        return tuple(
            (rows, rows.label)
            for rows in self.rows.values()
            if rows.label is not None and 0 < rows.label.sum() < len(rows.label)
        )


def gather(
    bundle: Bundle,
    rows: Any = None,
    *,
    name: str | None = None,
    split: str | None = None,
    orphans: Orphans = "error",
    missing: str = "no rows were given",
    trained: datetime | None = None,
    experts: Sequence[ExpertUse] = (),
    segments: pl.DataFrame | None = None,
    findings: Sequence[Finding] | None = None,
    fusion: pl.DataFrame | None = None,
) -> Evidence:
    """Return the evidence of a bundle: predict the rows, and keep what the page draws.

    Args:
        bundle: the fitted model.
        rows: labelled rows, as in `Bundle.evaluate`; None shows the bundle's own scorecard alone.
        name: the page's title; the experiment's by default.
        split: the rows' name where they are others than those of the bundle's scorecard: they get
            a scorecard of their own.
        orphans: what becomes of a child label without its parent.
        missing: why there are no rows, in words; of interest where `rows` is None.
        trained: when the bundle was written.
        experts: how gates use experts.
        segments: a line a segment, worst first.
        findings: of an audit; None where there was none.
        fusion: the trade-off curve of a fused score.

    Raises:
        DataError: rows that cannot be read or scored.

    Example:
        >>> import polyrank as pr
        >>> schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
        >>> log = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4}
        >>> bundle = pr.fit(schema, pr.Model(), train=log, valid=log, epochs=1)
        >>> gather(bundle, log).rows["click @ all"].label.mean()
        np.float64(0.75)
    """
    card, scored, notes = bundle.scorecard, {}, ()
    if rows is not None:
        own = "rows" if card is None else card.split
        table = bundle.encode(rows, split=split or own, orphans=orphans)
        scored = scored_rows(bundle.schema, bundle.score(table), table)
        if split is not None or card is None:
            card = bundle.score_labelled(table, split or own)
        else:
            notes = _differences(card, scored)
    return Evidence(
        name=name or str(bundle.config.get("name", "run")),
        schema=bundle.schema,
        config=bundle.config,
        history=bundle.history,
        scorecard=card,
        rows=scored,
        missing=missing if rows is None else None,
        notes=notes,
        trained=trained,
        experts=tuple(experts),
        segments=segments,
        findings=None if findings is None else tuple(findings),
        fusion=fusion,
        environment=environment(),
    )


def scored_rows(schema: Schema, predictions: pl.DataFrame, table: Table) -> dict[str, ScoredRows]:
    """Return the rows of each score of a probability, as the scorecard chooses them.

    Args:
        schema: the tasks.
        predictions: the output columns.
        table: labels, weights and the known truth of the same rows.
    """
    outputs = {name: predictions[name].to_numpy() for name in predictions.columns}
    labels, found = table.labels_by_task, {}
    for where in populations(schema):
        if where.kind != "binary":
            continue
        label = joint_label([labels[head] for head in where.heads])
        kept = ~np.isnan(label)
        if where.conditions:
            kept &= joint_label([labels[task] for task in where.conditions]) == 1
        estimate = _probability(schema, where, outputs)
        truth = _probability(schema, where, table.truth)
        assert estimate is not None  # predict writes every output column
        everywhere = np.ones_like(kept)
        found[where.name] = _chosen(where.name, estimate, label, truth, table.weight, kept)
        if where.given and truth is not None:
            name = f"{where.task}|{where.given} @ {ALL}"
            found[name] = _chosen(name, estimate, None, truth, table.weight, everywhere)
    return found


def _chosen(
    name: str,
    estimate: np.ndarray,
    label: np.ndarray | None,
    truth: np.ndarray | None,
    weight: np.ndarray | None,
    kept: np.ndarray,
) -> ScoredRows:
    """Return the kept rows; a row of weight 0 is a row that is not there."""
    if weight is not None:
        kept = kept & (weight > 0)
    return ScoredRows(
        name,
        estimate[kept].astype(np.float64),
        None if label is None else label[kept],
        None if truth is None else truth[kept],
        None if weight is None else weight[kept].astype(np.float64),
    )


def _probability(
    schema: Schema, where: Population, columns: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return P(heads | conditions) of the model or of the truth; None where it is not known."""
    joint = output_columns(schema.by_name[where.task])[-1]
    if where.given is None and joint in columns:
        return columns[joint]
    names = [output_columns(schema.by_name[head])[0] for head in where.heads]
    if not columns.keys() >= set(names):
        return None
    return np.prod([columns[name] for name in names], axis=0)


def _differences(card: Scorecard, scored: Mapping[str, ScoredRows]) -> tuple[str, ...]:
    """Say where the rows are no longer those that the scorecard is of."""
    for score in card:
        rows = scored.get(score.name)
        if rows is None or rows.label is None or score.rows is None or not len(rows.label):
            continue
        counted = (len(rows.label), int(rows.label.sum()))
        expected = (score.rows, score.positives) if rows.weight is None else counted
        mean = float(np.average(rows.prediction, weights=rows.weight))
        same = score.prediction_mean is not None and abs(mean / score.prediction_mean - 1) < 1e-3
        if counted != expected or not same:
            return (
                f"The {card.split} rows have changed since the run was scored: of {score.name} "
                f"there are now {counted[0]:,} rows and {counted[1]:,} positives, predicted at "
                f"{mean:.4g}; the scorecard was of {score.rows:,} and {score.positives:,}, at "
                f"{score.prediction_mean:.4g}. The charts show the rows as they are now.",
            )
    return ()


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
