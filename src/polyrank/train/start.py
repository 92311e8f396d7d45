"""Where training starts: heads at their base rates, and no tower dead."""

from __future__ import annotations

import logging

import numpy as np

from polyrank.data.statistics import term_labels
from polyrank.data.table import Table
from polyrank.models.outputs import inputs
from polyrank.models.ranker import Ranker
from polyrank.terms import ALL, population

logger = logging.getLogger(__name__)

LOOKED_AT = 4096  # rows by which a tower is told to be dead


def start(ranker: Ranker, train: Table, device: str) -> None:
    """Make a ranker that was just built ready to train."""
    ranker.start_at(base_rates(train))
    batch = next(train.batches(ranker.layout, LOOKED_AT))
    for task, alive in ranker.redraw_dead(inputs(ranker, batch, device)).items():
        if alive:
            logger.info("the tower of task %r started dead and was drawn again", task)
        else:
            logger.warning(
                "task %r starts from one prediction for all rows, however its tower is drawn: "
                "widen it, or encode features whose values are too small to tell apart", task,
            )  # fmt: skip


def base_rates(table: Table) -> dict[str, float]:
    """Return the rate of each binary head on the rows where its parent happened, smoothed.

    (rate · rows + 1) / (rows + 2) with the weighted rate, so that the unit of the weights does not
    matter and a head without rows starts at ½.
    """
    rates = {}
    for task in table.schema.tasks:
        if task.kind == "binary":
            label = term_labels(table, population(table.schema, task, task.given or ALL))
            weight = np.ones(len(table)) if table.weight is None else table.weight.astype(float)
            seen = ~np.isnan(label) & (weight > 0)
            rows = int(seen.sum())
            rate = float(np.average(label[seen], weights=weight[seen])) if rows else 0.0
            rates[task.name] = (rate * rows + 1) / (rows + 2)
    return rates
