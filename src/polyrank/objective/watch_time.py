"""Watch time by its method: the rank among similar durations, the share, or a censored time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import expm1, log, tau
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import log_ndtr

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.labels.watch_time import KNOTS, rank_in
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.objective.normal import mean_between
from polyrank.terms import Summand, Term


def likelihood(kind: Any, fitted: Mapping[str, Any]) -> Likelihood:
    """Return the likelihood of a watch time's method."""
    return _METHODS[kind.method](kind, fitted)


class _WatchTimeLikelihood(Likelihood):
    """What all methods have: a duration of each row, which bounds watch time and prediction."""

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.unknown = float(fitted["unknown"])
        self.constant = float(fitted["constant_loss"])
        (self.column,) = kind.reads

    def watched(self, term: Term, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows, their watch time and their duration."""
        return *self.observed(term, labels), labels.extras[self.column]

    def bound(self, duration: Tensor) -> Tensor:
        """Return the duration, and what stands for an unknown one."""
        return torch.where(duration > 0, duration, self.unknown)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        return self.constant

    @property
    def tolerance(self) -> float:
        return 1e-6 * self.longest

    @property
    def longest(self) -> float:
        """A long duration of the training rows."""
        return max([self.unknown, *self.fitted["edges"]])


class _ShareLikelihood(_WatchTimeLikelihood):
    """(head − (share − mean) / deviation)² of a share in [0, 1], standardised as a number is.

    Its minimiser is the mean share; what a head says beyond 0 or 1 is predicted as 0 or 1.
    """

    balance_exponent = 0.5

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.origin, self.unit = float(fitted["mean"]), float(fitted["deviation"])

    @abstractmethod
    def number(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Return the share."""

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, watched, _ = self.watched(term, labels)
        target = (self.number(watched, labels.extras) - self.origin) / self.unit
        value = (scores.logits[term.population.task] - target).square()
        return (Summand(rows, 1.0, value),)

    def share(self, logits: Tensor) -> Tensor:
        """Return the predicted share; NaN stays NaN."""
        found = logits * self.unit + self.origin
        found = torch.where(found < 0, 0.0, found)
        return torch.where(found > 1, 1.0, found)


class RankLikelihood(_ShareLikelihood):
    """D2Q: the share is the percentile rank of the watch time in its group of durations."""

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.knots = torch.tensor(fitted["quantiles"], dtype=torch.float32)
        # The last group has no end; with one edge at least, there is something to sum over.
        self.edges = torch.tensor([*fitted["edges"], torch.inf], dtype=torch.float32)

    def group(self, duration: Tensor) -> Tensor:
        """Return the group of each duration, 0 where it is not known."""
        above = duration[:, None] > self.edges.to(duration.device)
        return (1 + above.long().sum(1)) * (duration > 0)

    def number(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        group = self.group(extras[self.column])
        return rank_in(self.knots.to(label.device), group, label)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        duration = extras[self.column]
        place = self.share(logits) * (KNOTS - 1)
        low = place.floor().long().clamp(0, KNOTS - 2)  # whatever NaN becomes
        start = self.group(duration) * KNOTS + low
        knots = self.knots.reshape(-1).double()
        left, right = knots[start], knots[start + 1]
        quantile = left + (place - low) * (right - left)
        known = torch.where(duration > 0, duration, torch.inf).double()
        return (torch.where(quantile > known, known, quantile),)


class RatioLikelihood(_ShareLikelihood):
    """PCR: the share of the duration that was watched."""

    def number(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        bound = self.bound(extras[self.column])
        return torch.minimum(label, bound) / bound

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (self.share(logits) * self.bound(extras[self.column]).double(),)


class CensoredLikelihood(_WatchTimeLikelihood):
    """A latent Y ~ N(μ, σ) of log(1 + time ÷ scale), of which [0, bound] is seen.

    −log Φ(−μ/σ) of a time of 0, −log(1 − Φ((u − μ)/σ)) of one watched to the end, where u is the
    bound on the same scale, and else −log of the density. The prediction is E[time]. σ is an output
    of its own: how much times of one kind of row differ decides how often they reach the end, and
    so the mean; one σ for all rows would have to be that of the most erratic.
    """

    # Of the deviation, as a share of that of the training rows, so that no density is infinite.
    least = 0.05

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        self.scale = float(fitted["scale"])
        self.mean, self.deviation = float(fitted["mean"]), float(fitted["deviation"])
        self.shift = log(expm1(1 - self.least))  # softplus(shift) = 1 − least

    def latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and σ, which are those of the training rows where z is 0."""
        share = self.least + softplus(z[:, 1] + self.shift)
        return self.mean + self.deviation * z[:, 0], self.deviation * share

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, watched, duration = self.watched(term, labels)
        bound = self.bound(duration)
        mean, deviation = self.latent(scores.logits[term.population.task])
        y, end = torch.log1p(watched / self.scale), torch.log1p(bound / self.scale)
        # In units of the training rows' deviation, so that the unit of the label does not matter.
        density = ((y - mean) / deviation).square() / 2 + torch.log(deviation / self.deviation)
        value = torch.where(
            watched >= bound,
            -log_ndtr((mean - end) / deviation),
            torch.where(watched <= 0, -log_ndtr(-mean / deviation), density + log(tau) / 2),
        )
        return (Summand(rows, 1.0, value),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        bound = self.bound(extras[self.column]).double()
        mean, deviation = self.latent(logits)
        found = self.scale * mean_between(mean, deviation, torch.log1p(bound / self.scale))
        return (torch.where(found > bound, bound, found),)


_METHODS: Mapping[str, type[_WatchTimeLikelihood]] = {
    "d2q": RankLikelihood,
    "pcr": RatioLikelihood,
    "censored": CensoredLikelihood,
}
