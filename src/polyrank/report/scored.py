"""The rows that each score of the scorecard saw, with what was predicted of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polyrank.data.table import Table
from polyrank.metrics.observed import factor_columns, population_label, predicted
from polyrank.metrics.scorecard import Scorecard
from polyrank.schema import Schema
from polyrank.terms import ALL, Population, output_columns, populations


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows that one score of the scorecard saw.

    Args:
        name: the score's.
        prediction: the model's probability.
        label: 0 or 1; None where only the truth is known, as of `buy|click @ all`.
        truth: the true probability, where it is known.
        weight: sample weights, if any.
        raw: the probability before calibration; None where no calibration changes it.

    Shape:
        every array (rows,)
    """

    name: str
    prediction: np.ndarray
    label: np.ndarray | None
    truth: np.ndarray | None
    weight: np.ndarray | None
    raw: np.ndarray | None = None

    def at(self, kept: np.ndarray) -> ScoredRows:
        """Return some of the rows, as float64; a row of weight 0 is a row that is not there."""
        if self.weight is not None:
            kept = kept & (self.weight > 0)
        columns = (self.prediction, self.label, self.truth, self.weight, self.raw)
        found = [None if each is None else each[kept].astype(np.float64) for each in columns]
        assert found[0] is not None
        return ScoredRows(self.name, found[0], *found[1:])


def scored_rows(
    schema: Schema,
    predictions: Mapping[str, np.ndarray],
    table: Table,
    raw: Mapping[str, np.ndarray] | None = None,
) -> dict[str, ScoredRows]:
    """Return the rows of each score of a probability, as the scorecard chooses them.

    Args:
        schema: the tasks.
        predictions: the output columns.
        table: labels, weights and the known truth of the same rows.
        raw: the output columns before calibration; None where nothing is calibrated.

    Shape:
        every array (N,)
    """
    labels, found = table.labels_by_task, {}
    for where in populations(schema):
        if where.kind != "binary":
            continue
        label, truth = population_label(labels, where), _truth(schema, where, table.truth)
        estimate = predicted(schema, predictions, where)
        before = None if raw is None else predicted(schema, raw, where)
        if before is not None and np.array_equal(before, estimate):
            before = None
        rows = ScoredRows(where.name, estimate, label, truth, table.weight, before)
        found[where.name] = rows.at(~np.isnan(label))
        if where.given and truth is not None:
            name = f"{where.task}|{where.given} @ {ALL}"
            rows = ScoredRows(name, estimate, None, truth, table.weight, before)
            found[name] = rows.at(np.ones(len(estimate), dtype=bool))
    return found


def differences(card: Scorecard, scored: Mapping[str, ScoredRows]) -> tuple[str, ...]:
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


def _truth(
    schema: Schema, where: Population, columns: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return the true P(heads | conditions) of each row; None where it is not known."""
    joint = output_columns(schema.by_name[where.task])[-1]
    if where.given is None and joint in columns:
        return columns[joint]
    names = factor_columns(schema, where)
    if not columns.keys() >= set(names):
        return None
    return np.prod([columns[name] for name in names], axis=0)
