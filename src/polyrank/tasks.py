"""An outcome to predict, and outcomes linked by `given`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from polyrank import spec
from polyrank.debias import DEBIAS, Debias
from polyrank.delay import DELAY, Delay, DelayMask, EarlyDelay
from polyrank.errors import SchemaError, did_you_mean
from polyrank.features import refuse_duplicates
from polyrank.labels import LABELS, LabelKind
from polyrank.loss_method import LossMethod
from polyrank.ranking import RANKING, Ranking

ALL = "all"
# What a conditional event's space is where neither its task nor the model says: "all", or "parent",
# its `given`.
DEFAULT_SPACE: Literal["all", "parent"] = "parent"


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
            None leaves it to the model: "all" for a root, with `hold_ancestors` and, for an
            event, under `pr.ESMM`; else `given`.
        weight: of each of its terms in the balance.
        positive_weight: multiplies positives in the training loss; it inflates p on purpose,
            and only calibration undoes that.
        debias: a debiased loss for a conditional event, in place of `space`.
        ranking: a loss that compares the rows of a request, by name or with options, beside the
            likelihood or instead of it; `[keys] request` says which rows these are. Of an event,
            or of a label with an order.
        hold_ancestors: whether the factors above it in its terms' probabilities are constants, so
            that a rare outcome does not move the heads of those before it.
        delay: of an event that is known late, when that is, and what learns before: a `Delay`.
            `[keys] time` says when the impression was.

    Raises:
        SchemaError: an option that no task can have.

    Examples:
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
    debias: Debias | None = None
    ranking: str | Ranking | None = None
    hold_ancestors: bool = False
    delay: Delay | None = None

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
        if len(spaces) == 1:
            object.__setattr__(self, "space", spaces[0])
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
        ranking = _named_or_spec(self.ranking, RANKING, Ranking, f"{where}: ranking")
        object.__setattr__(self, "ranking", ranking)
        if ranking is not None:
            self._check_ranked(ranking, where)
        if self.positive_weight != 1 and not kind.is_event:
            raise SchemaError(f"{where}: positive_weight needs an event, such as kind 'binary'")
        if debias is not None:
            if not (kind.is_event and self.given):
                raise SchemaError(f"{where}: debias needs an event that is given another one")
            if self.space is not None:
                raise SchemaError(f"{where}: debias takes the place of space: leave space out")
        if not isinstance(self.hold_ancestors, bool):
            raise SchemaError(
                f"{where}: hold_ancestors must be true or false, got {self.hold_ancestors!r}"
            )
        if self.hold_ancestors:
            self._check_held(where)
        object.__setattr__(
            self, "delay", _named_or_spec(self.delay, DELAY, Delay, f"{where}: delay")
        )
        if self.delay is not None:
            self._check_delayed(self.delay, where)

    def _check_delayed(self, delay: Delay, where: str) -> None:
        """Refuse what does not happen, or beside an early method another one of the loss."""
        if not self.label_kind.is_event:
            raise SchemaError(
                f"{where}: delay needs an event, such as kind 'binary', got {self.kind!r}"
            )
        if delay.time == self.column:
            raise SchemaError(
                f"{where}: delay reads the time of the event in {delay.time!r}, which is its label"
            )
        for option in ("debias", "ranking"):
            if getattr(self, option) is not None and isinstance(delay, EarlyDelay):
                raise SchemaError(
                    f"{where}: delay {delay.name!r} and {option} both replace the loss: leave "
                    f"{option} out, or use delay 'mask' beside it"
                )

    def _check_ranked(self, ranking: Ranking, where: str) -> None:
        """Refuse labels that it does not compare, or terms of another method."""
        kind = self.label_kind
        if not ranking.compares(kind):
            takes = [repr(name) for name in LABELS if ranking.compares(LABELS[name])]
            others = [repr(name) for name in RANKING if RANKING[name]().compares(kind)]
            fix = f"use {' or '.join(others)}, or leave ranking out" if others else "leave it out"
            raise SchemaError(
                f"{where}: ranking {ranking.name!r} compares labels of kind {', '.join(takes)}, "
                f"got {kind.name!r}: {fix}"
            )
        if self.debias is not None:
            raise SchemaError(
                f"{where}: debias and ranking both replace the loss: leave either out"
            )

    def _check_held(self, where: str) -> None:
        """Refuse ancestors to hold where no term of the task has their factors."""
        if not (self.label_kind.is_event and self.given):
            raise SchemaError(
                f"{where}: hold_ancestors needs an event that is given another one; leave it out"
            )
        if self.debias is not None:
            raise SchemaError(f"{where}: debias has terms of its own: leave hold_ancestors out")
        if self.space == self.given:
            raise SchemaError(
                f"{where}: hold_ancestors holds what lies between the space and the task, and in "
                f"space {self.given!r} nothing does: leave it out, or write space = 'all'"
            )

    @cached_property
    def label_kind(self) -> LabelKind:
        """The kind of its label, with options."""
        return LABELS[self.kind]() if isinstance(self.kind, str) else self.kind

    @property
    def method(self) -> LossMethod | Ranking | None:
        """The method that may add auxiliary heads."""
        return self.supervision or self.ranker

    @property
    def supervision(self) -> LossMethod | None:
        """The method whose terms take the place of the likelihood's."""
        return self.debias or (self.delay if isinstance(self.delay, EarlyDelay) else None)

    @property
    def ranker(self) -> Ranking | None:
        """Its loss over a request, with options."""
        return self.ranking if isinstance(self.ranking, Ranking) else None

    @property
    def column(self) -> str:
        """The label's column."""
        return self.label or self.name

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of its terms, in order; none where a debiased loss has its own."""
        if self.debias is not None:
            return ()
        space = self._space(DEFAULT_SPACE)
        return space if isinstance(space, tuple) else (space,)

    def to_table(self) -> dict[str, Any]:
        """Return a plain table that `from_table` reads back."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.kind, LabelKind):
            own["kind"] = spec.chosen(LABELS, self.kind)
        if self.debias is not None:
            own["debias"] = spec.chosen(DEBIAS, self.debias)
        if self.delay is not None:
            own["delay"] = spec.chosen(DELAY, self.delay)
        if isinstance(self.ranking, Ranking):
            own["ranking"] = spec.chosen(RANKING, self.ranking)
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
                key: spec.choose(registry, {**usual, **table[key]}, f"{where}.{key}")
                for key, registry, usual in (
                    ("kind", LABELS, {}),
                    ("debias", DEBIAS, {}),
                    ("ranking", RANKING, {}),
                    ("delay", DELAY, {"kind": DelayMask.name}),
                )
                if isinstance(table.get(key), Mapping)
            }
            table = {**table, **chosen}
        return spec.from_table(cls, table, where)

    def resolved(self, default: Literal["all", "parent"] | None = None) -> Task:
        """Return the task with a space for None; a debiased loss has none.

        Args:
            default: of a conditional event that does not say; None takes `DEFAULT_SPACE`.
        """
        if self.space is not None or self.debias is not None:
            return self
        return replace(self, space=self._space(default or DEFAULT_SPACE))

    def _space(self, default: Literal["all", "parent"]) -> str | tuple[str, ...]:
        if self.space is not None:
            return self.space
        if self.given is None or self.hold_ancestors:
            return ALL
        return ALL if default == ALL and self.label_kind.is_event else self.given


