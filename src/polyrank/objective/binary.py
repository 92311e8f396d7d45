"""Cross-entropy of an event on the term's paths."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood
from polyrank.terms import Summand, Term


class BinaryLikelihood(Likelihood):
    """−log p of the positives, −log(1 − p) of the negatives."""

    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        yes, no = labels.outcome(term.population)
        return (
            Summand(yes, -1.0, scores.log_probability(term.yes), True),
            Summand(no, -1.0, scores.log_probability(term.no)),
        )

    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        # `torch.sigmoid` rounds the last elements of an array otherwise than the others: rows of
        # one logit would not tie. e^(−z) may be infinite, and then the probability is 0.
        return (1 / (1 + torch.exp(-logits)),)

    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the entropy of the base rate, with positives weighted."""
        yes, no = term.positive_weight * statistics.mean, 1 - statistics.mean
        return -(yes * log(yes / (yes + no)) + no * log(no / (yes + no)))
