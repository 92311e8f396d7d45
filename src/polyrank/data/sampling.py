"""A log whose negatives were down-sampled: what was kept, and what it takes to undo it.

Training undoes it in the loss (`polyrank.objective.losses`), metrics by the weight of rows;
`Population.descends_from` tells which terms need which. The equations are in docs/sampling.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from polyrank.data.table import Table
from polyrank.errors import ConfigError, did_you_mean
from polyrank.schema import Schema
from polyrank.spec import number
from polyrank.terms import Population

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Sampling:
    """Rows whose root label is 0 were kept at a rate; all other rows were kept.

    Predictions are true probabilities: the sampled root's logit is z − log(keep) in the training
    loss alone, and z everywhere else. Rows where the label is null were not sampled.

    Args:
        task: a binary root task, such as "click".
        keep: the share of its rows of label 0 that were kept, within (0, 1].
        splits: which of "train", "valid" and "test" were sampled so.

    Raises:
        ConfigError: a rate out of range, or an unknown split.

    Examples:
        >>> sampling = Sampling("click", keep=0.1)
        >>> sampling.weight(np.array([0.0, 1.0, np.nan]))
        array([10.,  1.,  1.])
        >>> sampling.true_rate(0.5)  # 1 click to 1 kept row stands for 1 to 10
        0.09090909090909091

    Reference:
        King and Zeng, Logistic regression in rare events data, Political Analysis 2001,
        sections 4.1 (the shift) and 4.2 (the weights).
    """

    task: str
    keep: float
    splits: tuple[str, ...] = ("train",)

    def __post_init__(self) -> None:
        if not isinstance(self.task, str):
            raise ConfigError(f"task must be the name of a binary root, got {self.task!r}")
        keep = number("keep, the share kept,", self.keep, above=0, most=1)
        if isinstance(self.splits, str) or not isinstance(self.splits, Sequence) or not self.splits:
            known = ", ".join(map(repr, SPLITS))
            raise ConfigError(f"splits must be a list of some of {known}, got {self.splits!r}")
        for split in self.splits:
            if split not in SPLITS:
                raise ConfigError(f"unknown split {split!r}{did_you_mean(str(split), SPLITS)}")
        if len(set(self.splits)) < len(self.splits):
            raise ConfigError(f"splits names a split twice: {list(self.splits)}")
        object.__setattr__(self, "keep", keep)
        object.__setattr__(self, "splits", tuple(self.splits))

    def __str__(self) -> str:
        where = ", ".join(self.splits)
        return f"rows with {self.task} = 0 were kept at a rate of {self.keep:g} in {where}"

    def check(self, schema: Schema) -> None:
        """Refuse a schema in which the task cannot have been sampled, by a ConfigError."""
        task = schema.by_name.get(self.task)
        if task is None:
            hint = did_you_mean(self.task, schema.by_name)
            raise ConfigError(f"sampling: unknown task {self.task!r}{hint}")
        events = [each for each in schema.tasks if each.label_kind.is_event]
        known = ", ".join(repr(each.name) for each in events if not each.given) or "there is none"
        if task not in events:
            raise ConfigError(
                f"sampling: task {self.task!r} is a {task.kind}, which has no negatives to sample; "
                f"name a binary root (known: {known})"
            )
        if task.given:
            raise ConfigError(
                f"sampling: task {self.task!r} is given {task.given!r}, and only a root can be "
                f"sampled: P({task.name}|{task.given}) is learned where {task.given!r} happened, "
                "where every row was kept, and needs no correction; name the root whose negatives "
                f"were sampled (known: {known})"
            )

        if task.delay is not None:
            raise ConfigError(
                f"sampling: task {self.task!r} has a delay: a row was kept or not by a label that "
                "time had not decided, and how many rows it stands for is not known; leave out "
                "sampling or delay"
            )

    def weight(self, root: np.ndarray) -> np.ndarray:
        """Return how many rows of the whole log each kept row stands for, by the task's labels."""
        return np.where(root == 0, 1 / self.keep, 1.0)

    def true_rate(self, rate: float) -> float:
        """Return the root's rate in the whole log: its odds in the sample times `keep`."""
        return self.keep * rate / (self.keep * rate + 1 - rate)

    def term_weight(self, table: Table, population: Population) -> np.ndarray | None:
        """Return the weights with which sampled training rows teach a term; None where all are 1.

        A term that descends from the sampled root takes the table's own, since its loss is that of
        the sample; any other term is weighted to be that of the whole log.
        """
        own = None if table.weight is None else table.weight.astype(np.float64)
        if population.descends_from(self.task):
            return own
        stands_for = self.weight(table.labels_by_task[self.task])
        return stands_for if own is None else own * stands_for

    def weighted(self, table: Table, split: str) -> Table:
        """Return labelled rows weighted to stand for the whole log, if their split was sampled."""
        if split not in self.splits:
            return table
        weight = self.weight(table.labels_by_task[self.task]).astype(np.float32)
        return replace(table, weight=weight if table.weight is None else table.weight * weight)
