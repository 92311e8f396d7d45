"""Tasks compile to terms: names, paths, label rule, rows. Plain Python, printable, no torch.

A *path* is a conjunction of head outcomes, `(("click", True), ("buy", False))`; a term's event is a
union of disjoint paths. `polyrank.objective.likelihood` evaluates the probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyrank.delay.method import IMMATURE
from polyrank.labels import LabelKind
from polyrank.loss_method import LossMethod
from polyrank.loss_method import Summand as Summand  # what terms are made of
from polyrank.ranking import Ranking
from polyrank.tasks import ALL, Forest, Task
from polyrank.text import aligned, html_table

Path = tuple[tuple[str, bool], ...]
TRUE = "true_"  # before the name of an output column: its known truth
# In a history: `buy|click normalized loss`, a head's loss on its own rows ÷ that of the best
# constant; without a head, the sum over heads, by which epochs are compared.
NORMALIZED = "normalized loss"


@dataclass(frozen=True)
class Head:
    """A named part of the ranker: the task's, or `TASK#NAME` for an auxiliary head.

    It reads the representation of `task` and gives `outputs` numbers per row. An auxiliary head is
    trained and checkpointed for a method's sake; never predicted, calibrated, scored or exported.
    """

    name: str
    task: str
    outputs: int = 1
    auxiliary: bool = False


@dataclass(frozen=True)
class Population:
    """One probability or value on one population: the unit of the objective and the scorecard.

    Args:
        given: the event conditioned on; None for a joint.
        space: the rows: "all", or the task whose joint label is 1 there.
        heads: the tasks on the path from `given` (excluded) down to `task`.
        conditions: the tasks that must all have happened for a row to belong to the space.
    """

    task: str
    label_kind: LabelKind
    given: str | None
    space: str
    heads: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def happened(self) -> tuple[Path, ...]:
        """Paths on which all its conditions happened, those of a row of its space."""
        return _paths(self.conditions)[0]

    @property
    def did_not_happen(self) -> tuple[Path, ...]:
        """Disjoint paths on which one of its conditions did not happen."""
        return _paths(self.conditions)[1]

    @property
    def kind(self) -> str:
        """Name of the kind of its label."""
        return self.label_kind.name

    @property
    def name(self) -> str:
        """`buy @ all`, `buy|click @ click`."""
        return _named(self.task, self.given, self.space)

    @property
    def predicted(self) -> str:
        """`buy`, `buy|click`: its name without the rows."""
        return self.name.removesuffix(f" @ {self.space}")

    @property
    def on_all_rows(self) -> str:
        """`buy|click @ all`: the same conditional probability where only its truth is known."""
        return _named(self.task, self.given, ALL)

    def descends_from(self, root: str) -> bool:
        """Whether a root is on its path or among its conditions.

        If it is a condition, rows where the root did not happen are no rows of this population.
        """
        return root in self.heads or root in self.conditions


@dataclass(frozen=True)
class Term:
    """A supervised population with its weight: one summand of the loss.

    `yes` and `no` are unions of disjoint paths whose probabilities sum to 1; both are empty for
    what is no event, whose head is the value.

    Args:
        positive_weight: of positives in the training loss.
        probability: the event in symbols, for tables; what is held stands in brackets.
        method: the debiased loss, the correction of late conversions, or the loss over a request,
            that it belongs to; None for the likelihood of its label.
        part: which of the method's terms of one population it is, where it has several.
        held: the heads whose outcomes are constants in this term: it does not move them.
        entire_space: whether its weighted rows stand for all rows, those where its condition did
            not happen too: the loss is divided by their share of the training rows.
    """

    population: Population
    weight: float
    positive_weight: float
    yes: tuple[Path, ...]
    no: tuple[Path, ...]
    probability: str
    method: LossMethod | Ranking | None = None
    part: str | None = None
    held: tuple[str, ...] = ()
    entire_space: bool = False

    @property
    def name(self) -> str:
        """The name of its scorecard row, then its method's: `buy|click @ click [ips]`."""
        if self.method is None:
            return self.population.name
        return f"{self.population.name} [{' '.join(filter(None, (self.method.name, self.part)))}]"

    @property
    def label(self) -> str:
        """The conjunction that is the label."""
        return " & ".join(self.population.heads)


