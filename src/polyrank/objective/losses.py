"""Terms, logits and labels to named losses.

Letters: B rows of the batch, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from polyrank.data.sampling import Sampling
from polyrank.data.statistics import TermStatistics
from polyrank.objective.kinds import KINDS, BatchScores, Labels, Scale, Summand, scale
from polyrank.objective.paths import log_outcomes
from polyrank.schema import Schema
from polyrank.terms import Term


@dataclass(frozen=True)
class TermLoss:
    """The sums of one term over a batch, of which validation takes what it needs.

    Args:
        total: Σ w·loss over the term's rows: ().
        weight: Σ w over the term's rows: ().
        rows: number of the term's rows: ().
    """

    total: Tensor
    weight: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Supervision:
    """The terms of a schema with what was measured on the training rows.

    Args:
        schema: names the label columns, in task order.
        statistics: of each term, on the training rows.
        sampling: of the training rows' negatives. It shifts and weighs training losses; `sums`
            are of rows whose weights say all there is to say.
    """

    schema: Schema
    statistics: Mapping[str, TermStatistics]
    sampling: Sampling | None = None

    @property
    def scales(self) -> dict[str, Scale]:
        """Mean and deviation of each regression's target."""
        return {
            term.population.task: self._scale(term)
            for term in self.schema.objective
            if term.population.kind == "regression"
        }

    def losses(
        self, logits: Mapping[str, Tensor], labels: Tensor, weight: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the training loss and the number of rows of each term in this batch.

        The loss is Σ w·loss over the term's rows ÷ (B × the term's share of the training weight):
        its expectation over batches is the term's mean loss, and a batch without a row of the term
        gives 0 with zero gradient. Where negatives were sampled, see docs/sampling.md.

        Shape:
            - logits: {head: (B,)}; labels: (B, L), NaN where not observed; weight: (B,) or None
            - returns: {term: ()}, {term: ()}
        """
        parts = self._summands(self._in_sample(logits, labels), labels)
        rows = torch.stack([part.rows for _, part in parts])
        weight = self._stands_for(parts, labels, weight)
        factors = []
        for term, part in parts:
            scale = labels.shape[0] * self.statistics[term.name].weight_share
            factors.append(part.factor * (term.positive_weight if part.positive else 1.0) / scale)
        return _total(parts, _sums(parts, rows, weight), factors), _total(parts, rows.sum(1))

    def sums(
        self, logits: Mapping[str, Tensor], labels: Tensor, weight: Tensor | None
    ) -> dict[str, TermLoss]:
        """Return the sums of each term."""
        parts = self._summands(logits, labels)
        rows = torch.stack([part.rows for _, part in parts])
        totals = _total(parts, _sums(parts, rows, weight), [part.factor for _, part in parts])
        weights = _total(parts, (rows if weight is None else rows * weight).sum(1))
        counts = _total(parts, rows.sum(1))
        return {name: TermLoss(totals[name], weights[name], counts[name]) for name in totals}

    def _summands(self, logits: Mapping[str, Tensor], labels: Tensor) -> list[tuple[Term, Summand]]:
        """Return the summands of all terms, each with its term."""
        found = Labels.of(labels, [task.name for task in self.schema.tasks])
        binary = [task.name for task in self.schema.tasks if task.kind == "binary"]
        scores = BatchScores(logits, log_outcomes(logits, binary))
        return [
            (term, part)
            for term in self.schema.objective
            for part in KINDS[term.population.kind].summands(term, scores, found, self._scale(term))
        ]

    def _in_sample(self, logits: Mapping[str, Tensor], labels: Tensor) -> Mapping[str, Tensor]:
        """Return logits of the training rows: the sampled root's is z − log(keep).

        A row whose label is null was not sampled, and keeps z.
        """
        if self.sampling is None:
            return logits
        task, z = self.sampling.task, logits[self.sampling.task]
        root = self._label(task, labels)
        known = (root == root).to(z.dtype)  # NaN is not equal to itself
        return {**logits, task: z - log(self.sampling.keep) * known}

    def _stands_for(
        self, parts: Sequence[tuple[Term, Summand]], labels: Tensor, weight: Tensor | None
    ) -> Tensor | None:
        """Return the weights of rows for each summand, (S, B), or for all, (B,).

        Of a term that does not descend from the sampled root, a row with label 0 there stands for
        1/keep rows.
        """
        if self.sampling is None:
            return weight
        descends = [term.population.descends_from(self.sampling.task) for term, _ in parts]
        if all(descends):
            return weight
        root = self._label(self.sampling.task, labels)
        inside = torch.ones_like(root) if weight is None else weight
        outside = inside * (1 + (1 / self.sampling.keep - 1) * (root == 0).to(root.dtype))
        return torch.stack([inside if each else outside for each in descends])

    def _label(self, task: str, labels: Tensor) -> Tensor:
        return labels[:, [each.name for each in self.schema.tasks].index(task)]

    def _scale(self, term: Term) -> Scale:
        found = self.statistics[term.name]
        return found.mean, scale(found)


def _sums(parts: Sequence[tuple[Term, Summand]], rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return Σ weight · value over each summand's rows, bool (S, B): (S,).

    Weights are those of all summands, (B,), or of each, (S, B).
    """
    values = torch.stack([part.value for _, part in parts])
    kept = rows.to(values.dtype) if weight is None else rows * weight
    return (values * kept).sum(1)


def _total(
    parts: Sequence[tuple[Term, Summand]], sums: Tensor, factors: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Return Σ factor · sum over each term's summands, (S,): {term: ()}."""
    total: dict[str, Tensor] = {}
    for index, ((term, _), each) in enumerate(zip(parts, sums.unbind(0), strict=True)):
        part = each if factors is None else each * factors[index]
        total[term.name] = total[term.name] + part if term.name in total else part
    return total
