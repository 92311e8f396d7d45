"""Kinds of label: how a head's output becomes a loss and a prediction. Add one here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import log

import numpy as np
import torch
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.objective.paths import Outcomes, log_union
from polyrank.terms import Population, Term

Scale = tuple[float, float]  # mean and deviation of a regression's target


@dataclass(frozen=True)
class Labels:
    """A batch's labels by task: the value, and whether it is 1 and whether it is 0: (B,) each."""

    value: Mapping[str, Tensor]
    yes: Mapping[str, Tensor]
    no: Mapping[str, Tensor]

    @classmethod
    def of(cls, labels: Tensor, tasks: Sequence[str]) -> Labels:
        """Read the columns (B, L); a comparison with NaN, which is not observed, is false."""
        columns = (labels, labels == 1, labels == 0)
        return cls(*(dict(zip(tasks, each.unbind(1), strict=True)) for each in columns))

    def within(self, where: Population, rows: Tensor) -> Tensor:
        """Return the rows for which the population's conditions happened."""
        return reduce(torch.Tensor.__and__, [self.yes[task] for task in where.conditions], rows)


@dataclass(frozen=True)
class Summand:
    """A part of a term's loss: factor · Σ value over some of the batch's rows.

    Args:
        rows: which: bool (B,). The summands of a term have no row in common.
        factor: without the weight of positives, which is of training alone.
        value: (B,), finite in all rows.
        positive: whether these rows are the term's positives.
    """

    rows: Tensor
    factor: float
    value: Tensor
    positive: bool = False


@dataclass(frozen=True)
class BatchScores:
    """Logits {head: (B,)}, and the log-probabilities of what binary heads say."""

    logits: Mapping[str, Tensor]
    outcomes: Outcomes


class Kind(ABC):
    """What a kind of label owns.

    Attributes:
        outputs: numbers that a head gives for a row.
        balance_exponent: c in the likelihood e^(−s)·L·c of uncertainty weighting: 1 for a
            log-likelihood, ½ for a squared error (Kendall et al., CVPR 2018, eq. 7 and 10).
    """

    outputs: int
    balance_exponent: float

    @abstractmethod
    def summands(
        self, term: Term, scores: BatchScores, labels: Labels, scale: Scale
    ) -> tuple[Summand, ...]:
        """Return the parts of a term's loss; their rows are those that teach the term."""

    @abstractmethod
    def predict(self, logits: np.ndarray, scale: Scale) -> np.ndarray:
        """Return the head's output column, float64 (N,), from its logits and target scale."""

    @abstractmethod
    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the mean loss of the best constant on the training rows."""


class Binary(Kind):
    """Happened or not: cross-entropy on the term's paths."""

    outputs = 1
    balance_exponent = 1.0

    def summands(
        self, term: Term, scores: BatchScores, labels: Labels, scale: Scale
    ) -> tuple[Summand, ...]:
        """−log p of the positives, −log(1−p) of the negatives.

        The label is the three-valued AND along the path: yes if all are 1, no if any is 0.
        """
        where = term.population
        yes = reduce(torch.Tensor.__and__, [labels.yes[head] for head in where.heads])
        no = reduce(torch.Tensor.__or__, [labels.no[head] for head in where.heads])
        log_yes, log_no = (log_union(paths, scores.outcomes) for paths in (term.yes, term.no))
        return (
            Summand(labels.within(where, yes), -1.0, log_yes, positive=True),
            Summand(labels.within(where, no), -1.0, log_no),
        )

    def predict(self, logits: np.ndarray, scale: Scale) -> np.ndarray:
        """1 / (1 + e^(−z))."""
        return sigmoid(logits)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Entropy of the base rate r, with positives weighted: min over p of −(v·r·log p + …)."""
        yes, no = term.positive_weight * statistics.mean, 1 - statistics.mean
        return -(yes * log(yes / (yes + no)) + no * log(no / (yes + no)))


class Regression(Kind):
    """A number: squared error on the target standardised on the training rows."""

    outputs = 1
    balance_exponent = 0.5

    def summands(
        self, term: Term, scores: BatchScores, labels: Labels, scale: Scale
    ) -> tuple[Summand, ...]:
        """(head − (label − mean) / deviation)²."""
        task, (mean, deviation) = term.population.task, scale
        label = labels.value[task]
        rows = labels.within(term.population, label == label)  # NaN is not equal to itself
        # A label that is not observed must be a number: 0 × NaN is NaN, in the gradient too.
        target = torch.where(rows, (label - mean) / deviation, 0.0)
        return (Summand(rows, 1.0, (scores.logits[task] - target).square()),)

    def predict(self, logits: np.ndarray, scale: Scale) -> np.ndarray:
        """Mean + deviation · head: in the label's own unit."""
        mean, deviation = scale
        return logits * deviation + mean

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Variance of the standardised target: 1, or 0 for a constant target."""
        return (statistics.sd / scale(statistics)) ** 2


KINDS: dict[str, Kind] = {"binary": Binary(), "regression": Regression()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^(−x)), accurate in both tails."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def scale(statistics: TermStatistics) -> float:
    """Return the deviation that a target is divided by; 1 for a constant one."""
    return statistics.sd if statistics.sd > 0 else 1.0
