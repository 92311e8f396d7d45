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
        label: (B,), of the compared rows; what others have is not read.
        above: bool (B,), the compared rows with another of a lower label in their request. Of an
            event, its positives in requests of both labels.
        lowest: bool (B,), the compared rows that have none: the negatives there.
    """

    segment: Tensor
    count: int
    label: Tensor
    above: Tensor
    lowest: Tensor

    @classmethod
    def of(cls, term: Term, labels: Labels) -> Requests:
        """Find the rows that can be compared: those of requests with two different labels."""
        assert labels.request is not None, "a ranking loss needs the requests of the rows"
        known, segment = labels.request.unique(return_inverse=True)
        label, rows = _observed(term, labels)
        low, high = (
            torch.full((len(known),), start, dtype=label.dtype, device=label.device).scatter_reduce(
                0, segment, torch.where(rows, label, start), how
            )[segment]
            for start, how in ((torch.inf, "amin"), (-torch.inf, "amax"))
        )
        rows = rows & (low < high)
        return cls(segment, len(known), label, rows & (label > low), rows & (label == low))

    def log_sum_exp(self, values: Tensor) -> Tensor:
        """Return log Σ e^value over the compared rows of each row's request: (B,) → (B,).

        It is 0, without a gradient, where a request has none.
        """
        rows = self.above | self.lowest
        largest = self._largest(torch.where(rows, values.detach(), -torch.inf))
        there = largest > -torch.inf
        largest = torch.where(there, largest, 0.0)
        # Selected before the exponential: what others have there may be beyond it.
        shifted = torch.where(rows, values - largest, -torch.inf)
        total = self._sum(shifted.exp())
        return torch.where(there, total, 1.0).log() + largest

    def gains(self, zero: float) -> Tensor:
        """Return label − zero, ÷ the largest of the row's request: (B,), 0 in rows not compared."""
        rows = self.above | self.lowest
        gain = torch.where(rows, self.label - zero, 0.0)
        largest = self._largest(gain)
        return gain / torch.where(largest > 0, largest, 1.0)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return each row with each one of a lower label in its request, and how many it has.

        Shape:
            int64 (P,) each
        """
        rows = (self.above | self.lowest).nonzero().squeeze(1)
        rows = rows[self.label[rows].argsort(stable=True)]
        rows = rows[self.segment[rows].argsort(stable=True)]  # by request, then by label
        lengths = torch.bincount(self.segment[rows], minlength=self.count)
        first = lengths.cumsum(0) - lengths
        segment, label = self.segment[rows], self.label[rows]
        place = torch.arange(len(rows), device=rows.device)
        begins = torch.ones_like(rows, dtype=torch.bool)
        begins[1:] = (segment[1:] != segment[:-1]) | (label[1:] != label[:-1])
        # Those of a lower label stand between the first of the request and the first of the label.
        run = torch.where(begins, place, 0).cummax(0).values
        lower = torch.zeros_like(self.segment).index_put((rows,), run - first[segment])
        higher = self.above.nonzero().squeeze(1)
        of_each = lower[higher]
        start = first[self.segment[higher]] - (of_each.cumsum(0) - of_each)
        place = torch.arange(int(of_each.sum()), device=start.device)
        place = place + start.repeat_interleave(of_each)
        return (
            higher.repeat_interleave(of_each),
            rows[place],
            of_each.repeat_interleave(of_each),
        )

    def _sum(self, values: Tensor) -> Tensor:
        """Return the sum over each row's request: (B,) → (B,)."""
        none = torch.zeros(self.count, dtype=values.dtype, device=values.device)
        return none.index_add(0, self.segment, values)[self.segment]

    def _largest(self, values: Tensor) -> Tensor:
        """Return the largest of each row's request: (B,) → (B,)."""
        none = torch.full((self.count,), -torch.inf, dtype=values.dtype, device=values.device)
        return none.scatter_reduce(0, self.segment, values, "amax")[self.segment]


def score(term: Term, scores: BatchScores) -> Tensor:
    """Return what a term ranks by, (B,): the logit of its probability, or its likelihood's score.

    The latter is of labels that are no event: see `score` of their likelihoods.
    """
    task, heads = term.population.task, term.population.heads
    if not term.population.label_kind.is_event:
        return scores.likelihoods[task].score(scores.logits[task])
    if len(heads) == 1:
        return scores.logits[heads[0]]
    return scores.log_probability(term.yes) - scores.log_probability(term.no)


def pairwise(term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
    """Return the loss of `polyrank.ranking.Pairwise`, a value a row with one of a lower label."""
    requests, s = Requests.of(term, labels), score(term, scores)
    higher, lower, count = requests.pairs()
    each = softplus(s[lower] - s[higher]) / count.to(s.dtype)
    return (Summand(requests.above, 1.0, torch.zeros_like(s).index_add(0, higher, each)),)


def softmax(term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
    """Return the loss of `polyrank.ranking.Softmax`, a value a row with a gain."""
    requests, s = Requests.of(term, labels), score(term, scores)
    likelihood = scores.likelihoods.get(term.population.task)
    gains = requests.gains(0.0 if likelihood is None else likelihood.zero).to(s.dtype)
    return (Summand(gains > 0, -1.0, gains * (s - requests.log_sum_exp(s))),)


def jrc(term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
    """Return the loss of `polyrank.ranking.JRC` over requests, a value a row."""
    requests = Requests.of(term, labels)
    level = scores.logits[f"{term.population.task}#level"]
    yes = level + score(term, scores)
    return (
        Summand(requests.above, -1.0, yes - requests.log_sum_exp(yes)),
        Summand(requests.lowest, -1.0, level - requests.log_sum_exp(level)),
    )


def _observed(term: Term, labels: Labels) -> tuple[Tensor, Tensor]:
    """Return a term's labels, 1 and 0 of an event, and the rows where they are observed: (B,)."""
    where = term.population
    own = labels.value[where.task]
    if where.label_kind.is_event:
        yes, no = labels.outcome(where)
        return yes.to(own.dtype), yes | no
    return own, labels.within(where, own == own)  # NaN is not equal to itself