@dataclass(frozen=True)
class Objective:
    """The terms of a schema, in task order; prints as a table."""

    terms: tuple[Term, ...]

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def rows(self) -> list[dict[str, str]]:
        """Return a line per term: term, probability, label, rows, kind."""
        return [
            {
                "term": term.name,
                "probability": term.probability,
                "label": term.label,
                "rows": term.population.space,
                "kind": term.population.kind,
            }
            for term in self.terms
        ]

    @property
    def note(self) -> str:
        """What the brackets mean, where there are any."""
        if not any(term.held for term in self.terms):
            return ""
        return "[…] is held constant: the term does not train these heads"

    def __str__(self) -> str:
        rows = self.rows()
        table = aligned(list(rows[0]), [list(row.values()) for row in rows])
        return f"{table}\n{self.note}" if self.note else table

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = self.rows()
        table = html_table(list(rows[0]), [list(row.values()) for row in rows])
        return f"{table}<p>{self.note}</p>" if self.note else table


def compile_terms(schema: Forest) -> Objective:
    """Return the terms of every task, in order: those of each of its spaces, or its method's."""
    return Objective(
        tuple(
            term
            for task in schema.tasks
            for term in (
                task.supervision.terms(schema, task)
                if task.supervision is not None
                else (each for space in task.spaces for each in _terms_in(schema, task, space))
            )
        )
    )


def _terms_in(schema: Forest, task: Task, space: str) -> Iterator[Term]:
    """Yield the likelihood in a space, and the loss over a request, by their shares of weight."""
    ranker = task.ranker
    term = term_of(schema, task, space)
    if ranker is None:
        yield term
        return
    if ranker.share < 1:
        yield replace(term, weight=task.weight * (1 - ranker.share))
    yield replace(term, weight=task.weight * ranker.share, method=ranker)


def heads_of(tasks: Sequence[Task]) -> tuple[Head, ...]:
    """Return the heads of tasks: one each, then the auxiliary ones of their methods."""
    own = [Head(task.name, task.name, task.label_kind.outputs) for task in tasks]
    return (
        *own,
        *(
            Head(f"{task.name}#{name}", task.name, auxiliary=True)
            for task in tasks
            if task.method is not None
            for name in task.method.heads(task)
        ),
    )


def populations(schema: Forest) -> tuple[Population, ...]:
    """Return what is scored, whatever was supervised: each task on all rows and on each ancestor.

    What is no event is scored where its `given` happened, and nowhere else.
    """
    return tuple(
        population(schema, task, space)
        for task in schema.tasks
        for space in (
            (ALL, *schema.ancestors(task.name))
            if task.label_kind.is_event
            else (task.given or ALL,)
        )
    )


def population(schema: Forest, task: Task, space: str) -> Population:
    """Return a task's population in one space, conditioned on that space's event."""
    chain = (*schema.ancestors(task.name), task.name)
    start = 0 if space == ALL else chain.index(space) + 1
    heads, conditions = chain[start:], chain[:start]
    given = None if space == ALL else space
    return Population(task.name, task.label_kind, given, space, heads, conditions)


def own_population(schema: Forest, task: Task) -> Population:
    """Return the population that a task's own head predicts: rows where its `given` happened."""
    return population(schema, task, task.given or ALL)


def own_terms(schema: Forest) -> tuple[Term, ...]:
    """Return each head's likelihood on its own population, whatever supervises it.

    Positives weigh as the rows do: these terms compare epochs and teach nothing.
    """
    return tuple(
        replace(term_of(schema, task, task.given or ALL), positive_weight=1.0)
        for task in schema.tasks
    )


def output_columns(task: Task) -> tuple[str, ...]:
    """Return the columns that `predict` writes for a task: the head first, then the joint.

    A kind with several output columns has such a pair for each; one whose outputs make no sense
    times a probability has no joints.

    Examples:
        >>> from polyrank.schema import DenseFeature, Schema, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click"),
        ...                 Task("spend", kind="regression", given="buy")])
        >>> [output_columns(task) for task in schema.tasks]
        [('p_click',), ('p_buy_given_click', 'p_buy'), ('spend_given_buy', 'spend')]
    """
    stems = task.label_kind.stems(task.name)
    own = head_columns(task)
    if not task.given or not task.label_kind.has_joint:
        return own
    return tuple(column for pair in zip(own, stems, strict=True) for column in pair)


def head_columns(task: Task) -> tuple[str, ...]:
    """Return the output columns of a task's head alone, given its parent where it has one."""
    stems = task.label_kind.stems(task.name)
    return tuple(f"{stem}_given_{task.given}" for stem in stems) if task.given else stems


