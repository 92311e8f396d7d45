"""What each term of the objective has to learn from: its rows, its positives, its scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polyrank.data.delays import known_early
from polyrank.data.sampling import Sampling
from polyrank.data.table import Table
from polyrank.data.windows import PIECE_ROWS, pieces
from polyrank.delay import EarlyDelay
from polyrank.delay.method import IMMATURE
from polyrank.errors import DataError
from polyrank.features.bags import Bag
from polyrank.labels.kind import RowGroups
from polyrank.schema import Schema
from polyrank.tasks import ALL
from polyrank.terms import Population, Term, own_population, population, population_label

TELLING_ROWS = 20  # of each label


@dataclass(frozen=True)
class TermStatistics:
    """One term's usable rows: those of its space where its label is observed.

    Args:
        rows: their plain count.
        positives: rows whose label is 1; None for what is no event.
        weighing_rows: rows whose sample weight is above 0.
        weighing_positives: rows of these whose label is 1; None for what is no event.
        weight: sum of their weights.
        weight_share: the weight that its loss is divided by ÷ all rows of the table: its own, or
            for a debiased term, also that of the rows where its condition did not happen.
        mean: weighted mean of the label; 0 without rows.
        sd: weighted standard deviation of the label; 0 without rows.
    """

    rows: int
    positives: int | None
    weighing_rows: int
    weighing_positives: int | None
    weight: float
    weight_share: float
    mean: float
    sd: float

    @property
    def mixed(self) -> bool:
        """Whether it has rows of weight above 0, of both labels where it is an event."""
        if self.positives is None or self.weighing_positives is None:
            return self.weighing_rows > 0
        return 0 < self.weighing_positives < self.weighing_rows

    @property
    def telling(self) -> bool:
        """Whether something may be chosen or said by it: enough rows, of both labels of an event.

        A loss of fewer is a draw.
        """
        least = self.weighing_rows
        if self.weighing_positives is not None:
            least = min(self.weighing_positives, self.weighing_rows - self.weighing_positives)
        return least >= TELLING_ROWS


def term_statistics(
    table: Table, sampling: Sampling | None = None, terms: Iterable[Term] | None = None
) -> dict[str, TermStatistics]:
    """Return the statistics of each term by its name, in order; None is those of the objective.

    `sampling` is given where the weights do not say it already: terms that do not descend from the
    sampled root are weighted to be those of the whole log.
    """
    found = {}
    for term in table.schema.objective if terms is None else terms:
        early = isinstance(term.method, EarlyDelay) and term.part is None
        found[term.name] = _statistics(table, term.population, sampling, early=early)
        if term.entire_space and term.population.given is not None:
            condition = table.schema.by_name[term.population.given]
            rest = _statistics(
                table, population(table.schema, condition, ALL), sampling, beside=term.population
            )
            share = found[term.name].weight_share + rest.weight_share * (1 - rest.mean)
            found[term.name] = replace(found[term.name], weight_share=share)
    return found


def fitted_labels(table: Table, sampling: Sampling | None = None) -> dict[str, dict[str, Any]]:
    """Return what each kind of label fits on its task's own training rows, where it does."""
    found = {}
    for task in table.schema.tasks:
        where = own_population(table.schema, task)
        label = term_labels(table, where)
        usable = ~np.isnan(label)
        own = table.weight if sampling is None else sampling.term_weight(table, where)
        weight = np.ones(len(table)) if own is None else own.astype(np.float64)
        columns = dict(zip(table.schema.extras, table.extras.T, strict=True))
        extras = {name: columns[name][usable] for name in task.label_kind.reads}
        try:
            fitted = task.label_kind.fit(label[usable], weight[usable], extras)
        except DataError as error:
            raise DataError(f"task {task.name!r}: {error}") from None
        if fitted:
            found[task.name] = fitted
    return found


def label_groups(table: Table, fitted: Mapping[str, Mapping[str, Any]]) -> dict[str, RowGroups]:
    """Return the groups of rows of each task whose kind of label has some, by what it fitted."""
    columns = dict(zip(table.schema.extras, table.extras.T, strict=True))
    found = {
        task.name: task.label_kind.row_groups(fitted.get(task.name, {}), columns)
        for task in table.schema.tasks
    }
    return {name: each for name, each in found.items() if each is not None}


