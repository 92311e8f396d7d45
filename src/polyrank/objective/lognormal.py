"""A number above 0 whose logarithm is normal."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, tau
from typing import Any

import torch
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.objective.count import WIDEST
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.terms import Summand, Term

# Of σ, as shares of that of the training rows: no density is infinite, and no mean exp(μ + σ²/2) is
# carried away by a few rows.
LEAST, MOST = 0.05, 3.0


class LogNormalLikelihood(Likelihood):
    """((log y − μ) / σ)² / 2 + log σ + log(2π) / 2, with μ and σ in units of the training rows' σ.

    The density of y itself has log y in addition, which no parameter changes.
    """

    of_log = True

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.mean, self.deviation = float(fitted["mean"]), float(fitted["deviation"])
        self.origin, self.unit = self.mean, self.deviation
        # The sigmoid of it is 1 between LEAST and MOST.
        self.shift = log((1 - LEAST) / (MOST - 1))

    def standard(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ less its mean, and σ, both ÷ the training rows' σ: 0 and 1 where z is 0."""
        share = 1 / (1 + torch.exp(-(z[:, 1] + self.shift).clamp(-WIDEST, WIDEST)))
        return z[:, 0], LEAST + (MOST - LEAST) * share

    def number(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithm."""
        return torch.log(label)

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, label = self.observed(term, labels, safe=1.0)
        mean, deviation = self.standard(scores.logits[term.population.task])
        gap = (torch.log(label) - self.mean) / self.deviation - mean
        value = (gap / deviation).square() / 2 + torch.log(deviation) + log(tau) / 2
        return (Summand(rows, 1.0, value),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (torch.exp(self.score(logits)),)

    def score(self, logits: Tensor) -> Tensor:
        """Return the log of the mean, μ + σ²/2."""
        mean, deviation = self.standard(logits)
        return self.mean + self.deviation * mean + (self.deviation * deviation).square() / 2

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the entropy of a standard normal number."""
        return (1 + log(tau)) / 2

    @property
    def tolerance(self) -> float:
        return 1e-5 * exp(self.mean + self.deviation**2 / 2)
