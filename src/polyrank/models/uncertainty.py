"""How sure a model is of a logit, as far as its first stage knows.

Letters: N rows of the table.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from polyrank.data.table import Table
from polyrank.errors import ConfigError, did_you_mean
from polyrank.exploration.posterior import deviation
from polyrank.models.outputs import CHUNK_ROWS, Tensors
from polyrank.models.ranker import Ranker
from polyrank.schema import Task
from polyrank.terms import deviation_column

logger = logging.getLogger(__name__)


def uncertain_tasks(ranker: Ranker, asked: bool | Sequence[str]) -> tuple[Task, ...]:
    """Return the tasks whose heads get a standard deviation.

    Args:
        ranker: the network.
        asked: names of tasks; True is each one that has a deviation, and the log says why others
            have none; False is none.

    Raises:
        ConfigError: an unknown task, a named one without a deviation, or True where no task has
            one.
    """
    tasks = ranker.layout.schema.by_name
    if asked is False:
        return ()
    if asked is True:
        why_not = {name: _lacking(ranker, task) for name, task in tasks.items()}
        found = tuple(task for name, task in tasks.items() if why_not[name] is None)
        said = "; ".join(f"task {name!r}: {why}" for name, why in why_not.items() if why)
        if not found:
            raise ConfigError(f"uncertainty: no task has a standard deviation: {said}")
        if said:
            logger.info("uncertainty: no standard deviation of %s", said)
        return found
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        raise ConfigError(f"uncertainty must be true or a list of tasks, got {asked!r}")
    for name in asked:
        if name not in tasks:
            raise ConfigError(f"uncertainty: unknown task {name!r}{did_you_mean(name, tasks)}")
        why = _lacking(ranker, tasks[name])
        if why:
            raise ConfigError(f"uncertainty: task {name!r} has no standard deviation: {why}")
    return tuple(task for name, task in tasks.items() if name in asked)


def deviations_of(ranker: Ranker, table: Table, tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Return the standard deviation of logits by column, float64 (N,) each: see `Bundle.predict`.

    Args:
        ranker: the network, on the CPU.
        table: encoded rows.
        tasks: of `uncertain_tasks`.
    """
    if not tasks:
        return {}
    found = {task.name: np.empty(len(table)) for task in tasks}
    assert ranker.first is not None
    with torch.inference_mode():
        start = 0
        for batch in table.batches(ranker.layout, CHUNK_ROWS):
            tensors = Tensors.of(batch, "cpu")
            variances = ranker.first.variance(tensors.ids, tensors.bags)
            for name, each in found.items():
                each[start : start + len(batch)] = deviation(variances[name]).numpy()
            start += len(batch)
    return {deviation_column(task): found[task.name] for task in tasks}


def _lacking(ranker: Ranker, task: Task) -> str | None:
    """Return why the logit of a head has no standard deviation; None where it has one."""
    first = ranker.first
    if not task.label_kind.is_event:
        return f"its kind is {task.label_kind.name!r}, and only a binary head has one logit"
    if first is None or task.name not in first.heads:
        return "no first stage is added to its logit: wide rows are, without `wide = false`"
    added = first.adding(task.name)
    why = first.stage[added].no_variance
    return None if why is None else f"the first stage {added!r} is added to its logit, and {why}"
