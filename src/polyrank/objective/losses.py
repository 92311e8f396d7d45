"""Terms, logits and labels to named losses.

Letters: B rows of the batch, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polyrank.data.statistics import TermStatistics
from polyrank.objective.kinds import KINDS, scale
from polyrank.schema import Schema
from polyrank.terms import Term, joint_label


@dataclass(frozen=True)
class TermLoss:
    """The sums of one term over a batch, from which training and validation take what they need.

    Args:
        total: Σ w·loss over the term's rows, with positives weighted where asked: ().
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
    def scales(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation of each regression's target."""
        return {
            term.population.task: (
                self.statistics[term.name].mean,
                scale(self.statistics[term.name]),
            )
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
        sums = self.sums(logits, labels, weight, weighted_positives=True)
        batch = labels.shape[0]
        losses = {
            name: each.total / (batch * self.statistics[name].weight_share)
            for name, each in sums.items()
        }
        return losses, {name: each.rows for name, each in sums.items()}

    def sums(
        self,
        logits: Mapping[str, Tensor],
        labels: Tensor,
        weight: Tensor | None,
        *,
        weighted_positives: bool = False,
    ) -> dict[str, TermLoss]:
        """Return the sums of each term; `weighted_positives` applies positive weights."""
        columns = dict(
            zip((task.name for task in self.schema.tasks), labels.unbind(1), strict=True)
        )
        return {
            term.name: self._sums(term, logits, columns, weight, weighted_positives)
            for term in self.schema.objective
        }

    def _sums(
        self,
        term: Term,
        logits: Mapping[str, Tensor],
        columns: Mapping[str, Tensor],
        weight: Tensor | None,
        weighted_positives: bool,
    ) -> TermLoss:
        where = term.population
        kind = KINDS[where.kind]
        label = joint_label([columns[head] for head in where.heads])
        mask = ~torch.isnan(label)
        if where.conditions:
            mask = mask & (joint_label([columns[task] for task in where.conditions]) == 1)
        # A label that is not observed must be a number: 0 × NaN is NaN, in the gradient too.
        label = torch.where(mask, label, torch.zeros_like(label))
        loss = kind.loss(term, logits, kind.target(label, self.statistics[term.name]))
        if weighted_positives and term.positive_weight != 1:
            loss = torch.where(label == 1, loss * term.positive_weight, loss)
        rows = mask.sum()
        if weight is not None:
            loss = loss * weight
        total = torch.where(mask, loss, torch.zeros_like(loss)).sum()
        return TermLoss(total, rows if weight is None else (weight * mask).sum(), rows)
