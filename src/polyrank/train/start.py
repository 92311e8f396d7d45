"""Where training starts: heads at their base rates, and no tower dead."""

from __future__ import annotations

import logging

import numpy as np

from polyrank.data.sampling import Sampling
from polyrank.data.statistics import term_labels
from polyrank.data.table import Table
from polyrank.models.outputs import inputs
from polyrank.models.ranker import Ranker
from polyrank.terms import ALL, population

logger = logging.getLogger(__name__)

LOOKED_AT = 4096  # rows by which a tower is told to be dead


def start(ranker: Ranker, train: Table, device: str, sampling: Sampling | None = None) -> None:
    """Make a ranker that was just built ready to train; `sampling` is that of the rows."""
    ranker.start_at(base_rates(train, sampling))
    batch = next(train.batches(ranker.layout, LOOKED_AT))
    for task, alive in ranker.redraw_dead(inputs(ranker, batch, device)).items():
        if alive:
            logger.info("the tower of task %r started dead and was drawn again", task)
        else:
            logger.warning(
                "task %r starts from one prediction for all rows, however its tower is drawn: "
                "widen it, or encode features whose values are too small to tell apart", task,
            )  # fmt: skip


def base_rates(table: Table, sampling: Sampling | None = None) -> dict[str, float]:
    """Return the rate of each binary head on the rows where its parent happened, smoothed.

    Of a sample it is the rate in the whole log: heads give true probabilities from the start.

    (rate · rows + 1) / (rows + 2) with the weighted rate, so that the unit of the weights does not
    matter and a head without rows starts at ½.
    """
    rates = {}
    for task in table.schema.tasks:
        if task.kind == "binary":
            where = population(table.schema, task, task.given or ALL)
            label = term_labels(table, where)
            own = table.weight if sampling is None else sampling.term_weight(table, where)
            weight = np.ones(len(table)) if own is None else own.astype(float)
            seen = ~np.isnan(label) & (weight > 0)
            rows = int(seen.sum())
            rate = float(np.average(label[seen], weights=weight[seen])) if rows else 0.0
            rate = (rate * rows + 1) / (rows + 2)
            if sampling is not None and sampling.task == task.name:
                rate = sampling.true_rate(rate)
            rates[task.name] = rate
    return rates
