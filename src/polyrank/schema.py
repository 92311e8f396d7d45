"""What a log means: features, tasks and keys. Frozen, plain data; nothing here reads a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args

from polyrank import spec
from polyrank.errors import SchemaError, did_you_mean

if TYPE_CHECKING:
    from polyrank.terms import Objective

Encoding = Literal["standard", "log", "bins", "piecewise_linear", "none"]
KindName = Literal["binary", "regression"]
ALL = "all"


@dataclass(frozen=True)
class SparseFeature:
    """A column of ids, each with a learned embedding.

    Args:
        name: column; ids may be integers, strings, floats or booleans.
        vocab_size: rows of an identity vocabulary: the id itself is the row, and an id outside
            [0, vocab_size) goes to row 0. None fits a vocabulary on the training rows.
        embed_dim: width of the embedding; None takes the model's.
        min_count: ids seen less often in training share row 0 with unseen ones.
        shared_with: name of another sparse feature whose table this one uses.

    Example:
        >>> SparseFeature("item_id", min_count=10).table
        'item_id'
    """

    name: str
    vocab_size: int | None = None
    embed_dim: int | None = None
    min_count: int = 1
    shared_with: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.vocab_size is not None:
            object.__setattr__(self, "vocab_size", int(self.vocab_size))  # numpy integers too
        _check_positive(self.name, vocab_size=self.vocab_size, embed_dim=self.embed_dim)
        _check_positive(self.name, min_count=self.min_count)

    @property
    def table(self) -> str:
        """Name of the embedding table: the owner's when shared."""
        return self.shared_with or self.name


@dataclass(frozen=True)
class DenseFeature:
    """A column of numbers.

    Args:
        name: column; cast to float32 before anything is fitted or encoded.
        encoding: `standard` (mean 0, deviation 1), `log` (sign(x)·log(1+|x|), then standard),
            `bins` (quantile bins with an embedding each), `piecewise_linear` (Gorishniy et al.,
            2022), `none`. All are fitted on the training rows.
        bins: number of quantile bins of `bins` and `piecewise_linear`; fewer where values repeat.
        embed_dim: width of the embedding of `bins`; None takes the model's.

    Example:
        >>> DenseFeature("price", encoding="log").encoding
        'log'
    """

    name: str
    encoding: Encoding = "standard"
    bins: int = 32
    embed_dim: int | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.encoding not in get_args(Encoding):
            hint = did_you_mean(self.encoding, get_args(Encoding))
            raise SchemaError(f"feature {self.name!r}: unknown encoding {self.encoding!r}{hint}")
        _check_positive(self.name, bins=self.bins, embed_dim=self.embed_dim)

    @property
    def table(self) -> str:
        """Name of the embedding table of `bins`."""
        return self.name


Feature = SparseFeature | DenseFeature


@dataclass(frozen=True)
class Task:
    """An outcome to predict: what, given what, learnt on which rows.

    Args:
        name: an identifier; names the outputs (`p_click`) and the terms (`click @ all`).
        label: column of the label; None takes the name. NaN and null mean not observed.
        kind: `binary` or `regression`.
        given: the binary task without which this one cannot happen.
        space: where it is supervised: "all", the name of an ancestor, or a tuple of these.
            None resolves to "all", and for a conditional regression to `given`.
        weight: of each of its terms in the balance.
        positive_weight: multiplies positives in the training loss; it inflates p on purpose.

    Example:
        >>> Task("buy", given="click").label
        'buy'
    """

    name: str
    label: str | None = None
    kind: KindName = "binary"
    given: str | None = None
    space: str | tuple[str, ...] | None = None
    weight: float = 1.0
    positive_weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SchemaError(f"a task's name is an identifier, however: {self.name!r}")
        if self.name == ALL:
            raise SchemaError("a task cannot be named 'all': that is the space of every row")
        if self.label is None:
            object.__setattr__(self, "label", self.name)
        if isinstance(self.space, list):
            object.__setattr__(self, "space", tuple(self.space))
        if self.kind not in get_args(KindName):
            hint = did_you_mean(self.kind, get_args(KindName))
            raise SchemaError(f"task {self.name!r}: unknown kind {self.kind!r}{hint}")
        for field in ("weight", "positive_weight"):
            value = getattr(self, field)
            if not (isfinite(value) and value > 0):
                raise SchemaError(f"task {self.name!r}: {field} must be above 0, however: {value}")
        if self.kind != "binary" and self.positive_weight != 1:
            raise SchemaError(f"task {self.name!r}: positive_weight needs kind 'binary'")

    @property
    def column(self) -> str:
        """The label's column."""
        return self.label or self.name

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of its terms, in order."""
        if self.space is None:
            return (self.given if self.given and self.kind == "regression" else ALL,)
        return self.space if isinstance(self.space, tuple) else (self.space,)


@dataclass(frozen=True)
class Keys:
    """Columns that are neither feature nor label, though a key may be a feature as well.

    Args:
        user: groups rows for grouped AUC and for splits by user.
        request: groups the rows that were ranked together.
        time: orders rows for splits by time.
        weight: sample weight, in training and in metrics.
    """

    user: str | None = None
    request: str | None = None
    time: str | None = None
    weight: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The declared columns, each once."""
        named = (self.user, self.request, self.time, self.weight)
        return tuple(dict.fromkeys(column for column in named if column is not None))


