"""Terms, logits and labels to named losses.

Letters: B rows of the batch, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log
from typing import Any

import torch
from torch import Tensor

from polyrank.data.requests import RequestStatistics, labelled_requests, with_requests
from polyrank.data.sampling import Sampling
from polyrank.data.statistics import (
    TermStatistics,
    fitted_labels,
    refuse_unusable,
    term_labels,
    term_statistics,
)
from polyrank.data.table import Table
from polyrank.debias import PropensityUse, PropensityWeighted
from polyrank.errors import ConfigError
from polyrank.objective.likelihood import BatchScores, Labels, Likelihood, likelihoods
from polyrank.ranking import Ranking
from polyrank.schema import Schema
from polyrank.terms import Summand, Term, own_population, own_terms

Logits = Mapping[str, Tensor]
Parts = Sequence[tuple[Term, Summand]]  # the summands of all terms, each with its term


@dataclass(frozen=True)
class TermLoss:
    """The sums of one term over a batch, each (), of which validation takes what it needs."""

    total: Tensor  # Σ w·loss over the term's rows
    weight: Tensor  # Σ w
    rows: Tensor  # their number


@dataclass(frozen=True)
class Supervision:
    """The terms of a schema with what was measured on the training rows."""

    schema: Schema
    statistics: Mapping[str, TermStatistics]  # of each term
    fitted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by each task's kind
    # It shifts and weighs training losses; `sums` are of rows weighted as the whole log already.
    sampling: Sampling | None = None
    # Of each head: the loss of the best constant on its own training rows, those of the whole log.
    constant_losses: Mapping[str, float] = field(default_factory=dict)
    # Of each term that compares the rows of a request.
    requests: Mapping[str, RequestStatistics] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        train: Table,
        sampling: Sampling | None = None,
        fitted: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Supervision:
        """Measure the training rows; DataError, with the counts, for a term they cannot teach.

        `fitted` is what a warm start keeps of the labels' kinds.
        """
        statistics = term_statistics(train, sampling)
        refuse_unusable(statistics, train.schema, "train")
        requests = _requests(train, sampling)
        fitted = fitted_labels(train, sampling) if fitted is None else fitted
        found = cls(train.schema, statistics, fitted, sampling, requests=requests)
        whole = train if sampling is None else sampling.weighted(train, "train")
        return replace(found, constant_losses=found._constant_losses(whole))

    @cached_property
    def likelihoods(self) -> Mapping[str, Likelihood]:
        return likelihoods(self.schema, self.fitted)

    @cached_property
    def _ranked(self) -> Mapping[str, Likelihood]:
        """The likelihoods whose scores rank rows: those of tasks that are no event."""
        ranked = [
            task for task in self.schema.tasks if task.ranker and not task.label_kind.is_event
        ]
        return {task.name: self.likelihoods[task.name] for task in ranked}

    def losses(
        self,
        logits: Logits,
        labels: Tensor,
        weight: Tensor | None,
        extras: Tensor | None = None,
        joined: int | None = None,
        requests: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the training loss and the number of rows of each term in this batch.

        The loss is Σ w·loss over the term's rows ÷ (B × the term's share of the training weight):
        its expectation over batches is the term's mean loss, and a batch without a row of the term
        gives 0 with zero gradient. Labels are (B, L), NaN where not observed. For sampled negatives
        see docs/sampling.md. Where these rows are a part of a batch of `joined` rows, B is that
        number, and the losses of all parts add up to those of the batch; self-normalised weights
        are normalised within a part, which counts by its rows. `requests`, (B,), are the requests
        of the rows, where a task ranks.
        """
        parts = self._summands(self._in_sample(logits, labels), labels, extras, requests=requests)
        rows = torch.stack([part.rows for _, part in parts])
        scales = []
        for term, part in parts:
            share = (joined or labels.shape[0]) * self.statistics[term.name].weight_share
            if part.over is not None:
                share = (joined or labels.shape[0]) / labels.shape[0]
            scales.append((term.positive_weight if part.positive else 1.0) / share)
        losses = _losses(parts, rows, self._stands_for(parts, labels, weight), scales)
        return losses, _counted(parts, rows.sum(1))

    def sums(
        self,
        logits: Logits,
        labels: Tensor,
        weight: Tensor | None,
        extras: Tensor | None = None,
        terms: Iterable[Term] | None = None,
        requests: Tensor | None = None,
    ) -> dict[str, TermLoss]:
        """Return the sums of some terms, or of the objective's, over labelled rows."""
        parts = self._summands(logits, labels, extras, terms, requests)
        rows = torch.stack([part.rows for _, part in parts])
        weights = _counted(parts, (rows if weight is None else rows * weight).sum(1))
        weights |= self._entire(parts, labels, weight)
        scales = [1.0 if part.over is None else weights[term.name] for term, part in parts]
        totals = _losses(parts, rows, weight, scales)
        counts = _counted(parts, rows.sum(1))
        return {name: TermLoss(totals[name], weights[name], counts[name]) for name in totals}

    def own_losses(
        self, logits: Logits, labels: Tensor, weight: Tensor | None, extras: Tensor | None = None
    ) -> dict[str, float]:
        """Return each head's mean loss on its own rows ÷ that of the best constant, by task.

        Own rows are those where the head's parent happened. A head without any is left out; one
        whose constant costs nothing is not divided.
        """
        terms, found = own_terms(self.schema), {}
        sums = self.sums(logits, labels, weight, extras, terms)
        for term in terms:
            task, each = term.population.task, sums[term.name]
            if each.weight > 0:
                scale = self.constant_losses.get(task, 0.0)
                loss = float(each.total / each.weight)
                found[task] = loss / scale if scale > 0 else loss
        return found

    def _constant_losses(self, train: Table) -> dict[str, float]:
        terms = own_terms(self.schema)
        measured, found = term_statistics(train, terms=terms), {}
        for term in terms:
            rows, task = measured[term.name], term.population.task
            likelihood = self.likelihoods[task]
            found[task] = likelihood.constant_loss(term, rows) if rows.mixed else 0.0
        return found

    def _summands(
        self,
        logits: Logits,
        labels: Tensor,
        extras: Tensor | None,
        terms: Iterable[Term] | None = None,
        requests: Tensor | None = None,
    ) -> Parts:
        found = Labels.of(self.schema, labels, extras, requests)
        scores = BatchScores.of(self.schema, logits, self._ranked)
        methods = [
            (term, term.method or self.likelihoods[term.population.task])
            for term in (self.schema.objective if terms is None else terms)
        ]
        return [
            (term, part)
            for term, method in methods
            for part in method.summands(term, scores.holding(term.held), found)
        ]

    def propensities(
        self, logits: Logits, labels: Tensor, weight: Tensor | None
    ) -> tuple[PropensityUse, ...]:
        """Return what the weights of debiased tasks are worth on labelled rows, as in training."""
        scores = BatchScores.of(self.schema, self._in_sample(logits, labels))
        known, found = Labels.of(self.schema, labels), []
        for task in self.schema.tasks:
            if not isinstance(task.debias, PropensityWeighted):
                continue
            where = own_population(self.schema, task)
            yes, no = known.outcome(where)
            rows = yes | no
            log_p = scores.log_probability(where.happened)[rows].detach()
            p = log_p.double().exp().cpu().numpy()
            own = None if weight is None else weight[rows].cpu().numpy()
            found.append(PropensityUse.of(where.name, p, task.debias.floor, own))
        return tuple(found)

    def _entire(self, parts: Parts, labels: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
        """Return Σ w of the rows that terms of weighted rows stand for, by term."""
        found = {}
        for term in {term.name: term for term, _ in parts if term.entire_space}.values():
            known = Labels.of(self.schema, labels)
            yes, no = known.outcome(term.population)
            rows = yes | no | known.outside(term.population)
            found[term.name] = (rows if weight is None else rows * weight).sum()
        return found

    def _in_sample(self, logits: Logits, labels: Tensor) -> Logits:
        """Return logits of the training rows: z − log(keep) at the sampled root, if labelled."""
        if self.sampling is None:
            return logits
        task, z = self.sampling.task, logits[self.sampling.task]
        root = self._label(task, labels)
        known = (root == root).to(z.dtype)  # NaN is not equal to itself
        return {**logits, task: z - log(self.sampling.keep) * known}

    def _stands_for(self, parts: Parts, labels: Tensor, weight: Tensor | None) -> Tensor | None:
        """Return the weights of rows for each summand, (S, B), or for all, (B,).

        Where the sampled root is 0, a row stands for 1/keep rows of the terms outside its descent.
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


def _requests(train: Table, sampling: Sampling | None) -> dict[str, RequestStatistics]:
    """Count the requests of each term that ranks; DataError for one without any to rank."""
    if not train.schema.ranked:
        return {}
    if sampling is not None:
        raise ConfigError(
            "sampled negatives leave requests without the rows to rank against: leave out sampling "
            "or ranking"
        )
    codes = with_requests(train, "train").requests
    assert codes is not None
    return {
        term.name: labelled_requests(
            codes, term_labels(train, term.population), term.population, "train"
        )
        for term in train.schema.objective
        if isinstance(term.method, Ranking)
    }


def _losses(
    parts: Parts, rows: Tensor, weight: Tensor | None, scales: Sequence[float | Tensor]
) -> dict[str, Tensor]:
    """Return Σ scale · factor · weight · value over the rows, bool (S, B), of each term's summands.

    Weights are those of all summands, (B,), or of each, (S, B). A self-normalised summand is
    divided by Σ factor · weight over the rows that it names.
    """
    values = torch.stack([part.value for _, part in parts])
    kept = rows.to(values.dtype) if weight is None else rows * weight
    if any(isinstance(part.factor, Tensor) for _, part in parts):
        # Selected and not multiplied: what a factor is in rows of others need not be finite.
        weighted = [
            torch.where(each, some * part.factor, 0.0) if isinstance(part.factor, Tensor) else some
            for each, some, (_, part) in zip(rows, kept, parts, strict=True)
        ]
        kept = torch.stack(weighted)
    factors = [
        scale if isinstance(part.factor, Tensor) else part.factor * scale
        for scale, (_, part) in zip(scales, parts, strict=True)
    ]
    sums = (values * kept).sum(1)
    if any(part.over is not None for _, part in parts):
        norms = [
            each.new_ones(()) if part.over is None else _norm(part, each, weight, index)
            for index, (each, (_, part)) in enumerate(zip(values, parts, strict=True))
        ]
        sums = sums / torch.stack(norms)
    return _total(parts, sums, factors)


def _norm(part: Summand, values: Tensor, weight: Tensor | None, index: int) -> Tensor:
    """Return Σ factor · weight over the rows that normalise a summand; 1 where there are none."""
    own = values.new_ones(()) if weight is None else weight[index] if weight.ndim > 1 else weight
    total = torch.where(part.over, part.factor * own, 0.0).sum()
    return torch.where(total > 0, total, 1.0)


def _total(
    parts: Parts, sums: Tensor, factors: Sequence[float | Tensor] | None = None
) -> dict[str, Tensor]:
    """Return Σ factor · sum over each term's summands, (S,): {term: ()}."""
    total: dict[str, Tensor] = {}
    for index, ((term, _), each) in enumerate(zip(parts, sums.unbind(0), strict=True)):
        part = each if factors is None else each * factors[index]
        total[term.name] = total[term.name] + part if term.name in total else part
    return total


def _counted(parts: Parts, sums: Tensor) -> dict[str, Tensor]:
    """Return the total over those of each term's summands whose rows count as its own."""
    kept = [index for index, (_, part) in enumerate(parts) if part.counts]
    if len(kept) < len(parts):
        sums = sums[kept]
    return _total([parts[index] for index in kept], sums)
