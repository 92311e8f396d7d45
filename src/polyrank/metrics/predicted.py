"""What was predicted for one score, by the output columns, and what was true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from polyrank.errors import ConfigError, did_you_mean
from polyrank.schema import Schema, Task
from polyrank.terms import Population, head_columns, output_columns, populations


def named_population(schema: Schema, score: str) -> Population:
    """Return the population of a score; an unknown one raises ConfigError with the nearest."""
    known = {where.name: where for where in populations(schema)}
    if score not in known:
        raise ConfigError(f"unknown score {score!r}{did_you_mean(str(score), known)}")
    return known[score]


def predicted(
    schema: Schema, predictions: Mapping[str, np.ndarray], where: Population
) -> np.ndarray:
    """Return P(heads | conditions) or the predicted value of every row of the log."""
    return np.prod([predictions[name] for name in used_columns(schema, where)], axis=0)


def outputs_of(
    schema: Schema, predictions: Mapping[str, np.ndarray], where: Population
) -> np.ndarray | None:
    """Return all output columns of a head that has several, (rows, columns); else None."""
    columns = head_columns(schema.by_name[where.task])
    if len(columns) == 1:
        return None
    return np.column_stack([predictions[name] for name in columns])


def true_probability(
    schema: Schema, truth: Mapping[str, np.ndarray], where: Population
) -> np.ndarray | None:
    """Return the true P(heads | conditions) of every row of the log; None where it is not known."""
    if not where.label_kind.is_event:
        return None
    for columns in (used_columns(schema, where), _factors(schema, where)):
        if truth.keys() >= set(columns):
            return np.prod([truth[name] for name in columns], axis=0)
    return None


def used_columns(schema: Schema, where: Population) -> list[str]:
    """Return the output columns whose product is a population's prediction."""
    if where.label_kind.is_event and where.given is not None:
        return _factors(schema, where)
    columns = scored_columns(schema.by_name[where.task])
    return [columns[-1] if where.label_kind.is_event else columns[0]]


def scored_columns(task: Task) -> tuple[str, ...]:
    """Return the output columns that a scorecard measures: the head, and the joint if there is one.

    A kind of label with several outputs is scored by its first.
    """
    return output_columns(task)[: 2 if task.given and task.label_kind.has_joint else 1]


def _factors(schema: Schema, where: Population) -> list[str]:
    """Return the conditional output column of each head, whose product is the probability."""
    return [scored_columns(schema.by_name[head])[0] for head in where.heads]