@dataclass(frozen=True)
class Schema:
    """Features, tasks and keys of a log; `objective` is what they compile to.

    Args:
        features: inputs, in order.
        tasks: outcomes; `given` links them into a forest.
        keys: a `Keys`, or a mapping of its fields.

    Raises:
        SchemaError: a duplicate name, an unknown `given` or `space`, a cycle, a column that is
            both feature and label, or two outputs of one name.

    Example:
        >>> schema = Schema(
        ...     features=[SparseFeature("user_id"), DenseFeature("price")],
        ...     tasks=[Task("click"), Task("buy", given="click", space="click")],
        ... )
        >>> print(schema.objective)
        term               probability   label  rows   kind
        click @ all        P(click)      click  all    binary
        buy|click @ click  P(buy|click)  buy    click  binary
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    features: Sequence[Feature]
    tasks: Sequence[Task]
    keys: Keys = Keys()

    def __post_init__(self) -> None:
        if not isinstance(self.keys, Keys):
            object.__setattr__(self, "keys", spec.from_table(Keys, self.keys, "keys"))
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        _check_features(self.features)
        _check_tasks(self.tasks)
        object.__setattr__(self, "tasks", tuple(_resolved(task) for task in self.tasks))
        _check_spaces(self)
        _check_columns(self)

    @cached_property
    def by_name(self) -> Mapping[str, Task]:
        """Tasks by name."""
        return {task.name: task for task in self.tasks}

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the tasks that must happen before `name`, the root first."""
        return _ancestors(self.by_name, name)

    @cached_property
    def objective(self) -> Objective:
        """The terms that the tasks compile to; prints as a table."""
        from polyrank.terms import compile_terms

        return compile_terms(self)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns in task order."""
        return tuple(task.column for task in self.tasks)

    @property
    def id_features(self) -> tuple[Feature, ...]:
        """Features that are rows of `ids`: sparse ones and binned dense ones."""
        return tuple(feature for feature in self.features if has_table(feature))

    @property
    def dense_features(self) -> tuple[DenseFeature, ...]:
        """Features that are columns of `dense`."""
        return tuple(
            feature
            for feature in self.features
            if isinstance(feature, DenseFeature) and not has_table(feature)
        )

    def to_table(self) -> dict[str, Any]:
        """Return plain tables that `from_table` reads back."""
        kinds = {SparseFeature: "sparse", DenseFeature: "dense"}
        return {
            "features": [{"kind": kinds[type(f)], **spec.to_table(f)} for f in self.features],
            "tasks": spec.to_table(self.tasks),
            "keys": spec.to_table(self.keys),
        }

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Schema:
        """Read what `to_table` wrote."""
        spec.check_keys(table, ["features", "tasks", "keys"], "schema")
        kinds = {"sparse": SparseFeature, "dense": DenseFeature}
        return cls(
            features=[spec.choose(kinds, each, "feature") for each in table.get("features", [])],
            tasks=[spec.from_table(Task, each, "task") for each in table.get("tasks", [])],
            keys=spec.from_table(Keys, table.get("keys", {}), "keys"),
        )

    def to_json(self) -> str:
        """Return the schema as JSON text."""
        return json.dumps(self.to_table(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Read what `to_json` wrote."""
        return cls.from_table(json.loads(text))


def has_table(feature: Feature) -> bool:
    """Whether a feature is looked up in an embedding table."""
    return isinstance(feature, SparseFeature) or feature.encoding == "bins"


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise SchemaError(f"a feature's name is a column's name, however: {name!r}")


