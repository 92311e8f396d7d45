"""Log loss in which an event weighs its value: the odds are the mean value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from polyrank.data.statistics import TermStatistics
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.terms import Summand, Term


class WeightedLogisticLikelihood(Likelihood):
    """With v = value ÷ mean value and odds e^z: v·log(1 + e^(−z)) + log(1 + e^z).

    The second part belongs to the negatives: to every row, or to those without the event. Where it
    belongs to every row, the least that the row's value allows is taken off, so that a perfect
    prediction costs 0.

    Of "every_row" the score is (v − μ) ÷ (1 + μ) and the curvature μ ÷ (1 + μ) with the mean
    μ = e^z: those of a count whose variance is μ(1 + μ), a dispersion of 1.
    """

    dispersion = 1.0

    def __init__(self, kind: Any, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.scale, self.constant = float(fitted["scale"]), float(fitted["constant_loss"])
        self.unit = self.scale
        self.every_row = kind.negatives == "every_row"

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        task = term.population.task
        label, z = labels.value[task], scores.logits[task]
        rows = labels.within(term.population, label == label)  # NaN is not equal to itself
        # A label that is not observed must be a number: 0 × NaN is NaN, in the gradient too.
        value = torch.where(rows, label / self.scale, 0.0)
        positive, negative = value * softplus(-z), softplus(z)
        if not self.every_row:
            return (Summand(rows, 1.0, torch.where(value > 0, positive, negative)),)
        least = torch.xlogy(1 + value, 1 + value) - torch.xlogy(value, value)
        return (Summand(rows, 1.0, positive + negative - least),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (self.scale * torch.exp(logits),)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        return self.constant

    @property
    def tolerance(self) -> float:
        return 1e-5 * self.scale
