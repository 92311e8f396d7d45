"""What a log means: features, tasks and keys. Frozen, plain data; nothing here reads a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from polyrank import spec
from polyrank.errors import ConfigError, SchemaError, did_you_mean
from polyrank.features import (
    FEATURES,
    DenseFeature,
    Encoding,
    Feature,
    IdFeature,
    SequenceFeature,
    Slot,
    SparseFeature,
    Target,
    VectorFeature,
    check_features,
    in_order,
    names_by_kind,
    refuse_duplicates,
)
from polyrank.loss_method import LossMethod
from polyrank.tasks import ALL, Forest, Task
from polyrank.terms import (
    TRUE,
    Head,
    Objective,
    Term,
    compile_terms,
    heads_of,
    output_columns,
    term_of,
)
from polyrank.text import html_table

__all__ = [
    "DenseFeature",
    "Encoding",
    "Feature",
    "IdFeature",
    "Keys",
    "Schema",
    "SequenceFeature",
    "SparseFeature",
    "Target",
    "Task",
    "VectorFeature",
]


@dataclass(frozen=True)
class Keys:
    """Columns that are no labels; all but the weight may be features as well.

    Args:
        user: groups rows for grouped AUC and for splits by user. As `request`, it is text where it
            comes from a CSV file, and predictions carry it as it was read.
        request: groups the rows that were ranked together, for the metrics of ranked lists.
        time: orders rows for splits by time.
        weight: sample weight, in training and in metrics.
    """

    user: str | None = None
    request: str | None = None
    time: str | None = None
    weight: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, str):
                raise SchemaError(f"keys: {field.name} must be a column name, got {value!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The declared columns, each once."""
        named = (self.user, self.request, self.time, self.weight)
        return tuple(dict.fromkeys(column for column in named if column is not None))


