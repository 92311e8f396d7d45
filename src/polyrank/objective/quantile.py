"""Pinball loss of several quantiles that never cross."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import expm1, log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.labels.quantile import Quantile
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood, by_columns
from polyrank.terms import Summand, Term

LEAST_GAP = 1e-3  # of two quantiles of the training rows that are equal, in units of the label


class QuantileLikelihood(Likelihood):
    """Mean over levels a of max(a·(y − q_a), (a − 1)·(y − q_a)), with y and q standardised.

    The lowest quantile is that of the training rows + z; each next one adds a gap, their own in
    the training rows times softplus(z + 0.54…), which is 1 at z = 0.
    """

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        assert isinstance(kind, Quantile)
        self.levels = torch.tensor(kind.levels, dtype=torch.float32)
        found = fitted["quantiles"]
        self.origin, self.unit = float(found[0]), float(fitted["unit"])
        self.constant = float(fitted["constant_loss"])
        gaps = [(high - low) / self.unit for low, high in pairwise(found)]
        self.gaps = torch.tensor([max(gap, LEAST_GAP) for gap in gaps], dtype=torch.float32)
        self.shift = log(expm1(1))  # softplus(shift) = 1

    def standard(self, z: Tensor) -> Tensor:
        """Return the quantiles, standardised: (B, levels)."""
        z = by_columns(z)
        gaps = softplus(z[:, 1:] + self.shift) * self.gaps.to(z)
        return torch.cat([z[:, :1], gaps], dim=1).cumsum(1)

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, label = self.observed(term, labels, safe=self.origin)
        found = self.standard(scores.logits[term.population.task])
        gap = ((label - self.origin) / self.unit)[:, None] - found
        levels = self.levels.to(label)
        return (Summand(rows, 1.0, torch.maximum(levels * gap, (levels - 1) * gap).mean(1)),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (self.standard(logits) * self.unit + self.origin).unbind(1)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        return self.constant

    @property
    def tolerance(self) -> float:
        return 1e-5 * self.unit
