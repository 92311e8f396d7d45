"""What a log means: features, tasks and keys. Frozen, plain data; nothing here reads a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from polyrank import spec
from polyrank.debias import DEBIAS, Debias
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
    check_features,
    in_order,
    names_by_kind,
    refuse_duplicates,
)
from polyrank.labels import LABELS, LabelKind
from polyrank.terms import ALL, TRUE, Head, Objective, compile_terms, heads_of, output_columns
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
    "Task",
]


@dataclass(frozen=True)
class Task:
    """An outcome to predict: what, given what, learned on which rows.

    Args:
        name: an identifier; names the outputs (`p_click`) and the terms (`click @ all`).
        label: column of the label; None takes the name. NaN and null mean not observed.
        kind: name of the kind of label, `binary` or `regression` among them; or a `LabelKind`
            with options.
        given: the event without which this one cannot happen.
        space: where it is supervised: "all", the name of an ancestor, or a tuple of these.
            None resolves to "all", and for what is no event to `given`.
        weight: of each of its terms in the balance.
        positive_weight: multiplies positives in the training loss; it inflates p on purpose,
            and only calibration undoes that.
        debias: a debiased loss for a conditional event, in place of `space`.

    Raises:
        SchemaError: an option that no task can have.

    Example:
        >>> Task("buy", given="click").label
        'buy'
    """

    name: str
    label: str | None = None
    kind: str | LabelKind = "binary"
    given: str | None = None
    space: str | tuple[str, ...] | None = None
    weight: float = 1.0
    positive_weight: float = 1.0
    debias: str | Debias | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SchemaError(f"a task's name must be an identifier, got {self.name!r}")
        if self.name == ALL:
            raise SchemaError("a task cannot be named 'all': that is the space of every row")
        where = f"task {self.name!r}"
        if self.label is None:
            object.__setattr__(self, "label", self.name)
        if isinstance(self.space, list):
            object.__setattr__(self, "space", tuple(self.space))
        spaces = self.space if isinstance(self.space, tuple) else (self.space,)
        for field, value in (
            ("label", self.label),
            ("given", self.given),
            *(("space", each) for each in spaces),
        ):
            if value is not None and not isinstance(value, str):
                raise SchemaError(f"{where}: {field} must be a name, got {value!r}")
        for field in ("weight", "positive_weight"):
            value = getattr(self, field)
            number = spec.number(f"{where}: {field}", value, above=0, error=SchemaError)
            object.__setattr__(self, field, number)
        kind = _named_or_spec(self.kind, LABELS, LabelKind, f"{where}: kind")
        debias = _named_or_spec(self.debias, DEBIAS, Debias, f"{where}: debias")
        # A kind without options is its name, as files write it.
        object.__setattr__(self, "kind", kind.name if kind == _default(type(kind)) else kind)
        object.__setattr__(self, "debias", debias)
        if self.positive_weight != 1 and not kind.is_event:
            raise SchemaError(f"{where}: positive_weight needs an event, such as kind 'binary'")
        if debias is not None:
            if not (kind.is_event and self.given):
                raise SchemaError(f"{where}: debias needs an event that is given another one")
            if self.space is not None:
                raise SchemaError(f"{where}: debias takes the place of space: leave space out")

    @cached_property
    def label_kind(self) -> LabelKind:
        """The kind of its label, with options."""
        return LABELS[self.kind]() if isinstance(self.kind, str) else self.kind

    @property
    def column(self) -> str:
        """The label's column."""
        return self.label or self.name

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of its terms, in order; none where a debiased loss has its own."""
        if self.debias is not None:
            return ()
        if self.space is None:
            return (self.given if self.given and not self.label_kind.is_event else ALL,)
        return self.space if isinstance(self.space, tuple) else (self.space,)

    def to_table(self) -> dict[str, Any]:
        """Return a plain table that `from_table` reads back."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.kind, LabelKind):
            own["kind"] = spec.chosen(LABELS, self.kind)
        if self.debias is not None:
            own["debias"] = spec.chosen(DEBIAS, self.debias)
        return spec.to_table(own)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "task") -> Task:
        """Read what `to_table` wrote; a kind may be a name or a table with a `kind`.

        Raises:
            ConfigError: an unknown key or kind, with the nearest, or a value of a wrong type.
            SchemaError: an option that no task can have.
        """
        chosen: dict[str, Any] = {}
        if isinstance(table, Mapping):
            chosen = {
                key: spec.choose(registry, table[key], f"{where}.{key}")
                for key, registry in (("kind", LABELS), ("debias", DEBIAS))
                if isinstance(table.get(key), Mapping)
            }
            table = {**table, **chosen}
        return spec.from_table(cls, table, where)


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
class Schema:
    """Features, tasks and keys of a log; `objective` is what they compile to.

    Args:
        features: inputs, in order. The sparse ones are put first, then the sequences, then the
            dense ones, then those of other kinds, each kind in its own order, as an experiment's
            file lists them: that file then means the same network.
        tasks: outcomes; `given` links them into a forest.
        keys: a `Keys`, or a mapping of its fields.

    Raises:
        SchemaError: a duplicate name, an unknown `given` or `space`, a cycle, a column that is
            a feature and also a label, the sample weight or a known truth, or two outputs of one
            name.

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
        features = _parts("features", self.features, Feature, "SparseFeature")
        object.__setattr__(self, "features", in_order(features))
        object.__setattr__(self, "tasks", _parts("tasks", self.tasks, Task, "Task"))
        check_features(self.features)
        _check_tasks(self.tasks)
        object.__setattr__(self, "tasks", tuple(map(_resolved, self.tasks)))
        _check_spaces(self)
        refuse_duplicates("term", [term.name for term in self.objective])
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
        return compile_terms(self)

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """The heads of a ranker: one per task, then the auxiliary ones of debiased losses."""
        return heads_of(self.tasks)

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """Raw numeric columns that kinds of label read, each once, in task order."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.label_kind.reads))

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns in task order."""
        return tuple(task.column for task in self.tasks)

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
    def inputs(self) -> tuple[str, ...]:
        """The raw columns that a prediction needs: the features, then other `extras`."""
        return tuple(dict.fromkeys([*(each.name for each in self.features), *self.extras]))

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


def _check_tasks(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise SchemaError("a schema needs at least one task")
    refuse_duplicates("task", [task.name for task in tasks])
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        if task.given is None:
            continue
        if task.given not in by_name:
            hint = did_you_mean(task.given, by_name)
            raise SchemaError(f"task {task.name!r}: unknown given {task.given!r}{hint}")
        if not (parent := by_name[task.given].label_kind).is_event:
            raise SchemaError(
                f"task {task.name!r}: given must name an event, such as a binary task, got "
                f"{task.given!r}, whose kind is {parent.name!r}"
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
    if task.debias is not None:
        return task
    return replace(task, space=spaces[0] if len(spaces) == 1 else spaces)


def _named_or_spec(given: Any, registry: Mapping[str, type], base: type, where: str) -> Any:
    """Return the spec that a name stands for, or a spec as it is; None stays None."""
    if given is None or isinstance(given, base):
        return given
    if not isinstance(given, str):
        raise SchemaError(f"{where} must be a name or a {base.__name__}, got {given!r}")
    if given not in registry:
        raise SchemaError(f"{where}: unknown kind {given!r}{did_you_mean(given, registry)}")
    found = _default(registry[given])
    if found is None:
        raise SchemaError(f"{where}: {given!r} needs options: write {{ kind = {given!r}, … }}")
    return found


def _default(kind: type) -> Any:
    """Return a spec without options; None where it needs some."""
    try:
        return kind()
    except TypeError:
        return None


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


def _check_columns(schema: Schema) -> None:
    features = {feature.name for feature in schema.features}
    outputs = [column for task in schema.tasks for column in output_columns(task)]
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
    if schema.keys.weight in features:
        raise SchemaError(
            f"column {schema.keys.weight!r} is both a feature and the sample weight, which rows "
            "to predict do not have; remove it from the features, or from the keys"
        )
    for feature in schema.features:
        if feature.lists and feature.name in schema.keys.columns:
            raise SchemaError(
                f"column {feature.name!r} is both a {feature.kind} and a key, and a key has one "
                "value per row; remove it from the keys"
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
