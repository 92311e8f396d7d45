"""Losses that compare the rows of a request.

Letters: B rows of a batch, R requests in it, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from polyrank.objective.likelihood import BatchScores, Labels
from polyrank.terms import Summand, Term


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a batch, and which rows of them a term compares.

    Args:
        segment: int64 (B,), the request of each row, from 0.
        count: R.
        yes: bool (B,), positives of the term's population in requests of both labels.
        no: bool (B,), and negatives.
    """

    segment: Tensor
    count: int
    yes: Tensor
    no: Tensor

    @classmethod
    def of(cls, term: Term, labels: Labels) -> Requests:
        """Find the rows that can be compared."""
        where = term.population
        assert labels.request is not None, "a ranking loss needs the requests of the rows"
        known, segment = labels.request.unique(return_inverse=True)
        yes, no = labels.outcome(where)
        every = cls(segment, len(known), yes, no)
        both = (every.sum(yes.float()) > 0) & (every.sum(no.float()) > 0)
        return cls(segment, len(known), yes & both, no & both)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over each row's request: (B,) → (B,)."""
        return self._total(values)[self.segment]

    def log_sum_exp(self, values: Tensor) -> Tensor:
        """Return log Σ e^value over the compared rows of each row's request: (B,) → (B,).

        It is 0, without a gradient, where a request has none.
        """
        rows = self.yes | self.no
        largest = torch.full((self.count,), -torch.inf, dtype=values.dtype, device=values.device)
        kept = torch.where(rows, values.detach(), -torch.inf)
        largest = largest.scatter_reduce(0, self.segment, kept, "amax")[self.segment]
        there = largest > -torch.inf
        largest = torch.where(there, largest, 0.0)
        # Selected before the exponential: what others have there may be beyond it.
        shifted = torch.where(rows, values - largest, -torch.inf)
        total = self.sum(shifted.exp())
        return torch.where(there, total, 1.0).log() + largest

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return each positive with each negative of its request: two int64 (P,)."""
        negatives = self.no.nonzero().squeeze(1)
        negatives = negatives[self.segment[negatives].argsort(stable=True)]
        lengths = torch.bincount(self.segment[negatives], minlength=self.count)
        first = lengths.cumsum(0) - lengths
        positives = self.yes.nonzero().squeeze(1)
        of_each = lengths[self.segment[positives]]
        start = first[self.segment[positives]] - (of_each.cumsum(0) - of_each)
        place = torch.arange(int(of_each.sum()), device=start.device)
        place = place + start.repeat_interleave(of_each)
        return positives.repeat_interleave(of_each), negatives[place]

    def _total(self, values: Tensor) -> Tensor:
        none = torch.zeros(self.count, dtype=values.dtype, device=values.device)
        return none.index_add(0, self.segment, values)


def score(term: Term, scores: BatchScores) -> Tensor:
    """Return the logit of a term's probability: (B,)."""
    if len(term.population.heads) == 1:
        return scores.logits[term.population.heads[0]]
    return scores.log_probability(term.yes) - scores.log_probability(term.no)


def pairwise(term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
    """Return the loss of `polyrank.ranking.Pairwise`, a value a positive."""
    requests, s = Requests.of(term, labels), score(term, scores)
    positive, negative = requests.pairs()
    negatives = requests.sum(requests.no.to(s.dtype))[positive]
    each = softplus(s[negative] - s[positive]) / negatives
    return (Summand(requests.yes, 1.0, torch.zeros_like(s).index_add(0, positive, each)),)


def softmax(term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
    """Return the loss of `polyrank.ranking.Softmax`, a value a positive."""
    requests, s = Requests.of(term, labels), score(term, scores)
    return (Summand(requests.yes, -1.0, s - requests.log_sum_exp(s)),)


def jrc(term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
    """Return the loss of `polyrank.ranking.JRC` over requests, a value a row."""
    requests = Requests.of(term, labels)
    level = scores.logits[f"{term.population.task}#level"]
    yes = level + score(term, scores)
    return (
        Summand(requests.yes, -1.0, yes - requests.log_sum_exp(yes)),
        Summand(requests.no, -1.0, level - requests.log_sum_exp(level)),
    )
