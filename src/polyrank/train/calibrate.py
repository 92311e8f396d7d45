"""Calibration after training: each binary head on the validation rows that speak of it."""

from __future__ import annotations

import logging

import numpy as np

from polyrank.bundle.model import Bundle
from polyrank.calibration.fitting import Calibrator, calibrate
from polyrank.data.statistics import term_labels
from polyrank.data.table import Table
from polyrank.metrics.inputs import user_codes
from polyrank.terms import ALL, population

logger = logging.getLogger(__name__)


def calibrators(bundle: Bundle, valid: Table, *, seed: int) -> dict[str, Calibrator]:
    """Return what validation rows say of each binary head.

    A head learns P(task | given), whatever its space, so it is held to its own label on the rows
    where `given` happened; a root to all rows.

    Args:
        bundle: with the weights that are kept.
        valid: labelled rows.
        seed: of the folds.
    """
    logits = bundle.logits(valid)
    groups = None if valid.user is None else user_codes(valid.user)
    found = {}
    for task in bundle.schema.tasks:
        if task.kind != "binary":
            continue
        label = term_labels(valid, population(bundle.schema, task, task.given or ALL))
        kept = ~np.isnan(label)
        found[task.name] = calibrate(
            logits[task.name][kept],
            label[kept],
            None if valid.weight is None else valid.weight[kept],
            None if groups is None else groups[kept],
            seed,
        )
        _log(task.name, found[task.name])
    return found


def _log(task: str, found: Calibrator) -> None:
    where = f"{found.rows:,} validation rows with {found.positives:,} positives"
    if found.map is None:
        logger.info("task %r is not calibrated on %s: %s", task, where, found.reason)
        return
    logger.info(
        "task %r is calibrated (%s) on %s: log loss %.6f → %.6f by cross-fit",
        task, found.kind, where, found.log_loss["none"], found.log_loss[found.kind],
    )  # fmt: skip
