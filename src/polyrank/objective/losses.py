"""Terms, logits and labels to named losses.

Letters: B rows of the batch, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.objective.kinds import KINDS, BatchScores, Labels, Observed, Scale, scale
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
    """

    schema: Schema
    statistics: Mapping[str, TermStatistics]

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
        gives 0 with zero gradient.

        Shape:
            - logits: {head: (B,)}; labels: (B, L), NaN where not observed; weight: (B,) or None
            - returns: {term: ()}, {term: ()}
        """
        batch = labels.shape[0]
        factors = {
            term.name: 1 / (batch * self.statistics[term.name].weight_share)
            for term in self.schema.objective
        }
        seen, each = self._rows(logits, labels)
        shares = []
        for term in self.schema.objective:
            rows, positive = seen[term.name].rows, seen[term.name].positive
            share = rows * factors[term.name]
            if term.positive_weight != 1 and positive is not None:
                share = torch.where(positive, share * term.positive_weight, share)
            shares.append(share)
        coefficients = torch.stack(shares)
        if weight is not None:
            coefficients = coefficients * weight
        rows = torch.stack([found.rows for found in seen.values()])
        losses = (each * coefficients).sum(1)
        return _named(seen, losses), _named(seen, rows.sum(1))

    def sums(
        self, logits: Mapping[str, Tensor], labels: Tensor, weight: Tensor | None
    ) -> dict[str, TermLoss]:
        """Return the sums of each term."""
        seen, each = self._rows(logits, labels)
        rows = torch.stack([found.rows for found in seen.values()])
        coefficients = rows if weight is None else rows * weight
        totals = _named(seen, (each * coefficients).sum(1))
        weights, counts = _named(seen, coefficients.sum(1)), _named(seen, rows.sum(1))
        return {name: TermLoss(totals[name], weights[name], counts[name]) for name in seen}

    def _rows(
        self, logits: Mapping[str, Tensor], labels: Tensor
    ) -> tuple[dict[str, Observed], Tensor]:
        """Return what each term observes, and the loss of each term and row: (T, B)."""
        found = Labels.of(labels, [task.name for task in self.schema.tasks])
        binary = [task.name for task in self.schema.tasks if task.kind == "binary"]
        scores = BatchScores(logits, log_outcomes(logits, binary))
        seen, losses = {}, []
        for term in self.schema.objective:
            kind, scales = KINDS[term.population.kind], self._scale(term)
            seen[term.name] = kind.observe(term.population, found)
            losses.append(kind.loss(term, scores, found, seen[term.name], scales))
        return seen, torch.stack(losses)

    def _scale(self, term: Term) -> Scale:
        found = self.statistics[term.name]
        return found.mean, scale(found)


def _named(names: Iterable[str], values: Tensor) -> dict[str, Tensor]:
    return dict(zip(names, values.unbind(0), strict=True))
