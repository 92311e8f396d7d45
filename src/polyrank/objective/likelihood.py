"""The loss and the prediction of a task: the torch part of its kind of label.

The log-probability of a union of paths comes from logits alone. A probability is never formed,
subtracted or clamped before its logarithm: for p = a·b, the loss on the product computed as
log(a·b) underflows, and its gradient with it, where logits are far from 0.

Letters: B rows of a batch, N rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from polyrank.data.statistics import TermStatistics
from polyrank.delay.method import IMMATURE
from polyrank.labels import LabelKind
from polyrank.registry import resolved
from polyrank.schema import Schema, Task
from polyrank.terms import Path, Population, Summand, Term

Outcomes = Mapping[tuple[str, bool], Tensor]


@dataclass(frozen=True)
class Labels:
    """A batch's labels by task, each (B,), and the columns that kinds of label read."""

    value: Mapping[str, Tensor]  # NaN where it was not observed
    yes: Mapping[str, Tensor]  # whether it is 1
    no: Mapping[str, Tensor]  # whether it is 0
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # raw columns by name
    request: Tensor | None = None  # the number of each row's request, where a task ranks
    # Of tasks with a delay: whether time has decided the label, and, in windows, the time from the
    # impression to the cut and to the event; NaN where nobody knows, or without an event.
    mature: Mapping[str, Tensor] = field(default_factory=dict)
    elapsed: Mapping[str, Tensor] = field(default_factory=dict)
    delay: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, schema: Schema, labels: Tensor, extras: Tensor | None = None,
        request: Tensor | None = None,
    ) -> Labels:  # fmt: skip
        """Read the columns (B, L) and (B, E); a comparison with NaN is false."""
        tasks, delays = [task.name for task in schema.tasks], schema.delays
        columns, times = labels[:, : len(tasks)], labels[:, len(tasks) :].unbind(1)
        value, yes, no = (
            dict(zip(tasks, each.unbind(1), strict=True))
            for each in (columns, columns == 1, columns == 0)
        )
        return cls(
            value, yes, no, named_extras(schema, extras), request,
            mature={name: value[name] != IMMATURE for name in delays},
            elapsed=dict(zip(delays, times[::2], strict=True)),
            delay=dict(zip(delays, times[1::2], strict=True)),
        )  # fmt: skip

    def within(self, where: Population, rows: Tensor, early: str | None = None) -> Tensor:
        """Return those of some rows that are mature and whose conditions happened.

        Of the task `early`, rows need not be mature.
        """
        rows = reduce(torch.Tensor.__and__, [self.yes[task] for task in where.conditions], rows)
        return self._mature(where, rows, early)

    def outside(self, where: Population) -> Tensor:
        """Return the mature rows for which one of the population's conditions did not happen."""
        none = torch.zeros_like(next(iter(self.no.values())))
        rows = reduce(torch.Tensor.__or__, [self.no[task] for task in where.conditions], none)
        return self._mature(where, rows)

    def at_the_cut(self, where: Population) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of a population by what was known of its late task at the log's cut.

        They are those of label 1, those of label 0, and those that may still become 1.

        Shape:
            bool (B,) each
        """
        task, parents = where.task, where.heads[:-1]
        e, d = self.elapsed[task], self.delay[task]
        came, observed = (d <= e) & (d <= 1), e == e  # NaN is not equal to itself
        possible = reduce(torch.Tensor.__and__, [self.yes[each] for each in parents], observed)
        over = ~came & (e >= 1)
        no = reduce(torch.Tensor.__or__, [self.no[each] for each in parents], over)
        found = possible & came, no, possible & ~came & ~over
        yes, no, open_ = (self.within(where, rows, early=task) for rows in found)
        return yes, no, open_

    def _mature(self, where: Population, rows: Tensor, early: str | None = None) -> Tensor:
        """Return those of some rows on which every task of the population's path is mature."""
        path = (*where.conditions, *where.heads)
        mature = [self.mature[task] for task in path if task in self.mature and task != early]
        return reduce(torch.Tensor.__and__, mature, rows)

    def outcome(self, where: Population) -> tuple[Tensor, Tensor]:
        """Return the population's rows of label 1, then those of label 0.

        The label is the three-valued AND along the path: yes if all are 1, no if any is 0.
        """
        yes = reduce(torch.Tensor.__and__, [self.yes[head] for head in where.heads])
        no = reduce(torch.Tensor.__or__, [self.no[head] for head in where.heads])
        return self.within(where, yes), self.within(where, no)


