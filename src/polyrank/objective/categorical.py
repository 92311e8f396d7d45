"""Softmax over categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot

from polyrank.data.statistics import TermStatistics
from polyrank.labels import LabelKind
from polyrank.labels.categorical import Categorical
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.terms import Summand, Term


class CategoricalLikelihood(Likelihood):
    """−log softmax(z + log share) at the category, with the shares of the training rows."""

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        super().__init__(kind, fitted)
        assert isinstance(kind, Categorical)
        self.values = torch.tensor(kind.known, dtype=torch.float32)
        self.first = float(kind.known[0])
        self.shares = np.array(fitted["shares"], dtype=np.float64)
        self.start = torch.tensor(np.log(self.shares), dtype=torch.float32)

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, label = self.observed(term, labels, safe=self.first)
        place = self.places(label)
        logs = log_softmax(scores.logits[term.population.task] + self.start.to(label), dim=1)
        return (Summand(rows, 1.0, -logs.gather(1, place[:, None]).squeeze(1)),)

    def places(self, label: Tensor) -> Tensor:
        """Return the category of each label, none NaN: int64 (N,)."""
        values = self.values.to(label)
        place = torch.searchsorted(values, label.contiguous()).clamp(max=len(values) - 1)
        # What is none of the values is the last category, "other", where there is one.
        return torch.where(values[place] == label, place, self.kind.outputs - 1)

    def targets(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Return 1 at the category and 0 elsewhere."""
        known = ~label.isnan()
        place = self.places(torch.where(known, label, self.first))
        found = one_hot(place, self.kind.outputs).to(label)
        return torch.where(known[:, None], found, torch.nan)

    @property
    def offsets(self) -> Sequence[float]:
        """The log of each share in the training rows."""
        return self.start.tolist()

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        z = logits + self.start.double()
        parts = torch.exp(z - z.max(dim=1, keepdim=True).values)
        return (parts / parts.sum(dim=1, keepdim=True)).unbind(1)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the entropy of the shares."""
        return float(-(self.shares * np.log(self.shares)).sum())
