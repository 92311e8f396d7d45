"""The first stages of a model together: their margins of heads, and all that the network reads.

Letters: B rows, H heads with a margin, T outputs of theirs that have one, C columns that the
network reads, W columns of x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polyrank.data.table import Batch, Table
from polyrank.layout import Layout
from polyrank.nn.embed import Padded, TensorBag
from polyrank.nn.named import Named
from polyrank.stages.stage import Stage, StageLearner, StageModule, StageRun

# The margins of some first stages and what each gives to be read.
Given = Sequence[tuple[Tensor, Tensor]]


class FirstStages(nn.Module):
    """Fitted first stages; of each head, the margin of one is added and the others are read."""

    added: Tensor  # (stages, H): 1 where a stage's margins are added to a head
    share: Tensor  # (H,): of the network's answer that is added to margins when serving

    def __init__(self, stage: Mapping[str, StageModule], sizes: Mapping[str, int]) -> None:
        """Put stages together, for tasks whose heads have so many outputs."""
        super().__init__()
        self.stage: Named[StageModule] = Named(stage)
        self.heads = tuple(
            task for task in sizes if any(task in each.heads for each in stage.values())
        )
        self.sizes = {head: sizes[head] for head in self.heads}
        having = {output for each in stage.values() for output in each.outputs}
        self.outputs = tuple(
            (head, output)
            for head, size in self.sizes.items()
            for output in range(size)
            if (head, output) in having
        )
        self.places = {
            name: [self.outputs.index(output) for output in each.outputs]
            for name, each in stage.items()
        }
        # Which column of the margins each output of a head has; −1 where it has none.
        self.columns = {
            head: [
                self.outputs.index((head, output)) if (head, output) in having else -1
                for output in range(size)
            ]
            for head, size in self.sizes.items()
        }
        added = torch.zeros(len(stage), len(self.heads))
        for row, each in zip(added, stage.values(), strict=True):
            row[[self.heads.index(head) for head in each.heads]] = 1
        first = added.cumsum(0) == 1  # until told otherwise, the first stage that has the head
        self.register_buffer("added", added * first)
        self.register_buffer("share", torch.ones(len(self.heads)))

    @classmethod
    def of(cls, stages: Sequence[Stage], layout: Layout) -> FirstStages | None:
        """Build the stages of a layout; None where nothing is added and nothing read."""
        built = {each.name: each.build(layout) for each in stages}
        found = cls(built, {task.name: task.label_kind.outputs for task in layout.schema.tasks})
        return found if found.heads or any(layout.reads.values()) else None

    def forward(
        self, ids: Tensor, bags: tuple[TensorBag, ...], given: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return margins and reads of rows of the packs: (B, T), (B, C)."""
        return self.combined(
            [each(ids, bags, given.get(name)) for name, each in self.stage.items()]
        )

    def in_graph(
        self, ids: Tensor, sequences: Sequence[Padded], given: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the same as an exported graph has it: for local ids, and lists in matrices."""
        return self.combined(
            [each.in_graph(ids, sequences, given.get(name)) for name, each in self.stage.items()]
        )

    def told(self, table: Table) -> Table:
        """Return a table with what stages say of it as a whole."""
        said = {name: each.says(table) for name, each in self.stage.items()}
        return replace(table, given={name: m for name, m in said.items() if m is not None})

    def combined(self, given: Given) -> tuple[Tensor, Tensor]:
        reads = [read for _, read in given]
        return self.margin([each for each, _ in given]), torch.cat(reads, dim=1)

    def margin(self, margins: Sequence[Tensor]) -> Tensor:
        """Return the margins that are added, of those of each stage: (B, T)."""
        places, count = list(self.places.values()), len(self.outputs)
        if len(margins) == 1 and len(places[0]) == count:
            return margins[0]
        none = margins[0].new_zeros(margins[0].shape[0], 1)
        heads = [self.heads.index(head) for head, _ in self.outputs]
        of_stages = []
        for added, own, each in zip(self.added, places, margins, strict=True):
            columns = [own.index(at) if at in own else len(own) for at in range(count)]
            of_stages.append(added[heads] * torch.cat([each, none], dim=1)[:, columns])
        return torch.stack(of_stages).sum(0)

    def by_head(self, margin: Tensor) -> dict[str, Tensor]:
        """Return margins (B, T) by head, as logits are: (B,), or (B, outputs) of several outputs.

        An output without a margin has NaN.
        """
        found, none = {}, margin.new_full((len(margin),), torch.nan)
        for head, columns in self.columns.items():
            each = [none if at < 0 else margin[:, at] for at in columns]
            found[head] = torch.stack(each, dim=1).squeeze(1)
        return found

    def above(
        self, margin: Tensor, answers: Mapping[str, Tensor], *, whole: bool
    ) -> dict[str, Tensor]:
        """Return the logits: of each head its margins and its share of the network's answer.

        Args:
            margin: of the heads' outputs.
            answers: of the network, by head. Those of outputs without a margin are logits.
            whole: whether all of the answer is added, as in training.

        Shape:
            margin (B, T), answers (B,) or (B, outputs) each
        """
        found = dict(answers)
        for at, (head, columns) in enumerate(self.columns.items()):
            share, own = 1.0 if whole else self.share[at], answers[head]
            if len(columns) == 1:
                found[head] = margin[:, columns[0]] + share * own
            elif min(columns) >= 0:
                found[head] = margin[:, columns[0] : columns[-1] + 1] + share * own
            else:
                parts = zip(columns, own.unbind(1), strict=True)
                each = [z if c < 0 else margin[:, c] + share * z for c, z in parts]
                found[head] = torch.stack(each, dim=1)
        return found

    def adding(self, head: str) -> str:
        """Return the name of the stage whose margin is added to a head."""
        return list(self.places)[int(self.added[:, self.heads.index(head)].argmax())]

    def precision_at(self, head: str) -> tuple[str, int]:
        """Return the stage that is added to a head, and the head's column in its precisions.

        Those of a slot are the named weights `STAGE.precision.SLOT` and `STAGE.prior.SLOT`.
        """
        name = self.adding(head)
        return name, self.stage[name].outputs.index((head, 0))

    def variance(self, ids: Tensor, bags: tuple[TensorBag, ...]) -> dict[str, Tensor]:
        """Return the variance of added margins of heads with one output: {head: float64 (B,)}."""
        found = {}
        for name, each in self.stage.items():
            if each.no_variance is None:
                variance = each.variance(ids, bags)
                found |= {head: variance[:, at] for at, head in self.single(name)}
        return found

    def single(self, name: str) -> list[tuple[int, str]]:
        """Return which columns of a stage are added to heads with one output, and these heads."""
        return [
            (at, head)
            for at, (head, _) in enumerate(self.stage[name].outputs)
            if self.sizes[head] == 1 and self.adding(head) == name
        ]

    def variance_graph(self) -> Variances:
        """Return what computes `variance` in an exported graph."""
        return Variances(self)

    def to_table(self) -> dict[str, Any]:
        """Return what a manifest keeps of each stage that has something to keep."""
        tables = {name: each.to_table() for name, each in self.stage.items()}
        return {name: table for name, table in tables.items() if table}

    def to_files(self) -> dict[str, str]:
        """Return the texts of the stages."""
        return {k: text for _, each in self.stage.items() for k, text in each.to_files().items()}

    def load_files(self, tables: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Restore what `to_table` and `to_files` returned."""
        for name, table in tables.items():
            self.stage[name].load_files(table, files)

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights of the stages, each under its name, and what is added of each."""
        found = {"first.share": self.share} | {
            f"{name}.{key}": weight
            for name, each in self.stage.items()
            for key, weight in each.named_weights().items()
        }
        return found if len(self.places) == 1 else found | {"first.added": self.added}


class Variances(nn.Module):
    """The variance of added margins in an exported graph: of local ids, {head: float64 (B,)}."""

    def __init__(self, first: FirstStages) -> None:
        super().__init__()
        some = {name: each for name, each in first.stage.items() if each.no_variance is None}
        self.stage: Named[nn.Module] = Named(
            {name: each.variance_graph() for name, each in some.items()}
        )
        self.columns = {name: first.single(name) for name in some}

    def forward(self, ids: Tensor, sequences: Sequence[Padded]) -> dict[str, Tensor]:
        found = {}
        for name, each in self.stage.items():
            variance = each(ids, sequences)
            found |= {head: variance[:, at] for at, head in self.columns[name]}
        return found


@dataclass(frozen=True, eq=False)
class FirstStagesLearner:
    """What fits the first stages along a run."""

    stages: FirstStages
    learners: Mapping[str, StageLearner]
    columns: Mapping[str, int]  # of x, from which on each one's reads are written

    @classmethod
    def of(cls, stages: FirstStages, layout: Layout, run: StageRun) -> FirstStagesLearner:
        learners = {name: each.learner(run) for name, each in stages.stage.items()}
        return cls(stages, learners, {name: layout.slices[f"#{name}"].start for name in learners})

    def start(self) -> None:
        """Fit what is fitted before the first step of a run."""
        for each in self.learners.values():
            each.start()

    def choose(self, losses: Mapping[str, Mapping[str, float]]) -> None:
        """Add to each head the margin of the stage with the least loss: {stage: {head: loss}}.

        Of a head that no validation row speaks of, it stays the first stage's.
        """
        names = list(self.learners)
        for at, head in enumerate(self.stages.heads):
            known = {name: each[head] for name, each in losses.items() if head in each}
            if known:
                self.stages.added[:, at] = 0
                self.stages.added[names.index(min(known, key=lambda name: known[name])), at] = 1

    def step(self, batch: Batch, x: Tensor) -> Tensor:
        """Return the margins of a training batch, (B, T), write its reads into x, and learn."""
        return self.stages.margin(
            [each.step(batch, x, self.columns[name]) for name, each in self.learners.items()]
        )

    def end_epoch(self) -> None:
        for each in self.learners.values():
            each.end_epoch()

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor
            for name, each in self.learners.items()
            for key, tensor in each.state().items()
        }

    def held_rows(self) -> dict[str, int]:
        """Return what of the state has a row an id: how many rows of each tensor all have."""
        return {
            f"{name}.{key}": rows
            for name, each in self.learners.items()
            for key, rows in each.held_rows().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, each in self.learners.items():
            prefix = f"{name}."
            each.load({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})
