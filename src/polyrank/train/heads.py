"""What rows give to heads: base rates and living towers before training, calibration after it."""

from __future__ import annotations

import logging

import numpy as np

from polyrank.bundle.model import Bundle
from polyrank.calibration.fitting import Calibrator, calibrate, scale_of
from polyrank.data.sampling import Sampling
from polyrank.data.statistics import labelled, term_labels
from polyrank.data.table import Table
from polyrank.metrics.inputs import key_codes
from polyrank.models.outputs import inputs
from polyrank.models.ranker import Ranker
from polyrank.terms import head_columns, own_population

logger = logging.getLogger(__name__)

PROBE_ROWS = 4096  # rows used to detect dead towers


def start(ranker: Ranker, train: Table, device: str, sampling: Sampling | None = None) -> None:
    """Make a ranker that was just built ready to train; `sampling` is that of the rows."""
    ranker.start_at(_starts(train, sampling))
    batch = next(train.batches(ranker.layout, PROBE_ROWS))
    for task, alive in ranker.redraw_dead(inputs(ranker, batch, device).x).items():
        if alive:
            logger.info("the tower of task %r started dead and was drawn again", task)
        else:
            logger.warning(
                "task %r starts with one prediction for all rows in every draw of its tower: "
                "widen it, or encode features whose values are too small to tell apart", task,
            )  # fmt: skip


def _starts(train: Table, sampling: Sampling | None) -> dict[str, float]:
    """Return the probability that each head starts at: base rates, and what methods say."""
    rates = base_rates(train, sampling)
    return rates | {
        f"{task.name}#{name}": task.supervision.start(name, rates[task.name])
        for task in train.schema.tasks
        if task.supervision is not None
        for name in task.supervision.heads(task)
    }


def base_rates(table: Table, sampling: Sampling | None = None) -> dict[str, float]:
    """Return the rate of each event on the rows where its parent happened, smoothed.

    It is (rate · rows + 1) / (rows + 2) with the weighted rate, so that the weights' unit does not
    matter and a head without rows starts at ½; for a sample, the rate in the whole log.
    """
    rates = {}
    for task in table.schema.tasks:
        if task.label_kind.is_event:
            where = own_population(table.schema, task)
            rows, happened, total = 0, 0.0, 0.0
            for label, weight in labelled(table, where, sampling):
                weighs = weight > 0
                rows += int(weighs.sum())
                happened += float((label[weighs] * weight[weighs]).sum())
                total += float(weight[weighs].sum())
            rate = ((happened / total if rows else 0.0) * rows + 1) / (rows + 2)
            if sampling is not None and sampling.task == task.name:
                rate = sampling.true_rate(rate)
            rates[task.name] = rate
    return rates


def calibrators(bundle: Bundle, valid: Table, *, seed: int) -> dict[str, Calibrator]:
    """Return each head's calibration, where its kind has one, on the rows that speak of it.

    A head learns P(task | given), whatever its space, so it is held to its own label on the rows
    where `given` happened; a root to all rows.
    """
    logits = bundle.logits(valid)
    raw = bundle.columns(valid, logits, raw=True)
    groups = None if valid.user is None else key_codes("user", valid.user)
    found = {}
    for task in bundle.schema.tasks:
        kind = task.label_kind
        if kind.calibrated is None:
            continue
        columns = [raw[name] for name in head_columns(task)]
        several = np.stack(columns, 1) if kind.calibrated == "quantiles" else columns[0]
        given = logits[task.name] if kind.calibrated == "logit" else several
        label = term_labels(valid, own_population(bundle.schema, task))
        kept = ~np.isnan(label)
        weight, group = (None if each is None else each[kept] for each in (valid.weight, groups))
        fitted = calibrate(given[kept], label[kept], weight, group, seed, kind)
        found[task.name] = fitted
        where = fitted.where
        if fitted.map is None:
            logger.info("task %r is not calibrated on %s: %s", task.name, where, fitted.reason)
            continue
        logger.info(
            "task %r is calibrated (%s) on %s: %s %.6f → %.6f by cross-fit", task.name,
            fitted.kind, where, scale_of(kind).loss_name.replace("_", " "),
            fitted.losses["none"], fitted.losses[fitted.kind],
        )  # fmt: skip
    return found
