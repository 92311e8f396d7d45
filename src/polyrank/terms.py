"""Tasks compile to terms: names, paths, label rule, rows. Plain Python, printable, no torch.

A *path* is a conjunction of head outcomes, `(("click", True), ("buy", False))`; a term's event is a
union of disjoint paths. The probabilities themselves are evaluated in `polyrank.objective.paths`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyrank.text import aligned

if TYPE_CHECKING:
    import numpy as np

    from polyrank.schema import KindName, Schema, Task

ALL = "all"
Path = tuple[tuple[str, bool], ...]
DEFAULT_METRIC: Mapping[KindName, str] = {"binary": "auc", "regression": "rmse"}
TRUE = "true_"  # before the name of an output column: the known truth of it


@dataclass(frozen=True)
class Population:
    """One probability or value on one population: the unit of the objective and the scorecard.

    Args:
        task: whose outcome it is.
        kind: of the task.
        given: the event conditioned on; None for a joint.
        space: the rows: "all", or the task whose joint label is 1 there.
        heads: the tasks on the path from `given` (excluded) down to `task`.
        conditions: the tasks that must all have happened for a row to belong to the space.
    """

    task: str
    kind: KindName
    given: str | None
    space: str
    heads: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def name(self) -> str:
        """`buy @ all`, `buy|click @ click`."""
        event = f"{self.task}|{self.given}" if self.given else self.task
        return f"{event} @ {self.space}"

    def descends_from(self, root: str) -> bool:
        """Whether a root is on its path or among its conditions.

        If it is a condition, rows where the root did not happen are no rows of this population.
        """
        return root in self.heads or root in self.conditions


@dataclass(frozen=True)
class Term:
    """A supervised population with its weight: one summand of the loss.

    `yes` and `no` are unions of disjoint paths whose probabilities sum to 1; both are empty for a
    regression, whose head is the value.
    """

    population: Population
    weight: float
    positive_weight: float
    yes: tuple[Path, ...]
    no: tuple[Path, ...]
    probability: str

    @property
    def name(self) -> str:
        """The name it shares with its scorecard row."""
        return self.population.name

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

    def __str__(self) -> str:
        header = ["term", "probability", "label", "rows", "kind"]
        return aligned(
            header,
            [
                [t.name, t.probability, t.label, t.population.space, t.population.kind]
                for t in self.terms
            ],
        )


def compile_terms(schema: Schema) -> Objective:
    """Return one term for each task and space, in order."""
    return Objective(
        tuple(_term(schema, task, space) for task in schema.tasks for space in task.spaces)
    )


def populations(schema: Schema) -> tuple[Population, ...]:
    """Return what is scored, whatever was supervised: each task on all rows and on each ancestor.

    A conditional regression is scored where its condition happened, and nowhere else.
    """
    found = []
    for task in schema.tasks:
        if task.kind == "regression":
            found.append(population(schema, task, task.given or ALL))
            continue
        found.append(population(schema, task, ALL))
        found += [population(schema, task, space) for space in schema.ancestors(task.name)]
    return tuple(found)


def population(schema: Schema, task: Task, space: str) -> Population:
    """Return a task's population in one space, conditioned on that space's event."""
    chain = (*schema.ancestors(task.name), task.name)
    if task.kind == "regression":
        heads: tuple[str, ...] = (task.name,)
        conditions = chain[:-1]
    else:
        start = 0 if space == ALL else chain.index(space) + 1
        heads, conditions = chain[start:], chain[:start]
    given = None if space == ALL else space
    return Population(task.name, task.kind, given, space, heads, conditions)


def output_columns(task: Task) -> tuple[str, ...]:
    """Return the columns that `predict` writes for a task: the head first, then the joint.

    Example:
        >>> from polyrank.schema import DenseFeature, Schema, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click"),
        ...                 Task("spend", kind="regression", given="buy")])
        >>> [output_columns(task) for task in schema.tasks]
        [('p_click',), ('p_buy_given_click', 'p_buy'), ('spend_given_buy', 'spend')]
    """
    stem = f"p_{task.name}" if task.kind == "binary" else task.name
    return (f"{stem}_given_{task.given}", stem) if task.given else (stem,)


def joint_label(factors: Sequence[Any]) -> Any:
    """Return the three-valued AND of labels: 0 if any is 0, else NaN if any is NaN, else 1.

    Args:
        factors: float arrays or tensors of one shape, with values 0, 1 and NaN.

    Example:
        >>> import numpy as np
        >>> joint_label([np.array([0.0, 1.0, 1.0]), np.array([np.nan, np.nan, 1.0])])
        array([ 0., nan,  1.])
    """
    product, zero = factors[0] * 1, factors[0] == 0
    for factor in factors[1:]:
        product = product * factor  # NaN wherever any factor is NaN
        zero = zero | (factor == 0)
    product[zero] = 0.0
    return product


def population_label(labels: Mapping[str, np.ndarray], where: Population) -> np.ndarray:
    """Return a population's label for each row of the log; NaN outside its space too.

    Args:
        labels: of each task, NaN where it is not observed.
        where: whose label it is.

    Shape:
        every array float64 (rows,)

    Example:
        >>> import numpy as np
        >>> from polyrank.schema import SparseFeature, Schema, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click"), Task("buy", given="click")])
        >>> labels = {"click": np.array([0.0, 1.0]), "buy": np.array([np.nan, 1.0])}
        >>> {each.name: population_label(labels, each).tolist() for each in populations(schema)}
        {'click @ all': [0.0, 1.0], 'buy @ all': [0.0, 1.0], 'buy|click @ click': [nan, 1.0]}
    """
    label = joint_label([labels[head] for head in where.heads])
    if where.conditions:
        label[joint_label([labels[task] for task in where.conditions]) != 1] = float("nan")
    return label


def _term(schema: Schema, task: Task, space: str) -> Term:
    where = population(schema, task, space)
    if task.kind == "regression":
        value = f"E[{task.name}|{task.given}]" if task.given else f"E[{task.name}]"
        return Term(where, task.weight, task.positive_weight, (), (), value)
    heads = where.heads
    yes: tuple[Path, ...] = (tuple((head, True) for head in heads),)
    no: tuple[Path, ...] = tuple(
        (*((head, True) for head in heads[:index]), (head, False))
        for index, head in enumerate(heads)
    )
    factors = []
    for head in heads:
        parent = schema.by_name[head].given
        factors.append(f"P({head}|{parent})" if parent else f"P({head})")
    return Term(where, task.weight, task.positive_weight, yes, no, "·".join(factors))