@dataclass(frozen=True)
class BatchScores:
    """Logits of all heads, auxiliary ones too, and the log-probabilities of the tasks' events."""

    logits: Mapping[str, Tensor]  # (B,), or (B, outputs) of a head with several
    outcomes: Outcomes
    likelihoods: Mapping[str, Likelihood] = field(default_factory=dict)  # of tasks that rank

    @classmethod
    def of(
        cls,
        schema: Schema,
        logits: Mapping[str, Tensor],
        likelihoods: Mapping[str, Likelihood] | None = None,
    ) -> BatchScores:
        events = [task.name for task in schema.tasks if task.label_kind.is_event]
        return cls(logits, log_outcomes(logits, events), likelihoods or {})

    def holding(self, heads: Sequence[str]) -> BatchScores:
        """Return the same scores in which the outcomes of these heads are constants."""
        if not heads:
            return self
        outcomes = {
            (head, happened): log.detach() if head in heads else log
            for (head, happened), log in self.outcomes.items()
        }
        return replace(self, outcomes=outcomes)

    def log_probability(self, paths: Sequence[Path]) -> Tensor:
        return log_union(paths, self.outcomes)

    def cross_entropy(self, term: Term, target: Tensor) -> Tensor:
        """Return −t·log p − (1 − t)·log(1 − p) of an event's term for a soft target t: (B,)."""
        yes, no = self.log_probability(term.yes), self.log_probability(term.no)
        return -(target * yes + (1 - target) * no)

    def head_entropy(self, head: str, target: Tensor) -> Tensor:
        """Return the same of an auxiliary head's own probability: (B,)."""
        z = self.logits[head]
        return -(target * logsigmoid(z) + (1 - target) * logsigmoid(-z))


