"""Squared or Huber error of a number, standardised on the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.labels.regression import Regression
from polyrank.objective.count import WIDEST
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.terms import Summand, Term


class RegressionLikelihood(Likelihood):
    """(head − (label − mean) / deviation)², or twice Huber's loss of the same difference.

    Twice, so that both are the square near 0: Huber (1964) is d²/2 up to δ, and δ·(|d| − δ/2)
    beyond.
    """

    balance_exponent = 0.5

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        assert isinstance(kind, Regression)
        self.delta = kind.delta if kind.loss == "huber" else None
        self.origin, self.unit = float(fitted["mean"]), float(fitted["deviation"])

    def loss(self, difference: Tensor) -> Tensor:
        """Return the loss of a standardised difference."""
        if self.delta is None:
            return difference.square()
        size = difference.abs()
        near = size.clamp(max=self.delta)
        return near * (2 * size - near)

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, label = self.observed(term, labels, safe=self.origin)
        target = (label - self.origin) / self.unit
        return (Summand(rows, 1.0, self.loss(scores.logits[term.population.task] - target)),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (logits * self.unit + self.origin,)

    def score(self, logits: Tensor) -> Tensor:
        """Return the standardised value."""
        return logits

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the variance of the standardised target: 1, or 0 for a constant target."""
        if self.delta is not None:
            return float(self.fitted.get("constant_loss", 0.0))
        return (statistics.sd / self.unit) ** 2

    @property
    def tolerance(self) -> float:
        return 1e-5 * self.unit


class LogLikelihood(RegressionLikelihood):
    """The same of log(1 + label); and a log-link for the way back, E[1 + label] = s·exp(σ·z + v).

    The first head, z, is the standardised log. With it held constant, the second, v, has Poisson's
    loss of (1 + label) ÷ s, whose minimiser is a mean whatever the distribution: its gradient is
    the predicted less the observed. So the prediction is calibrated on average, as Duan's smearing
    is (JASA 1983), and rows may differ in how far apart mean and median are.
    """

    of_log = True

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.scale = float(fitted["scale"])

    def number(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Return log(1 + label)."""
        return torch.log1p(label)

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, label = self.observed(term, labels)
        z = scores.logits[term.population.task]
        target = (torch.log1p(label) - self.origin) / self.unit
        log_mean = self.log_mean(z[:, 0].detach(), z[:, 1])
        share = (1 + label) / self.scale
        # Less its own minimum, so that a perfect prediction costs 0.
        back = log_mean.exp() - share * log_mean - (share - share * torch.log(share))
        return (Summand(rows, 1.0, self.loss(z[:, 0] - target) + back),)

    def log_mean(self, z: Tensor, back: Tensor) -> Tensor:
        """Return the log of E[1 + label] ÷ scale: 0 where both heads are."""
        return (z * self.unit + back).clamp(-WIDEST, WIDEST)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        found = self.scale * torch.exp(self.log_mean(logits[:, 0], logits[:, 1])) - 1
        return (torch.where(found < 0, 0.0, found),)

    def score(self, logits: Tensor) -> Tensor:
        """Return the log of E[1 + label] ÷ scale."""
        return self.log_mean(logits[:, 0], logits[:, 1])

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the loss of the logs' mean, and of the mean on the way back."""
        return float(self.fitted["constant_loss"])

    @property
    def tolerance(self) -> float:
        return 1e-5 * self.scale


def likelihood(kind: LabelKind, fitted: Mapping[str, Any]) -> Likelihood:
    """Return the likelihood of a regression's options."""
    return (LogLikelihood if kind.outputs == 2 else RegressionLikelihood)(kind, fitted)