class Forest:
    """Tasks linked by `given`; a `polyrank.schema.Schema` is one."""

    tasks: Sequence[Task]

    @cached_property
    def by_name(self) -> Mapping[str, Task]:
        """Tasks by name."""
        return {task.name: task for task in self.tasks}

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns in task order."""
        return tuple(task.column for task in self.tasks)

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """Raw numeric columns that kinds of label read, each once, in task order."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.label_kind.reads))

    @cached_property
    def made_of(self) -> tuple[str, ...]:
        """Raw columns, numbers or times, that labels are made of beside their own, each once."""
        numbers = [name for task in self.tasks for name in task.label_kind.made_of]
        return tuple(dict.fromkeys([*numbers, *(delay.time for delay in self.delays.values())]))

    @cached_property
    def delays(self) -> Mapping[str, Delay]:
        """The delays of tasks that have one, in task order."""
        return {task.name: task.delay for task in self.tasks if task.delay is not None}

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the tasks that must happen before `name`, the root first."""
        chain: list[str] = []
        parent = self.by_name[name].given
        while parent is not None:
            if parent == name or parent in chain:
                cycle = " → ".join([name, *chain, parent])
                raise SchemaError(f"tasks are given in a cycle: {cycle}")
            chain.append(parent)
            parent = self.by_name[parent].given
        return tuple(reversed(chain))

    def check(self) -> None:
        """Refuse no task at all, a duplicate name, an unknown `given` and a cycle."""
        if not self.tasks:
            raise SchemaError("a schema needs at least one task")
        refuse_duplicates("task", [task.name for task in self.tasks])
        by_name = self.by_name
        for task in self.tasks:
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
        for task in self.tasks:
            self.ancestors(task.name)


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
