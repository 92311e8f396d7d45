"""The Model spec: trunk, interaction, tower, widths; and the named models of the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

from torch import nn

from polyrank import spec
from polyrank.errors import ConfigError
from polyrank.layout import WHOLE, Held, Layout, VocabularySizes
from polyrank.models.adatt import AdaTT
from polyrank.models.aitm import AITM
from polyrank.models.cross import Cross
from polyrank.models.cross_stitch import CrossStitch
from polyrank.models.dcnv2 import DCNv2
from polyrank.models.gdcn import GDCN
from polyrank.models.home import HoME
from polyrank.models.interaction import Interaction
from polyrank.models.mmoe import MMoE
from polyrank.models.pepnet import PEPNet
from polyrank.models.ple import PLE
from polyrank.models.ranker import Ranker, build_heads, build_interaction
from polyrank.models.shared_bottom import Separate, SharedBottom
from polyrank.models.stem import STEM
from polyrank.models.trunk import Trunk, check_layers, check_sizes, with_defaults
from polyrank.nn.embed import PackedEmbedder
from polyrank.nn.field_dropout import FieldDropout
from polyrank.nn.held import HeldEmbedder
from polyrank.nn.mlp import Norm
from polyrank.nn.target_attention import TargetPooling
from polyrank.registry import Registry
from polyrank.schema import Schema, Task
from polyrank.stages.first import FirstStages
from polyrank.stages.stage import Stage
from polyrank.stages.trees import Trees
from polyrank.stages.wide import Wide
from polyrank.tasks import ALL

TRUNKS: Registry[type[Trunk]] = Registry(
    "trunk",
    {
        "separate": Separate,
        "shared_bottom": SharedBottom,
        "mmoe": MMoE,
        "ple": PLE,
        "aitm": AITM,
        "cross_stitch": CrossStitch,
        "adatt": AdaTT,
        "home": HoME,
        "pepnet": PEPNet,
        "stem": STEM,
    },
)
INTERACTIONS: Registry[type[Interaction]] = Registry(
    "interaction", {"cross": Cross, "dcnv2": DCNv2, "gdcn": GDCN}
)

STAGES: tuple[type[Stage], ...] = (Wide, Trees)  # each has a key of its own
FIRST_STAGES: Registry[type[Stage]] = Registry("first_stage", {})  # all others
# What the names of other weights begin with.
_WEIGHTS = ("embed", "pooling", "interaction", "trunk", "head", "first")


class BuildsTrunk(Protocol):
    """Anything that builds a trunk; `Trunk` is the base of the registered ones."""

    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> nn.Module:
        """Return a module: (B, layout.width) → {task: (B, H)}."""
        ...


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network to learn, as plain data; equals the `[model]` table.

    Args:
        trunk: how tasks share parameters.
        interaction: how the columns of x meet before the trunk, such as `Cross()`; False for
            not at all.
        tower: columns of each layer of a task's tower; {task: columns} where they differ.
        embed_dim: width of an embedding where the feature does not say; of one of its sets, if the
            trunk has several.
        norm: "none" or "batch", of the layers of trunk and towers.
        dropout: probability of a zero after each activation of trunk and towers.
        field_dropout: probability that a row is learned from without a feature, for each feature.
        wide: wide rows under the network, or False; see docs/wide.md.
        trees: boosted trees under the network, or False.
        stages: further first stages under the network, of plugins; see docs/plugins.md.
        entire_space: supervise every conditional event on all rows, and refuse a schema that
            says otherwise; set by `ESMM`.

    Raises:
        ConfigError: a wrong value, or an interaction or a stage that is not registered.

    Examples:
        >>> Model(trunk=MMoE(experts=4), tower=[16, 8]).tower
        (16, 8)
        >>> Model.from_table(Model().to_table()) == Model()
        True
    """

    trunk: BuildsTrunk = field(default_factory=lambda: SharedBottom(hidden=(128,)))
    interaction: Interaction | Literal[False] = field(default_factory=Cross)
    tower: Sequence[int] | Mapping[str, Sequence[int]] = (64,)
    embed_dim: int = 16
    norm: Norm = "none"
    dropout: float = 0.2
    field_dropout: float = 0.2
    wide: Wide | Literal[False] = field(default_factory=Wide)
    trees: Trees | Literal[False] = False
    stages: Sequence[Stage] = ()
    entire_space: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.tower, Mapping):
            towers = {task: _tower(each) for task, each in self.tower.items()}
            object.__setattr__(self, "tower", towers)
        else:
            object.__setattr__(self, "tower", _tower(self.tower))
        check_sizes("model: embed_dim", self.embed_dim)
        check_layers("model", self.norm, self.dropout)
        spec.number("model: field_dropout", self.field_dropout, least=0, below=1)
        _check_interaction(self.interaction)
        for kind in STAGES:
            given = getattr(self, kind.name)
            if given is not False and not isinstance(given, kind):
                shown = kind.__name__
                raise ConfigError(f"model: {kind.name} must be {shown}(…) or False, got {given!r}")
        object.__setattr__(self, "stages", _checked_stages(self.stages))

    @property
    def first_stages(self) -> tuple[Stage, ...]:
        """The specs of all its first stages."""
        own = (each for kind in STAGES if (each := getattr(self, kind.name)))
        return (*own, *self.stages)

    @property
    def numbers(self) -> bool:
        """Whether a first stage reads the raw numbers of a Table."""
        return any(each.numbers for each in self.first_stages)

    def supervised(self, schema: Schema) -> Schema:
        """Return the schema with every space named: this model's where a task leaves it out.

        Examples:
            >>> from polyrank.schema import SparseFeature
            >>> tasks = [Task("click"), Task("buy", given="click")]
            >>> schema = Schema([SparseFeature("item")], tasks)
            >>> [task.space for task in ESMM().supervised(schema).tasks]
            ['all', 'all']
        """
        default = ALL if self.entire_space else None
        tasks = tuple(task.resolved(default) for task in schema.tasks)
        return schema if tasks == schema.tasks else replace(schema, tasks=tasks)

    def check(self, schema: Schema) -> None:
        """Refuse a schema that contradicts `entire_space`, or the tasks that `tower` names."""
        if isinstance(self.tower, Mapping) and self.tower.keys() != schema.by_name.keys():
            raise ConfigError(
                f"model: tower names the tasks {', '.join(map(repr, self.tower))}, and the schema "
                f"has {', '.join(map(repr, schema.by_name))}: name each of these, or give one list"
            )
        for task in self.supervised(schema).tasks:
            event = task.given and task.label_kind.is_event
            if self.entire_space and task.debias is not None:
                raise ConfigError(
                    f"ESMM supervises every event on all rows, but task {task.name!r} has a "
                    f"debiased loss of its own, {task.debias.name!r}: leave its debias out, or use "
                    "Model(trunk=Separate()) with it"
                )
            if self.entire_space and event and task.spaces != (ALL,):
                raise ConfigError(
                    f"ESMM supervises every event on all rows, but task {task.name!r} has "
                    f"space {task.space!r}: leave its space out, or use "
                    "Model(trunk=Separate()) for the other estimator"
                )

    def layout(self, schema: Schema, vocab: VocabularySizes, held: Held = WHOLE) -> Layout:
        """Return where each feature lies in x, in a process that holds these rows."""
        tables = schema.tables.items()
        sets = self.trunk.sets(schema.tasks) if isinstance(self.trunk, Trunk) else 1
        widths = {table: sets * (owner.width(table) or self.embed_dim) for table, owner in tables}
        reads = {stage.name: stage.reads(schema) for stage in self.first_stages}
        own = schema.own_towers
        apart = {stage.name: stage.reads_of(schema, own) for stage in self.first_stages if own}
        return Layout(schema, vocab, widths, reads, held, sets, apart)

    def build(self, layout: Layout) -> Ranker:
        """Return the network, with weights drawn from torch's generator."""
        tasks = tuple(layout.schema.tasks)
        each = self.tower
        towers = each if isinstance(each, Mapping) else {task.name: each for task in tasks}
        embed = PackedEmbedder(layout) if layout.held.ranks is None else HeldEmbedder(layout)
        own, read = self.interaction, layout.read
        if not read.width:
            raise ConfigError(
                "every feature has a tower of its own, so the trunk has nothing to read: leave "
                "tower out of one of them"
            )
        pooling = None if read is layout else TargetPooling(layout)
        interaction = None if own is False else build_interaction(own, read)
        trunk = with_defaults(self.trunk, self.norm, self.dropout).build(read, tasks)
        head = build_heads(
            trunk, read, towers, layout.own_towers, norm=self.norm, dropout=self.dropout
        )
        dropped = FieldDropout(read, self.field_dropout) if self.field_dropout else None
        first = FirstStages.of(self.first_stages, layout)
        return Ranker(
            layout, embed, trunk, head,
            first=first, pooling=pooling, interaction=interaction, field_dropout=dropped,
        )  # fmt: skip

    def to_table(self) -> dict[str, Any]:
        """Return plain tables; an unregistered trunk is written as its class's name."""
        table = spec.to_table(replace(self, trunk=Separate()))
        table["trunk"] = spec.chosen(TRUNKS, self.trunk)
        found = self.interaction
        table["interaction"] = False if found is False else spec.chosen(INTERACTIONS, found)
        table["stages"] = [spec.chosen(FIRST_STAGES, each) for each in self.stages]
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any], trunk: BuildsTrunk | None = None) -> Model:
        """Read what `to_table` wrote; `trunk` replaces an unregistered one."""
        spec.check_keys(table, [each.name for each in fields(cls)], "model")
        found = table.get("trunk")
        own = found.get("class") if isinstance(found, Mapping) else None
        if own is None and trunk is not None:
            shown = "the default one" if found is None else repr(found)
            raise ConfigError(f"the model's trunk is {shown}: leave trunk out")
        if own is not None and trunk is None:
            raise ConfigError(
                f"the model's trunk is {own!r}, which polyrank does not have: "
                f"load it with trunk={own}(…)"
            )
        axes: dict[str, Any] = {}
        if found is not None:
            axes["trunk"] = trunk or spec.choose(TRUNKS, found, "model.trunk")
        if "interaction" in table:
            axes["interaction"] = _interaction(table["interaction"])
        if "stages" in table:
            axes["stages"] = _stages(table["stages"])
        for kind in STAGES:
            given = table.get(kind.name, False)
            if isinstance(given, Mapping):
                axes[kind.name] = spec.from_table(kind, given, f"model.{kind.name}")
            elif given is not False:
                raise ConfigError(
                    f"model.{kind.name}: expected a table, {{}} for its defaults, or false for "
                    f"none, got {given!r}"
                )
        rest = {key: value for key, value in table.items() if key not in axes}
        return replace(spec.from_table(cls, rest, "model"), **axes)


