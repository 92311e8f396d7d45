"""A chain of questions about a level: is it above the first, and if so, above the next?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.labels.ordinal import Ordinal
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood, by_columns
from polyrank.terms import Summand, Term


class OrdinalLikelihood(Likelihood):
    """Σ over the levels k ≤ y of −log σ(z_k), and −log(1 − σ(z)) of the first above y.

    P(y ≥ k) = Π over j ≤ k of σ(z_j) never rises with k. This is −log P(y), so that a row counts
    once however many questions it answers. At z = 0 each answer has its share in the training rows.
    """

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        assert isinstance(kind, Ordinal)
        self.values = torch.tensor(kind.known, dtype=torch.float32)
        self.shares = np.array(fitted["shares"], dtype=np.float64)
        reached = np.cumsum(self.shares[::-1])[::-1]  # the share of each value and those above
        passed = reached[1:] / reached[:-1]
        self.zero = float(kind.known[0])
        self.start = torch.tensor(np.log(passed) - np.log1p(-passed), dtype=torch.float32)

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, label = self.observed(term, labels, safe=self.zero)
        z = by_columns(scores.logits[term.population.task]) + self.start.to(label)
        values = self.values.to(label)
        passed = label[:, None] >= values[1:]
        # The question that was not passed is the last one that was asked.
        asked = label[:, None] >= values[:-1]
        each = logsigmoid(torch.where(passed, z, -z)) * asked
        return (Summand(rows, 1.0, -each.sum(1)),)

    def targets(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Return the answer to each question that a row is asked: 1 where the level is passed."""
        values = self.values.to(label)
        passed = (label[:, None] >= values[1:]).to(label)
        return torch.where(label[:, None] >= values[:-1], passed, torch.nan)

    @property
    def offsets(self) -> Sequence[float]:
        """The log-odds of each answer in the training rows."""
        return self.start.tolist()

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        z = by_columns(logits) + self.start.double()
        above, found = torch.ones_like(z[:, 0]), []
        for each in z.unbind(1):
            above = above / (1 + torch.exp(-each))
            found.append(above)
        values = self.values.double()
        level = values[0] + torch.stack(found, 1) @ (values[1:] - values[:-1])
        return (level, *found)

    def score(self, logits: Tensor) -> Tensor:
        """Return log((E − lowest) ÷ (highest − E)) of the expected level E.

        With two levels it is the logit of the higher one, z + start: a binary task's score.
        Numerator and denominator are sums over levels of their probability times their distance
        from an end, each from its logarithm, so that no tail is a difference.
        """
        z = by_columns(logits) + self.start.to(logits)
        values = self.values.to(logits)
        none = torch.zeros_like(z[:, :1])
        passed = torch.cat([none, logsigmoid(z).cumsum(1)], dim=1)  # log P(at least each level)
        level = passed + torch.cat([logsigmoid(-z), none], dim=1)  # log P(each level)
        above = level[:, 1:] + torch.log(values[1:] - values[0])
        below = level[:, :-1] + torch.log(values[-1] - values[:-1])
        return above.logsumexp(1) - below.logsumexp(1)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the entropy of the shares."""
        return float(-(self.shares * np.log(self.shares)).sum())

    @property
    def tolerance(self) -> float:
        return 1e-6 * max(1.0, float(self.values.abs().max()))
