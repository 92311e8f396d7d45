"""Watch time by its method: the rank among similar durations, the share, or a censored time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.labels.watch_time import KNOTS, rank_in
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
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

    def bounded(self, term: Term, labels: Labels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the rows, their watch time, their duration as it is, and as it bounds."""
        label = labels.value[term.population.task]
        rows = labels.within(term.population, label == label)  # NaN is not equal to itself
        duration = labels.extras[self.column]
        bound = self.bound(duration)
        # A label that is not observed must be a number: 0 × NaN is NaN, in the gradient too.
        return rows, torch.minimum(torch.where(rows, label, 0.0), bound), duration, bound

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
    """Divergence of a share in [0, 1] from sigmoid(z): t·log(t/p) + (1 − t)·log((1 − t)/(1 − p)).

    Its minimiser is the mean share, as that of a squared error is, and its gradient in z is p − t,
    which does not vanish in the tails. The target's own entropy is taken off, so that a perfect
    prediction costs 0 and the term is comparable with others.
    """

    def divergence(self, z: Tensor, share: Tensor) -> Tensor:
        own = torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)
        return softplus(z) - share * z + own


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

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, watched, duration, _ = self.bounded(term, labels)
        group = self.group(duration)
        rank = rank_in(self.knots.to(duration.device), group, watched)
        return (Summand(rows, 1.0, self.divergence(scores.logits[term.population.task], rank)),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        duration = extras[self.column]
        place = _sigmoid(logits) * (KNOTS - 1)
        low = place.floor().long().clamp(0, KNOTS - 2)  # whatever NaN becomes
        start = self.group(duration) * KNOTS + low
        knots = self.knots.reshape(-1).double()
        left, right = knots[start], knots[start + 1]
        quantile = left + (place - low) * (right - left)
        known = torch.where(duration > 0, duration, torch.inf).double()
        return (torch.where(quantile > known, known, quantile),)


class RatioLikelihood(_ShareLikelihood):
    """PCR: the share of the duration that was watched."""

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, watched, _, bound = self.bounded(term, labels)
        share = watched / bound
        return (Summand(rows, 1.0, self.divergence(scores.logits[term.population.task], share)),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (_sigmoid(logits) * self.bound(extras[self.column]).double(),)


def _sigmoid(logits: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-logits))  # as of an event: rows of one logit tie


_METHODS: Mapping[str, type[_WatchTimeLikelihood]] = {
    "d2q": RankLikelihood,
    "pcr": RatioLikelihood,
}