class Likelihood(ABC):
    """Loss and prediction of one task.

    Args:
        kind: of its label, with options.
        fitted: what `kind.fit` returned of the training rows.

    Attributes:
        balance_exponent: c in the likelihood e^(−s)·L·c of uncertainty weighting: 1 for a
            log-likelihood, ½ for a squared error (Kendall et al., CVPR 2018, eq. 7 and 10).
        origin, unit: the head's value stands for (`number` − origin) ÷ unit.
        zero: the label that is no gain, of a kind that `has_zero`.
        noise: φ of the head's first output before wide rows have measured it.
        dispersion: a of a Poisson curvature, whose variance is φ·μ(1 + a·μ) with the mean μ = e^z.
        of_log: whether `number` is a logarithm, so that effects multiply what it is of.
    """

    balance_exponent: ClassVar[float] = 1.0
    origin: float = 0.0
    unit: float = 1.0
    zero: float = 0.0
    noise: float = 1.0
    dispersion: float = 0.0
    of_log: ClassVar[bool] = False

    def __init__(self, kind: LabelKind, fitted: Mapping[str, Any]) -> None:
        self.kind, self.fitted = kind, fitted

    @abstractmethod
    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        """Return the parts of a term's loss; their rows are those that teach the term."""

    def number(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Return the number that a kind whose first output has a curvature learns of a label.

        First stages are fitted on it, as origin and unit have it. NaN stays NaN.

        Args:
            label: in its own unit, NaN where it was not observed.
            extras: the columns of `kind.reads`.

        Shape:
            (N,) each → (N,)
        """
        return label

    def targets(self, label: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Return what first stages learn of a label for each output that has a curvature.

        NaN is a row that says nothing of an output.

        Shape:
            (N,) each → (N, outputs with a curvature)
        """
        return ((self.number(label, extras) - self.origin) / self.unit)[:, None]

    @property
    def offsets(self) -> Sequence[float]:
        """What the likelihood adds to each output before it is a logit."""
        return (0.0,) * self.kind.outputs

    @abstractmethod
    def predict(self, logits: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return a value for each of the kind's output columns, in the label's own unit.

        Torch operations only: an exported graph calls it too. NaN logits give NaN.

        Args:
            logits: of the task's head, calibrated where it is.
            extras: the columns of `kind.reads`.

        Shape:
            logits float64 (N,) or (N, outputs), extras float32 (N,) → float64 (N,) each
        """

    def score(self, logits: Tensor) -> Tensor:
        """Return what ranks a row of a kind that `is_ordered`, on a scale without bounds.

        It rises with the first output, and a loss over a request reads its differences.

        Args:
            logits: of the task's head, not calibrated.

        Shape:
            (B,) or (B, outputs) → (B,)
        """
        raise NotImplementedError(f"kind {self.kind.name!r} is ordered and has no score")

    @abstractmethod
    def constant_loss(self, term: Term, statistics: TermStatistics) -> float:
        """Return the mean loss of the best constant on the training rows."""

    def observed(self, term: Term, labels: Labels, safe: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the rows that teach a term, and their labels; `safe` stands in all other rows.

        A label that is not observed must be a number: 0 × NaN is NaN, in the gradient too.

        Shape:
            both (B,)
        """
        label = labels.value[term.population.task]
        rows = labels.within(term.population, label == label)  # NaN is not equal to itself
        return rows, torch.where(rows, label, safe)

    @property
    def tolerance(self) -> float:
        """The largest difference of a prediction that an exported graph may make."""
        return 1e-6


def by_columns(logits: Tensor) -> Tensor:
    """Return logits (B, outputs), also of a head with one output, whose logits are (B,)."""
    return logits if logits.ndim == 2 else logits[:, None]


def log_outcomes(logits: Mapping[str, Tensor], heads: Sequence[str]) -> Outcomes:
    """Return {(head, happened): log P}, each from the logit: a difference would lose its tail."""
    if not heads:
        return {}
    stacked = torch.stack([logits[head] for head in heads])
    logs = logsigmoid(torch.cat([stacked, -stacked])).unbind(0)
    names = [(head, happened) for happened in (True, False) for head in heads]
    return dict(zip(names, logs, strict=True))


def log_union(paths: Sequence[Path], outcomes: Outcomes) -> Tensor:
    """Return log P(any of the disjoint paths): logsumexp over them of Σ log P(outcome)."""
    summed = [reduce(torch.add, [outcomes[step] for step in path]) for path in paths]
    return reduce(torch.logaddexp, summed)


def likelihoods(schema: Schema, fitted: Mapping[str, Mapping[str, Any]]) -> dict[str, Likelihood]:
    """Return the likelihood of each task, from what its kind fitted on the training rows."""
    return {
        task.name: resolved(task.label_kind.likelihood)(task.label_kind, fitted.get(task.name, {}))
        for task in schema.tasks
    }


def numbers_of(
    schema: Schema,
    likelihoods: Mapping[str, Likelihood],
    labels: np.ndarray,
    extras: np.ndarray | None,
) -> np.ndarray:
    """Return label columns (N, L) as `Likelihood.number` has each; the same where none differs.

    Labels that are not mature are NaN: the path of every head that reads them has their task.
    """
    columns = named_extras(schema, None if extras is None else torch.from_numpy(extras))
    found = labels
    for index, task in enumerate(schema.tasks):
        label = torch.from_numpy(labels)[:, index]
        number = likelihoods[task.name].number(label, columns)
        if task.delay is not None:
            number = torch.where(number == IMMATURE, torch.nan, number)
        if number is not label:
            found = found.copy() if found is labels else found
            found[:, index] = number.numpy()
    return found


def targets_of(
    schema: Schema,
    tasks: Iterable[Task],
    likelihoods: Mapping[str, Likelihood],
    labels: np.ndarray,
    extras: np.ndarray | None,
) -> np.ndarray:
    """Return `Likelihood.targets` of some tasks, side by side: labels (N, L) → float32 (N, T).

    Labels that are not mature are NaN.
    """
    columns = named_extras(schema, None if extras is None else torch.from_numpy(extras))
    places = {task.name: index for index, task in enumerate(schema.tasks)}
    found = []
    for task in tasks:
        label = torch.from_numpy(labels)[:, places[task.name]]
        if task.delay is not None:
            label = torch.where(label == IMMATURE, torch.nan, label)
        found.append(likelihoods[task.name].targets(label, columns))
    if not found:
        return np.empty((len(labels), 0), np.float32)
    return np.ascontiguousarray(torch.cat(found, dim=1).float().numpy())


def named_extras(schema: Schema, extras: Tensor | None) -> dict[str, Tensor]:
    """Return the columns that kinds of label read, by name, of a matrix (N, E)."""
    if extras is None or not schema.extras:
        return {}
    return dict(zip(schema.extras, extras.unbind(1), strict=True))
