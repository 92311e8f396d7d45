"""Squared error of a number, standardised on the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.terms import Summand, Term


class RegressionLikelihood(Likelihood):
    """(head − (label − mean) / deviation)²."""

    balance_exponent = 0.5

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.origin, self.unit = float(fitted["mean"]), float(fitted["deviation"])

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        task = term.population.task
        label = labels.value[task]
        rows = labels.within(term.population, label == label)  # NaN is not equal to itself
        # A label that is not observed must be a number: 0 × NaN is NaN, in the gradient too.
        scaled = (label - self.origin) / self.unit
        target = torch.where(rows, scaled, 0.0)
        return (Summand(rows, 1.0, (scores.logits[task] - target).square()),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (logits * self.unit + self.origin,)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the variance of the standardised target: 1, or 0 for a constant target."""
        return (statistics.sd / self.unit) ** 2

    @property
    def tolerance(self) -> float:
        return 1e-5 * self.unit
