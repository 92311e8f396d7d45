"""What is refused before training: options that contradict each other, rows that cannot choose."""

from __future__ import annotations

import logging
import os
from numbers import Integral

import numpy as np
import torch

from polyrank.data.sampling import Sampling
from polyrank.data.statistics import term_labels, term_statistics
from polyrank.data.table import Table
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.metrics.registry import direction, metric
from polyrank.metrics.undefined import Undefined
from polyrank.models.model import Model
from polyrank.schema import Schema
from polyrank.terms import populations
from polyrank.train.sources import Sources
from polyrank.train.training import Stop, Training

logger = logging.getLogger(__name__)


def check_run(
    schema: Schema, model: Model, training: Training, sources: Sources, seed: int
) -> None:
    """Refuse, before a row is read, what cannot be."""
    model.check(schema)
    if sources.sampling is not None:
        if not isinstance(sources.sampling, Sampling):
            raise ConfigError(f"sampling is a Sampling(task, keep), however: {sources.sampling!r}")
        sources.sampling.check(schema)
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed is a whole number of at least 0, however: {seed!r}")
    cores = os.cpu_count() or 1
    if training.threads > cores:
        raise ConfigError(f"threads = {training.threads}, and this machine has {cores} cores")
    try:
        torch.empty(0, device=training.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {training.device!r} cannot be used here: {str(error).splitlines()[0]}. "
            "Use 'cpu', or install a torch that has it"
        ) from None
    stop = training.stop
    if stop is None:
        return
    if sources.valid is None:
        raise ConfigError(f"stop watches {stop.score!r} on validation rows: give valid")
    kinds = {each.name: each.kind for each in populations(schema)}
    if stop.score not in kinds:
        raise ConfigError(f"stop: unknown score {stop.score!r}{did_you_mean(stop.score, kinds)}")
    direction(kinds[stop.score], stop.metric)  # refuses an unknown metric, or one without any


def check_valid(stop: Stop | None, valid: Table) -> None:
    """Refuse validation rows that cannot choose an epoch, by a prediction that knows nothing."""
    found = term_statistics(valid)
    blind = [name for name, each in found.items() if not each.weight > 0]
    if len(blind) == len(found):
        raise DataError("valid has no row with an observed label: it cannot choose an epoch")
    if blind:
        logger.warning("valid has no row of %s: left out of the validation loss", ", ".join(blind))
    if stop is None:
        return
    where = next(each for each in populations(valid.schema) if each.name == stop.score)
    label = term_labels(valid, where)
    seen = ~np.isnan(label)
    watched = metric(where.kind, stop.metric)
    keys = []
    if watched.key is not None:
        key = {"user": valid.user, "request": valid.request}[watched.key]
        if key is None:
            raise ConfigError(
                f"stop watches {stop.metric!r}, and there is no {watched.key} key in valid: "
                f"declare {watched.key} in [keys], or watch another metric"
            )
        keys = [key.filter(seen)]
    weight = None if valid.weight is None else valid.weight[seen]
    try:
        watched.function(label[seen], np.full(int(seen.sum()), 0.5), *keys, weight)
    except Undefined as reason:
        positives = f" and {int((label == 1).sum()):,} positives" if where.kind == "binary" else ""
        raise ConfigError(
            f"stop watches {stop.metric!r} of {stop.score!r}, but the validation rows have "
            f"{int(seen.sum()):,} rows{positives} of it ({reason}): enlarge valid, or watch "
            "another score"
        ) from None