def _interaction(found: object) -> Interaction | Literal[False]:
    """Read what a file says: a table with a kind, or false."""
    if found is False:
        return False
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"model.interaction: expected a table with a kind, or false for none, got {found!r}"
        )
    return spec.choose(INTERACTIONS, found, "model.interaction")


def _check_interaction(found: object) -> None:
    if found is False:
        return
    if not isinstance(found, Interaction):
        raise ConfigError(
            f"model: interaction must be an Interaction such as Cross(), or False, got {found!r}"
        )
    _check_registered(found, INTERACTIONS)


def _stages(found: object) -> tuple[Stage, ...]:
    """Read what a file says: a list of tables with a kind each."""
    if not isinstance(found, list | tuple):
        raise ConfigError(
            f"model.stages: expected a list of tables with a kind each, got {found!r}"
        )
    for at, each in enumerate(found):
        kind = each.get("kind") if isinstance(each, Mapping) else None
        if kind in [own.name for own in STAGES]:
            raise ConfigError(
                f"model.stages[{at}]: {kind!r} has a key of its own in [model]: {kind} = {{ … }}"
            )
    return tuple(
        spec.choose(FIRST_STAGES, each, f"model.stages[{at}]") for at, each in enumerate(found)
    )


def _checked_stages(found: object) -> tuple[Stage, ...]:
    """Return the stages of plugins, each under a name of its own."""
    if not isinstance(found, list | tuple):
        raise ConfigError(f"model: stages must be a list of first stages, got {found!r}")
    taken = [*_WEIGHTS, *(own.name for own in STAGES)]
    for each in found:
        if not isinstance(each, Stage):
            raise ConfigError(f"model: stages must be a list of first stages, got {each!r} in it")
        kind = type(each).__name__
        if isinstance(each, STAGES):
            raise ConfigError(
                f"model: {kind} is no part of stages: write Model({each.name}={kind}(…))"
            )
        _check_registered(each, FIRST_STAGES)
        if not each.name.isidentifier():
            raise ConfigError(
                f"model: the name of first stage {kind} must be an identifier, since the names of "
                f"its weights begin with it, got {each.name!r}"
            )
        if each.name in taken:
            raise ConfigError(
                f"model: the name {each.name!r} of first stage {kind} is taken (taken: "
                f"{', '.join(map(repr, taken))}): choose another, and give each stage only once"
            )
        taken.append(each.name)
    return tuple(found)


