"""The network: embedder → (target attention) → (interaction) → trunk → heads, above first stages.

Letters: B rows, W columns of x, H columns of a task's representation, T outputs with a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import ismethod
from math import log
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polyrank.data.table import Table
from polyrank.errors import BundleError, ConfigError
from polyrank.layout import Layout
from polyrank.models.interaction import Interaction
from polyrank.models.trunk import Mixing, TrunkModule
from polyrank.nn.embed import PackedEmbedder, TensorBag
from polyrank.nn.field_dropout import FieldDropout
from polyrank.nn.mlp import MLP, first_layers
from polyrank.nn.named import Named
from polyrank.nn.target_attention import TargetPooling
from polyrank.stages.first import FirstStages
from polyrank.terms import Head as HeadSpec

REDRAWS = 100


class Inputs(NamedTuple):
    """What the network takes: no part of it has a history."""

    x: Tensor  # (B, W)
    margin: Tensor | None  # of the first stages: (B, T)


@dataclass(frozen=True)
class Scores:
    """The output of a ranker for a batch."""

    # {head: (B,) or (B, outputs)}; a task's head is the task given its parent.
    logits: Mapping[str, Tensor]
    penalties: Mapping[str, Tensor]  # named scalars of the trunk


class OwnTower(nn.Module):
    """What one feature adds to a head by itself, whatever the others are.

    Without biases, it begins near 0: embeddings begin there. (With an output of 0, they would get
    no gradient, and the output hardly any.) Its layers are Swish, of which no unit dies.

    Shape:
        its columns of x (B, C) → (B, outputs)

    Reference:
        Guo et al., RecSys 2019, "PAL", eq. 4: there log P(seen | position) is added to the log of
        the probability, which for rare events is nearly the logit.
    """

    def __init__(self, tower: MLP, outputs: int) -> None:
        super().__init__()
        self.tower = tower
        self.output = nn.Linear(tower.width, outputs, bias=False)  # the head has one
        for layer in tower.linear:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.tower(x))


class Head(nn.Module):
    """A task's tower and its last linear layer: (B, H) → (B,) for one output, else (B, outputs).

    What the towers of single features say of `own`, their columns by name, is added.
    """

    def __init__(
        self, tower: MLP, outputs: int, own: Mapping[str, OwnTower] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.tower = tower
        self.output = nn.Linear(tower.width, outputs)
        self.own: Named[OwnTower] = Named(own)

    def forward(
        self, x: Tensor, first: Tensor | None = None,
        own: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:  # fmt: skip
        logits = self.output(self.tower(x, first))
        for name, each in self.own.items():
            logits = logits + each(own[name])
        return logits.squeeze(1) if logits.shape[1] == 1 else logits


class Ranker(nn.Module):
    """The network of one layout, above its first stages.

    `inputs` gives x, (B, W), and the margins of the first stages, (B, T), that `forward` takes. Of
    the optional parts, `pooling` comes first, (B, W) → (B, R), which makes one vector of each list
    that is attended to; then `field_dropout` and `interaction`, both (B, R) → (B, R). Trunk and
    heads never see x without them.
    """

    def __init__(
        self,
        layout: Layout,
        embed: PackedEmbedder,
        trunk: nn.Module,
        head: Mapping[str, Head],
        *,
        first: FirstStages | None = None,
        pooling: TargetPooling | None = None,
        interaction: nn.Module | None = None,
        field_dropout: FieldDropout | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(trunk, TrunkModule):
            for name in ("penalties", "shared_parameters", "mixing"):
                if ismethod(getattr(trunk, name, None)):
                    raise ConfigError(
                        f"trunk {type(trunk).__name__} has {name} but is no TrunkModule, so they "
                        "would be ignored: derive it from polyrank.TrunkModule"
                    )
        self.layout = layout
        self.embed = embed
        self.field_dropout = field_dropout
        self.pooling = pooling
        self.interaction = interaction
        self.trunk = trunk
        self.head: Named[Head] = Named(head)
        self.first = first
        self._own_columns = layout.own_towers

    def told(self, table: Table) -> Table:
        """Return a table with what first stages say of it as a whole: `inputs` needs it."""
        return table if self.first is None else self.first.told(table)

    def inputs(
        self,
        ids: Tensor,
        dense: Tensor,
        bags: tuple[TensorBag, ...],
        given: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Inputs:
        """Return what `forward` takes of rows of the packs, as they are served."""
        x = self.embed(ids, dense, bags)
        if self.first is None:
            return Inputs(x, None)
        margin, reads = self.first(ids, bags, given)
        return Inputs(torch.cat([x, reads], dim=1), margin)

    def forward(self, x: Tensor, margin: Tensor | None = None) -> Scores:
        hidden = self.hidden(x)
        first, own = first_layers(self._towers(), hidden), self._own(x)
        logits = {name: self.head[name](hidden[name], first.get(name), own) for name in self.head}
        if self.first is not None:
            assert margin is not None
            logits = self.first.above(margin, logits, whole=self.training)
        penalties = self.trunk.penalties(logits) if isinstance(self.trunk, TrunkModule) else {}
        return Scores(logits, penalties)

    def hidden(self, x: Tensor) -> dict[str, Tensor]:
        """Return the representation that each head reads: {head: (B, H)}."""
        of_task = self.trunk(self._read(x))
        return {head.name: of_task[head.task] for head in self.layout.schema.heads}

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that several tasks share; those before the trunk all of them."""
        before = [each for part in self._before.values() for each in part.parameters()]
        trunk = self.trunk.shared_parameters() if isinstance(self.trunk, TrunkModule) else []
        return [*before, *trunk]

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        return self.trunk.mixing(self._read(x)) if isinstance(self.trunk, TrunkModule) else ()

    def held_rows(self) -> dict[str, int]:
        """Return the weights of which there is a row an id, as in `state_dict`: rows of each."""
        packs = {f"embed.pack.{i}": pack.rows for i, pack in enumerate(self.layout.packs)}
        if self.first is None:
            return packs
        return packs | {
            f"first.stage.{name}.{key}": rows
            for name, each in self.first.stage.items()
            for key, rows in each.held_rows().items()
        }

    def make_whole(self, layout: Layout, gathered: Callable[[Tensor, int], Tensor]) -> None:
        """Hold all rows that processes held between them, in a layout that does.

        `gathered` takes the rows of a matrix that are held here, and how many all have.
        """
        packs = [
            gathered(weight.detach(), pack.rows)
            for weight, pack in zip(self.embed.pack, layout.packs, strict=True)
        ]
        self.layout, self.embed = layout, PackedEmbedder(layout, packs)
        if self.first is not None:
            for name in self.first.stage:
                self.first.stage[name].make_whole(layout, gathered)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules behind the cut at x that hold weights, by the names of these."""
        heads = {f"head.{name}": head for name, head in self.head.items()}
        return {**self._before, "trunk": self.trunk, **heads}

    @property
    def _before(self) -> dict[str, nn.Module]:
        """The modules with weights between the cut at x and the trunk."""
        each = {"pooling": self.pooling, "interaction": self.interaction}
        return {name: part for name, part in each.items() if part is not None}

    @property
    def kinds(self) -> str:
        """What trunk and interaction are called in a message."""
        before = (
            "" if self.interaction is None else f"interaction {type(self.interaction).__name__}, "
        )
        return f"{before}trunk {type(self.trunk).__name__}"

    def dense_parameters(self) -> list[nn.Parameter]:
        """Return the parameters behind the cut at x."""
        return [each for part in self.parts.values() for each in part.parameters()]

    @torch.no_grad()
    def start_at(self, rates: Mapping[str, float]) -> None:
        """Start where heads need not learn what is known.

        An output with a margin starts at 0, since the margin has its base rate and more; any other
        head that is named at the log-odds of its rate.
        """
        margins = () if self.first is None else self.first.heads
        for name, head in self.head.items():
            if name in margins:
                assert self.first is not None
                for output, column in enumerate(self.first.columns[name]):
                    if column >= 0:
                        head.output.weight[output] = 0
                        head.output.bias[output] = 0
            elif name in rates:
                head.output.bias.fill_(log(rates[name] / (1 - rates[name])))

    @torch.no_grad()
    def redraw_dead(self, x: Tensor) -> dict[str, bool]:
        """Draw dead towers again, up to `REDRAWS` times; return whether each is alive now.

        About one narrow tower in a hundred models is dead at first, and would stay constant.
        """
        self.eval()
        hidden, found = self.hidden(x), {}
        for name, tower in self._towers().items():
            tries = 0
            while tower.is_dead(hidden[name]) and tries < REDRAWS:
                tower.redraw()
                tries += 1
            if tries:
                found[name] = not tower.is_dead(hidden[name])
        return found

    def _read(self, x: Tensor) -> Tensor:
        """Return what the trunk reads: (B, W) → (B, R)."""
        if self.pooling is not None:
            x = self.pooling(x)
        if self.field_dropout is not None:
            x = self.field_dropout(x)
        return x if self.interaction is None else self.interaction(x)

    def _own(self, x: Tensor) -> dict[str, Tensor]:
        """Return the columns of each feature that has a tower of its own."""
        return {
            name: torch.cat([x[:, each] for each in columns], dim=1)
            for name, columns in self._own_columns.items()
        }

    def _towers(self) -> dict[str, MLP]:
        return {name: head.tower for name, head in self.head.items()}

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by their lasting names.

        `embed.TABLE`, `pooling.…`, `interaction.…`, `trunk.…`, `head.TASK.…`, and of first stages
        `wide.…`.
        """
        tables = {f"embed.{name}": weight for name, weight in self.embed.tables().items()}
        rest = {
            name: weight.detach()
            for name, weight in self.state_dict().items()
            if not name.startswith(("embed.", "first."))
        }
        return tables | rest | ({} if self.first is None else self.first.named_weights())

    @property
    def stages(self) -> tuple[str, ...]:
        """The first parts of the names of weights of first stages."""
        return () if self.first is None else ("first", *self.first.stage)

    @torch.no_grad()
    def start_stages_from(
        self, before: Mapping[str, Tensor], restarted: Collection[str], retained: float
    ) -> None:
        """Continue first stages from the named weights of an earlier ranker: see `StageModule`."""
        if self.first is None:
            return
        self.first.share.copy_(before["first.share"])
        if "first.added" in before:
            self.first.added.copy_(before["first.added"])
        for name, each in self.first.stage.items():
            own = {
                key.removeprefix(f"{name}."): weight
                for key, weight in before.items()
                if key.startswith(f"{name}.")
            }
            each.start_from(own, restarted, retained)

    def load_named_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights by name; BundleError for one missing, unknown or of another shape."""
        own = self.named_weights()
        missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
        if missing or unknown:
            raise BundleError(
                f"the weights do not fit the model: missing {sorted(missing)}, "
                f"unknown {sorted(unknown)}"
            )
        for name, mine in own.items():
            if mine.shape != weights[name].shape:
                raise BundleError(
                    f"weight {name!r} has shape {tuple(weights[name].shape)}, and the model "
                    f"expects {tuple(mine.shape)}"
                )
            mine.copy_(weights[name])


def build_heads(
    trunk: nn.Module, layout: Layout, towers: Mapping[str, Sequence[int]],
    own: Mapping[str, Sequence[slice]] = MappingProxyType({}), **layers: Any,
) -> dict[str, Head]:  # fmt: skip
    """Return the modules of the schema's heads, as wide as what the trunk gives them.

    `own` has the columns of each feature with a tower of its own.
    """
    hidden = _outputs(trunk, layout)

    def width(head: HeadSpec) -> int:
        found = hidden.get(head.task) if isinstance(hidden, Mapping) else None
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
            shown: object = type(hidden).__name__
            if isinstance(hidden, Mapping):
                shown = {name: tuple(getattr(x, "shape", ())) for name, x in hidden.items()}
            raise ConfigError(
                f"trunk {type(trunk).__name__} must return a tensor (B, H) for task "
                f"{head.task!r}, got {shown}"
            )
        return found.shape[1]

    def alone(head: HeadSpec, name: str, columns: Sequence[slice]) -> OwnTower:
        inputs = sum(each.stop - each.start for each in columns)
        return OwnTower(
            MLP(inputs, layout.schema.own_towers[name], activation="swish"), head.outputs
        )

    return {
        head.name: Head(
            MLP(width(head), towers[head.task], **layers),
            head.outputs,
            {name: alone(head, name, columns) for name, columns in own.items()},
        )
        for head in layout.schema.heads
    }


def build_interaction(interaction: Interaction, layout: Layout) -> nn.Module:
    """Return the module of an interaction; ConfigError if it does not keep the width of x."""
    module = interaction.build(layout)
    found = _tried(module, layout)
    if not isinstance(found, Tensor) or found.shape != (2, layout.width):
        shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"interaction {type(module).__name__} must return a tensor of the shape that it gets, "
            f"{(2, layout.width)}, got {shown}: trunks read a feature by its place in x"
        )
    return module


def _outputs(trunk: nn.Module, layout: Layout) -> Mapping[str, Tensor]:
    """Return what a trunk gives, which need not declare its widths."""
    hidden = _tried(trunk, layout)
    if isinstance(trunk, TrunkModule):
        _tried(trunk, layout, trunk.mixing)  # refused now, not after an epoch
    return hidden


def _tried(module: nn.Module, layout: Layout, call: Callable[[Tensor], Any] | None = None) -> Any:
    """Return what a module, or a method of it, gives for two rows of zeros."""
    training = module.training
    module.eval()
    with torch.no_grad():
        found = (call or module)(torch.zeros(2, layout.width))
    module.train(training)
    return found
