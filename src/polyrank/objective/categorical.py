"""Softmax over categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

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
        self.shares = np.array(fitted["shares"], dtype=np.float64)
        self.start = torch.tensor(np.log(self.shares), dtype=torch.float32)

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        rows, label = self.observed(term, labels, safe=float(self.values[0]))
        values = self.values.to(label)
        place = torch.searchsorted(values, label.contiguous()).clamp(max=len(values) - 1)
        # What is none of the values is the last category, "other", where there is one.
        place = torch.where(values[place] == label, place, self.kind.outputs - 1)
        logs = log_softmax(scores.logits[term.population.task] + self.start.to(label), dim=1)
        return (Summand(rows, 1.0, -logs.gather(1, place[:, None]).squeeze(1)),)

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        z = logits + self.start.double()
        parts = torch.exp(z - z.max(dim=1, keepdim=True).values)
        return (parts / parts.sum(dim=1, keepdim=True)).unbind(1)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the entropy of the shares."""
        return float(-(self.shares * np.log(self.shares)).sum())