def look_ups(
    table: Table, rows: Mapping[str, int], unseen_rate: float = 0.0
) -> dict[str, np.ndarray]:
    """Return how often an epoch looks up each row of its table, by slot of ids or bags.

    With id dropout these are expectations: a share of `unseen_rate` goes to row 0, of the slots
    that drop ids at all. Slots that share a table have a count each.

    Args:
        table: the training rows.
        rows: of each embedding table.
        unseen_rate: of id dropout, as in `Table.batches`.

    Shape:
        float64 (rows of the slot's table,) each
    """
    found = {}
    schema = table.schema
    for slot, ids in zip(schema.lookups, [*table.ids, *table.bags], strict=True):
        times = None
        if isinstance(ids, Bag):
            ids, times = ids.looked_up(last=slot.pooling == "last")
        count = np.zeros(rows[slot.table])
        for start in range(0, len(ids), PIECE_ROWS):
            piece = slice(start, start + PIECE_ROWS)
            each = None if times is None else times[piece]
            count += np.bincount(ids[piece], each, minlength=len(count))
        if slot.unseen and unseen_rate > 0:
            total = len(ids) if times is None else int(times.sum())
            count *= 1 - unseen_rate
            count[0] += unseen_rate * total
        found[slot.name] = count
    return found


def term_labels(table: Table, population: Population, *, early: bool = False) -> np.ndarray:
    """Return a population's label for each row of a table; NaN outside its space too.

    With `early`, that of its own task is what was known at the log's cut, mature or not.
    """
    columns = {
        task.name: table.labels[:, index].astype(np.float64)
        for index, task in enumerate(table.schema.tasks)
        if task.name in (*population.conditions, *population.heads)
    }
    if early:
        columns[population.task] = known_early(table.schema, table.labels, population.task)
    return population_label(columns, population)


def refuse_unusable(
    statistics: Mapping[str, TermStatistics], schema: Schema, split: str = "train"
) -> None:
    """Refuse a term without rows of weight above 0, or a binary one without both labels there."""
    for term in schema.objective:
        found, space = statistics[term.name], term.population.space
        if not found.weighing_rows:
            reason = (
                f"all {found.rows:,} have weight 0"
                if found.rows
                else f"no row has an observed label {term.label!r}"
                + (f" where {space!r} happened" if space != "all" else "")
                + _in_time(schema, term)
            )
            raise DataError(
                f"term {term.name!r} has no usable rows in {split} ({reason}): "
                "add rows, or leave the task out"
            )
        if found.positives is None or found.weighing_positives is None:
            continue
        if not 0 < found.weighing_positives < found.weighing_rows:
            missing = "negatives" if found.weighing_positives else "positives"
            counts = f"{found.positives:,} positives in {found.rows:,} usable rows"
            if 0 < found.positives < found.rows:  # it is the weights that leave one label
                missing += " of weight above 0"
                counts += f", {found.weighing_positives:,} in the {found.weighing_rows:,} "
                counts += "of weight above 0"
            raise DataError(
                f"term {term.name!r} has no {missing} in {split} ({counts}): "
                "a binary term needs both labels; add rows, or leave the task out"
            )


def _in_time(schema: Schema, term: Term) -> str:
    """Return which windows its rows must be older than, in words."""
    path = (*term.population.conditions, *term.population.heads)
    windows = [f"the window of {name!r}" for name in schema.delays if name in path]
    return f" and is older than {' and '.join(windows)}" if windows else ""


def _statistics(
    table: Table,
    population: Population,
    sampling: Sampling | None,
    *,
    beside: Population | None = None,
    early: bool = False,
) -> TermStatistics:
    rows = positives = weighing_rows = weighing_positives = 0
    weight = total = squares = 0.0
    for values, weights in labelled(table, population, sampling, beside=beside, early=early):
        rows += len(values)
        positive, weighing = values == 1, weights > 0
        positives += int(np.count_nonzero(positive))
        weighing_rows += int(np.count_nonzero(weighing))
        weighing_positives += int(np.count_nonzero(positive & weighing))
        weight += float(weights.sum())
        total += float(weights @ values)
    mean = total / weight if weight > 0 else 0.0
    for values, weights in labelled(table, population, sampling, beside=beside, early=early):
        squares += float(weights @ (values - mean) ** 2)
    event = population.label_kind.is_event
    return TermStatistics(
        rows=rows,
        positives=positives if event else None,
        weighing_rows=weighing_rows,
        weighing_positives=weighing_positives if event else None,
        weight=weight,
        weight_share=weight / max(len(table), 1),
        mean=mean,
        sd=float(np.sqrt(squares / weight)) if weight > 0 else 0.0,
    )


def labelled(
    table: Table,
    population: Population,
    sampling: Sampling | None,
    *,
    beside: Population | None = None,
    early: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield observed labels and their weights, by pieces of the table.

    Rows that are not mature in the population `beside` are left out; `early` as in `term_labels`.
    """
    names = [task.name for task in table.schema.tasks]
    for piece in pieces(table):
        label = term_labels(piece, population, early=early)
        usable = ~np.isnan(label)
        if beside is not None:
            for name in (*beside.conditions, *beside.heads):
                usable &= piece.labels[:, names.index(name)] != IMMATURE
        own = piece.weight if sampling is None else sampling.term_weight(piece, population)
        values = label[usable]
        yield values, np.ones(len(values)) if own is None else own[usable].astype(np.float64)