def _check_registered(found: object, registry: Registry[Any]) -> None:
    """Refuse what no file could name: its bundle could not be loaded."""
    if type(found) not in registry.values():
        axis, name = registry.axis, type(found).__name__
        raise ConfigError(
            f"model: {axis.replace('_', ' ')} {name} is not registered, so a bundle could not name "
            f'it: call polyrank.register("{axis}", "{name.lower()}", {name}) first'
        )


def _tower(columns: object) -> tuple[int, ...]:
    if not isinstance(columns, list | tuple):
        raise ConfigError(f"model: tower must be a list of layer widths, got {columns!r}")
    check_sizes("model: tower", tuple(columns))
    return tuple(columns)


def ESMM(  # noqa: N802 (a model's name)
    *,
    tower: Sequence[int] = (16, 8),
    embed_dim: int = 16,
    norm: Norm = "none",
    dropout: float = 0.1,
) -> Model:
    """Return the entire-space multi-task model: separate towers, every task learned on all rows.

    `Task("buy", given="click")` is learned as P(click)·P(buy|click) on all rows. A task whose space
    says otherwise is refused. It is the paper's network, whatever `Model` has by default: without
    first stages, and without an interaction.

    Examples:
        >>> ESMM(tower=[16, 8]).entire_space
        True

    Reference:
        Ma et al., SIGIR 2018, eq. 1-4.
    """
    return Model(
        trunk=Separate(norm=None, dropout=None, activation=None),
        interaction=False,
        tower=tower,
        embed_dim=embed_dim,
        norm=norm,
        dropout=dropout,
        field_dropout=0.0,
        wide=False,
        trees=False,
        stages=(),
        entire_space=True,
    )
