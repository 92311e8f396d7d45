"""Kinds of label: how a head's output becomes a loss and a prediction. Add one here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import log

import numpy as np
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.objective.paths import log_probability
from polyrank.terms import Term


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
    def target(self, label: Tensor, statistics: TermStatistics) -> Tensor:
        """Return the label (B,) in the unit of the head."""

    @abstractmethod
    def loss(self, term: Term, logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Return the loss of each row: (B,)."""

    @abstractmethod
    def predict(self, logits: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
        """Return the head's output column, float64 (N,), from its logits and target scale."""

    @abstractmethod
    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the mean loss of the best constant on the training rows."""


class Binary(Kind):
    """Happened or not: cross-entropy on the term's paths."""

    outputs = 1
    balance_exponent = 1.0

    def target(self, label: Tensor, statistics: TermStatistics) -> Tensor:
        """A label of 0 or 1 is its own target."""
        return label

    def loss(self, term: Term, logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """−(y·log p + (1−y)·log(1−p))."""
        log_yes = log_probability(term.yes, logits)
        log_no = log_probability(term.no, logits)
        return -(target * log_yes + (1 - target) * log_no)

    def predict(self, logits: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
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

    def target(self, label: Tensor, statistics: TermStatistics) -> Tensor:
        """(label − mean) / deviation."""
        return (label - statistics.mean) / scale(statistics)

    def loss(self, term: Term, logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """(head − target)²."""
        return (logits[term.population.task] - target).square()

    def predict(self, logits: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
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