def _check_positive(name: str, **values: int | None) -> None:
    for field, value in values.items():
        if value is not None and value < 1:
            raise SchemaError(f"feature {name!r}: {field} must be at least 1, however: {value}")


def _refuse_duplicates(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SchemaError(f"{what} {name!r} is declared twice; each must have its own name")
        seen.add(name)


def _check_features(features: Sequence[Feature]) -> None:
    if not features:
        raise SchemaError("a schema needs at least one feature")
    _refuse_duplicates("feature", [feature.name for feature in features])
    sparse = {f.name: f for f in features if isinstance(f, SparseFeature)}
    for feature in sparse.values():
        if feature.shared_with is None:
            continue
        owner = sparse.get(feature.shared_with)
        if owner is None:
            hint = did_you_mean(feature.shared_with, (name for name in sparse))
            raise SchemaError(
                f"feature {feature.name!r} shares the table of {feature.shared_with!r}, "
                f"which is no sparse feature{hint}"
            )
        if owner.shared_with is not None:
            raise SchemaError(
                f"feature {feature.name!r} shares the table of {owner.name!r}, which has none of "
                f"its own: share with {owner.shared_with!r}"
            )
        for field in ("embed_dim", "vocab_size"):
            mine, its = getattr(feature, field), getattr(owner, field)
            if mine is not None and mine != its:
                raise SchemaError(
                    f"feature {feature.name!r} shares the table of {owner.name!r}, but its {field} "
                    f"is {mine} and the owner's is {its}: leave it out, or make them equal"
                )


def _check_tasks(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise SchemaError("a schema needs at least one task")
    _refuse_duplicates("task", [task.name for task in tasks])
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        if task.given is None:
            continue
        if task.given not in by_name:
            hint = did_you_mean(task.given, by_name)
            raise SchemaError(f"task {task.name!r}: unknown given {task.given!r}{hint}")
        if by_name[task.given].kind != "binary":
            raise SchemaError(
                f"task {task.name!r}: given {task.given!r} is a {by_name[task.given].kind}; "
                "only a binary task can happen or not"
            )
    for task in tasks:
        _ancestors(by_name, task.name)


def _ancestors(by_name: Mapping[str, Task], name: str) -> tuple[str, ...]:
    chain: list[str] = []
    parent = by_name[name].given
    while parent is not None:
        if parent == name or parent in chain:
            cycle = " → ".join([name, *chain, parent])
            raise SchemaError(f"tasks are given in a cycle: {cycle}")
        chain.append(parent)
        parent = by_name[parent].given
    return tuple(reversed(chain))


def _resolved(task: Task) -> Task:
    spaces = task.spaces
    return replace(task, space=spaces[0] if len(spaces) == 1 else spaces)


def _check_spaces(schema: Schema) -> None:
    for task in schema.tasks:
        if not task.spaces:
            raise SchemaError(f"task {task.name!r}: space is empty; name one, or leave it out")
        _refuse_duplicates(f"task {task.name!r}: space", task.spaces)
        known = (ALL, *schema.ancestors(task.name))
        if task.given and task.kind == "regression":
            if task.spaces != (task.given,):
                raise SchemaError(
                    f"task {task.name!r}: a conditional regression is learnt where "
                    f"{task.given!r} happened, so its space is {task.given!r}, "
                    f"however: {task.space!r}"
                )
            continue
        for space in task.spaces:
            if space not in known:
                hint = did_you_mean(space, known)
                raise SchemaError(f"task {task.name!r}: unknown space {space!r}{hint}")


def _check_columns(schema: Schema) -> None:
    from polyrank.terms import output_columns

    features = {feature.name for feature in schema.features}
    _refuse_duplicates("label", schema.labels)
    for task in schema.tasks:
        if task.column in features:
            raise SchemaError(
                f"column {task.column!r} is both a feature and the label of task {task.name!r}: "
                "a model would read the answer; remove it from the features"
            )
        if task.column in schema.keys.columns:
            raise SchemaError(
                f"column {task.column!r} is both a key and the label of task {task.name!r}"
            )
    outputs = [column for task in schema.tasks for column in output_columns(task)]
    for first, second in pairwise(sorted(outputs)):
        if first == second:
            raise SchemaError(f"two tasks have the output column {first!r}; rename one of them")
    for column in outputs:
        if column in schema.keys.columns:
            raise SchemaError(
                f"the output column {column!r} is also a key; rename the task or the key"
            )