@dataclass(frozen=True)
class Schema(Forest):
    """Features, tasks and keys of a log; `objective` is what they compile to.

    Args:
        features: inputs, in order. The sparse ones are put first, then the sequences, then the
            dense ones, then those of other kinds, each kind in its own order, as an experiment's
            file lists them: that file then means the same network.
        tasks: outcomes; `given` links them into a forest. A space that is None stays None, for
            the model to say (`Model.supervised`); `objective` shows the default.
        keys: a `Keys`, or a mapping of its fields.

    Raises:
        SchemaError: a duplicate name, an unknown `given` or `space`, a cycle, a column that is
            a feature and also a label, the sample weight or a known truth, or two outputs of one
            name.

    Examples:
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
    tasks: Sequence[Task]  # pyrefly: ignore  (frozen here, and read only there)
    keys: Keys = Keys()

    def __post_init__(self) -> None:
        if not isinstance(self.keys, Keys):
            object.__setattr__(self, "keys", spec.from_table(Keys, self.keys, "keys"))
        features = _parts("features", self.features, Feature, "SparseFeature")
        object.__setattr__(self, "features", in_order(features))
        tasks = _parts("tasks", self.tasks, Task, "Task")
        object.__setattr__(self, "tasks", tasks)
        check_features(self.features)
        self.check()
        _check_spaces(self)
        _check_ranked(self)
        _check_delayed(self)
        refuse_duplicates("term", [term.name for term in self.objective])
        _check_columns(self)

    @cached_property
    def objective(self) -> Objective:
        """The terms that the tasks compile to; prints as a table."""
        return compile_terms(self)

    def term(
        self,
        task: Task,
        space: str,
        method: LossMethod | None = None,
        part: str | None = None,
        *,
        weight: float = 1.0,
        entire_space: bool = False,
    ) -> Term:
        """Return a term of a task, for the method that supervises it.

        Args:
            task: one of the schema's.
            space: "all", or an ancestor.
            method: whose term it is; None is the likelihood of the label.
            part: which of the method's terms of one population it is.
            weight: of this term; it multiplies the task's.
            entire_space: whether its weighted rows stand for all rows.
        """
        return replace(
            term_of(self, task, space, method, part),
            weight=task.weight * weight,
            entire_space=entire_space,
        )

    @property
    def ranked(self) -> bool:
        """Whether a task compares the rows of a request, so that batches hold whole requests."""
        return any(task.ranking is not None for task in self.tasks)

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """The heads of a ranker: one per task, then the auxiliary ones of methods."""
        return heads_of(self.tasks)

    @cached_property
    def fields(self) -> tuple[Slot, ...]:
        """The slots that are rows of `ids`."""
        return self._slots("ids")

    @cached_property
    def bags(self) -> tuple[Slot, ...]:
        """The slots that have a list of ids in each row."""
        return self._slots("bags")

    @cached_property
    def dense(self) -> tuple[Slot, ...]:
        """The slots that are columns of `dense`."""
        return self._slots("dense")

    @property
    def lookups(self) -> tuple[Slot, ...]:
        """All slots that are looked up in a table: the fields, then the bags."""
        return (*self.fields, *self.bags)

    @cached_property
    def tables(self) -> Mapping[str, Feature]:
        """The owner of each embedding table, in order of first look-up."""
        owners = {table: each for each in self.features for table in each.tables}
        return {slot.table: owners[slot.table] for slot in self.lookups}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The columns of `predict`, in task order."""
        return tuple(column for task in self.tasks for column in output_columns(task))

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The raw columns that a prediction needs: those of the features, then other `extras`.

        Features whose value is set at prediction need none.
        """
        features = (column for each in self.features if not each.served for column in each.columns)
        return tuple(dict.fromkeys([*features, *self.extras]))

    @cached_property
    def logged_inputs(self) -> tuple[str, ...]:
        """The raw columns that training reads beside labels and keys: `inputs`, and the others."""
        features = (column for each in self.features for column in each.columns)
        return tuple(dict.fromkeys([*features, *self.extras]))

    @cached_property
    def own_towers(self) -> Mapping[str, tuple[int, ...]]:
        """The layers of each feature that has a tower of its own, which no trunk reads."""
        return {each.name: own for each in self.features if (own := each.own_tower) is not None}

    @property
    def served(self) -> tuple[Feature, ...]:
        """The features whose value is set at prediction."""
        return tuple(each for each in self.features if each.served)

    def _slots(self, place: str) -> tuple[Slot, ...]:
        slots = (slot for feature in self.features for slot in feature.slots)
        return tuple(slot for slot in slots if slot.place == place)

    def to_table(self) -> dict[str, Any]:
        """Return plain tables that `from_table` reads back."""
        return {
            "features": [{"kind": f.kind, **spec.to_table(f)} for f in self.features],
            "tasks": [task.to_table() for task in self.tasks],
            "keys": spec.to_table(self.keys),
        }

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Schema:
        """Read what `to_table` wrote.

        Raises:
            ConfigError: a table of another shape.
            SchemaError: features, tasks and keys that contradict each other.
        """
        spec.check_keys(table, ["features", "tasks", "keys"], "schema")
        for part in ("features", "tasks"):
            if not isinstance(table.get(part, []), list | tuple):
                raise ConfigError(f"schema: {part} must be a list of tables, got {table[part]!r}")
        return cls(
            features=[spec.choose(FEATURES, each, "feature") for each in table.get("features", [])],
            tasks=[Task.from_table(each) for each in table.get("tasks", [])],
            keys=spec.from_table(Keys, table.get("keys", {}), "keys"),
        )

    def __str__(self) -> str:
        lines = [f"{kind:<9} {', '.join(names)}" for kind, names in self._summary().items()]
        return "\n".join([*lines, "", str(self.objective)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [[kind, ", ".join(names)] for kind, names in self._summary().items()]
        return html_table(["columns", ""], rows) + self.objective._repr_html_()

    def _summary(self) -> dict[str, list[str]]:
        """Return the columns of each kind of feature, then the keys."""
        keys = {name: [column] for name, column in spec.to_table(self.keys).items()}
        return names_by_kind(self.features) | keys

    def to_json(self) -> str:
        """Return the schema as JSON text."""
        return json.dumps(self.to_table(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Read what `to_json` wrote.

        Raises:
            SchemaError: text that is no JSON, or features, tasks and keys that contradict each
                other.
            ConfigError: JSON of another shape.
        """
        try:
            table = json.loads(text)
        except (TypeError, ValueError) as error:
            shown = repr(text) if len(repr(text)) <= 60 else f"{repr(text)[:60]}…"
            raise SchemaError(
                f"a schema must be the JSON that to_json wrote, got {shown} ({error})"
            ) from None
        return cls.from_table(table)


