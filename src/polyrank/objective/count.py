"""Likelihoods of a count."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.terms import Summand, Term

# Of the log of a mean ÷ that of the training rows, and likewise of a dispersion: e^20 times either
# is no estimate, and its square would leave float32. Beyond them a head has no gradient.
WIDEST = 20.0


class PoissonLikelihood(Likelihood):
    """μ − y·log μ + log y!, where μ is the mean of the training rows times e^z."""

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.mean, self.constant = float(fitted["mean"]), float(fitted["constant_loss"])
        self.unit, self.noise = self.mean, 1 / self.mean

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, count = self.observed(term, labels)
        above = scores.logits[term.population.task].clamp(-WIDEST, WIDEST)
        log_mean = above + log(self.mean)
        value = log_mean.exp() - count * log_mean + torch.lgamma(count + 1)
        return (Summand(rows, 1.0, value),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (self.mean * torch.exp(logits.clamp(-WIDEST, WIDEST)),)

    def score(self, logits: Tensor) -> Tensor:
        """Return the log of the mean."""
        return logits.clamp(-WIDEST, WIDEST) + log(self.mean)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        return self.constant

    @property
    def tolerance(self) -> float:
        return 1e-5 * self.mean


class NegativeBinomialLikelihood(PoissonLikelihood):
    """−log NB(y; μ, a), whose variance is μ + a·μ².

    With r = 1/a: log Γ(r) + log y! − log Γ(y + r) + r·log(1 + μ/r) + y·log(1 + r/μ). The first head
    is the log of μ, the second that of a, each above that of the training rows.
    """

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.spread = float(fitted["dispersion"])
        self.dispersion = self.spread * self.mean  # of counts in units of their mean

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, count = self.observed(term, labels)
        above = scores.logits[term.population.task].clamp(-WIDEST, WIDEST)
        log_mean = above[:, 0] + log(self.mean)
        # In float64, and a within e^-14 and e^14: what remains of Γ's logarithms is a difference.
        log_r = -(log(self.spread) + above[:, 1]).double().clamp(-14, 14)
        r, y, gap = log_r.exp(), count.double(), log_mean.double() - log_r
        ways = torch.lgamma(r) + torch.lgamma(y + 1) - torch.lgamma(y + r)
        value = ways + r * softplus(gap) + y * softplus(-gap)
        return (Summand(rows, 1.0, value.to(log_mean.dtype)),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return super().predict(logits[:, 0], extras)

    def score(self, logits: Tensor) -> Tensor:
        return super().score(logits[:, 0])


def likelihood(kind: LabelKind, fitted: Mapping[str, Any]) -> Likelihood:
    """Return the likelihood of a count's distribution."""
    one = kind.outputs == 1
    return (PoissonLikelihood if one else NegativeBinomialLikelihood)(kind, fitted)