def composed(schema: Forest, heads: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the columns of `predict`, of arrays or tensors of any shape: heads, then joints.

    A joint is a product with its parent's joint, so that it never exceeds it.

    Args:
        schema: the tasks.
        heads: the values of each task's `head_columns`.

    Examples:
        >>> from polyrank.schema import DenseFeature, Schema, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
        >>> composed(schema, {"click": [0.5], "buy": [0.25]})
        {'p_click': 0.5, 'p_buy_given_click': 0.25, 'p_buy': 0.125}
    """
    columns: dict[str, dict[str, Any]] = {}
    joints: dict[str, Any] = {}
    for task in sorted(schema.tasks, key=lambda each: len(schema.ancestors(each.name))):
        values = heads[task.name]  # those of parents are there already
        if task.given and task.label_kind.has_joint:
            found = [each for value in values for each in (value, joints[task.given] * value)]
            joints[task.name] = found[1]
        else:
            found = [*values]
            joints[task.name] = found[0]
        columns[task.name] = dict(zip(output_columns(task), found, strict=True))
    return {name: values for task in schema.tasks for name, values in columns[task.name].items()}


def deviation_column(task: Task) -> str:
    """Return the column of the standard deviation of a head's logit.

    Examples:
        >>> deviation_column(Task("buy", given="click"))
        'p_buy_given_click_sd'
    """
    return f"{head_columns(task)[0]}_sd"


def joint_label(factors: Sequence[Any]) -> Any:
    """Return the three-valued AND of labels: 0 if any is 0, else NaN if any is NaN, else 1.

    A row is NaN too where any factor is not mature (`IMMATURE`), whatever the others are.

    Args:
        factors: float arrays or tensors of one shape, with values 0, 1, NaN and `IMMATURE`.

    Examples:
        >>> import numpy as np
        >>> joint_label([np.array([0.0, 1.0, 1.0]), np.array([np.nan, np.nan, 1.0])])
        array([ 0., nan,  1.])
    """
    known = [factor * 1 for factor in factors]
    immature = factors[0] == IMMATURE
    for factor in known:
        immature = immature | (factor == IMMATURE)
        factor[factor == IMMATURE] = float("nan")  # 0 × inf is no number, and numpy warns of it
    product, zero = known[0], known[0] == 0
    for factor in known[1:]:
        product = product * factor  # NaN wherever any factor is NaN
        zero = zero | (factor == 0)
    product[zero] = 0.0
    product[immature] = float("nan")
    return product


def population_label(labels: Mapping[str, Any], where: Population) -> Any:
    """Return a population's label for each row; NaN outside its space too.

    Examples:
        >>> import numpy as np
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click"), Task("buy", given="click")])
        >>> labels = {"click": np.array([0.0, 1.0]), "buy": np.array([np.nan, 1.0])}
        >>> {each.name: population_label(labels, each).tolist() for each in populations(schema)}
        {'click @ all': [0.0, 1.0], 'buy @ all': [0.0, 1.0], 'buy|click @ click': [nan, 1.0]}
    """
    label = joint_label([labels[head] for head in where.heads])
    if where.conditions:
        label[joint_label([labels[task] for task in where.conditions]) != 1] = float("nan")
    return label


def term_of(
    schema: Forest,
    task: Task,
    space: str,
    method: LossMethod | None = None,
    part: str | None = None,
) -> Term:
    """Return the term of a task in one space; `method` and `part` as in `Term`."""
    where = population(schema, task, space)
    if not task.label_kind.is_event:
        head = f"{task.name}|{task.given}" if task.given else task.name
        value = task.label_kind.symbol.format(head)
        return Term(where, task.weight, task.positive_weight, (), (), value, method, part)
    heads = where.heads
    yes, no = _paths(heads)
    factors = []
    for head in heads:
        parent = schema.by_name[head].given
        factors.append(f"P({head}|{parent})" if parent else f"P({head})")
    held = heads[:-1] if task.hold_ancestors else ()
    if held:
        factors = [f"[{'·'.join(factors[:-1])}]", factors[-1]]
    product = "·".join(factors)
    return Term(where, task.weight, task.positive_weight, yes, no, product, method, part, held)


def _named(task: str, given: str | None, space: str) -> str:
    return f"{f'{task}|{given}' if given else task} @ {space}"


def _paths(heads: Sequence[str]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the path on which all happened, and the disjoint ones on which one did not."""
    yes: tuple[Path, ...] = (tuple((head, True) for head in heads),)
    no: tuple[Path, ...] = tuple(
        (*((head, True) for head in heads[:index]), (head, False))
        for index, head in enumerate(heads)
    )
    return yes, no