def _parts(field: str, values: Any, base: type, example: str) -> tuple[Any, ...]:
    expected = f"{field} must be a list of {field} such as {example}(…)"
    if isinstance(values, base):
        raise SchemaError(f"{expected}, got {values!r}; put it in a list, in […]")
    if isinstance(values, str):
        fix = f"write {field}=[{example}({values!r})]"
        raise SchemaError(f"{expected}, got {values!r}; {fix}")
    if not isinstance(values, Iterable):
        raise SchemaError(f"{expected}, got {values!r}")
    parts = tuple(values)
    for part in parts:
        if not isinstance(part, base):
            fix = f"; write {example}({part!r})" if isinstance(part, str) else ""
            raise SchemaError(f"{expected}, got {part!r} in it{fix}")
    return parts


def _check_spaces(schema: Schema) -> None:
    for task in schema.tasks:
        if task.debias is None and not task.spaces:
            raise SchemaError(f"task {task.name!r}: space is empty; name one, or leave it out")
        refuse_duplicates(f"task {task.name!r}: space", task.spaces)
        known = (ALL, *schema.ancestors(task.name))
        if task.given and not task.label_kind.is_event:
            if task.spaces != (task.given,):
                raise SchemaError(
                    f"task {task.name!r}: a conditional {task.label_kind.name} is learned where "
                    f"{task.given!r} happened, so space must be {task.given!r}, got {task.space!r}"
                )
            continue
        for space in task.spaces:
            if space not in known:
                hint = did_you_mean(space, known)
                raise SchemaError(f"task {task.name!r}: unknown space {space!r}{hint}")


def _check_ranked(schema: Schema) -> None:
    for task in schema.tasks:
        if task.ranking is not None and schema.keys.request is None:
            raise SchemaError(
                f"task {task.name!r}: ranking compares the rows of a request: name its column in "
                "keys, request"
            )


def _check_delayed(schema: Schema) -> None:
    for name, delay in schema.delays.items():
        if schema.keys.time is None:
            raise SchemaError(
                f"task {name!r}: delay runs from the time of the impression: name its column in "
                "keys, time"
            )
        if delay.time == schema.keys.time:
            raise SchemaError(
                f"task {name!r}: delay ends at the time of the event, and {delay.time!r} is the "
                "time of the impression; name another column"
            )
        if delay.time in schema.labels:
            raise SchemaError(f"task {name!r}: the time {delay.time!r} of its delay is a label")


def _check_columns(schema: Schema) -> None:
    features = {column for feature in schema.features for column in feature.columns}
    outputs = schema.outputs
    refuse_duplicates("label", schema.labels)
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
    for name in schema.made_of:
        if name in features:
            raise SchemaError(
                f"column {name!r} is both a feature and what a label is made of, which rows to "
                "predict do not have; remove it from the features"
            )
    if schema.keys.weight in features:
        raise SchemaError(
            f"column {schema.keys.weight!r} is both a feature and the sample weight, which rows "
            "to predict do not have; remove it from the features, or from the keys"
        )
    for feature in schema.features:
        for column in feature.columns if feature.lists else ():
            if column in schema.keys.columns:
                raise SchemaError(
                    f"column {column!r} is both a {feature.kind} and a key, and a key has one "
                    "value per row; remove it from the keys"
                )
            if column != feature.name and column in schema.extras:
                raise SchemaError(
                    f"column {column!r} has the weights of {feature.name!r}, and a kind of label "
                    "reads it as a number: rename a copy of the column"
                )
        if feature.served and feature.name in schema.extras:
            raise SchemaError(
                f"column {feature.name!r} has a value for serving, and a kind of label reads it in "
                "every row at prediction: rename a copy of the column"
            )
        if feature.name in schema.extras and not feature.numeric:
            raise SchemaError(
                f"column {feature.name!r} is a {feature.kind} feature, and a kind of label reads "
                "it as a number: rename a copy of the column"
            )
    for name in schema.extras:
        if name in schema.labels or name == schema.keys.weight:
            raise SchemaError(
                f"column {name!r} is read at prediction by a kind of label, where rows have "
                "neither labels nor weights: rename a copy of the column"
            )
    for column in outputs:
        if TRUE + column in features:
            raise SchemaError(
                f"feature {TRUE + column!r} is the known truth of {column!r}: a model would read "
                "the answer; remove it from the features, or rename the column"
            )
    for first, second in pairwise(sorted(outputs)):
        if first == second:
            raise SchemaError(f"two tasks have the output column {first!r}; rename one of them")
    for column in outputs:
        if column in schema.keys.columns:
            raise SchemaError(
                f"the output column {column!r} is also a key; rename the task or the key"
            )
