"""The half of the plugin that computes with tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi, tau
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding

import polyrank as pr
from polyrank.data.folds import folds
from polyrank.data.statistics import term_labels
from polyrank.serve.export.features import FeatureGraph, Parts
from polyrank.stages.stage import StageLearner, StageModule
from polyrank.terms import Summand, own_population


@dataclass(frozen=True, kw_only=True)
class Projection(pr.Trunk):
    """One linear layer for all tasks."""

    columns: int = 16

    def build(self, layout, tasks):
        return ProjectionTrunk(layout.width, self.columns, [task.name for task in tasks])


class ProjectionTrunk(pr.TrunkModule):
    def __init__(self, width, columns, tasks):
        super().__init__()
        self.linear, self.tasks = nn.Linear(width, columns), tasks

    def forward(self, x):
        return dict.fromkeys(self.tasks, self.linear(x))

    def shared_parameters(self):
        return list(self.linear.parameters())


@dataclass(frozen=True, kw_only=True)
class Gate(pr.Interaction):
    """Each column of x, weighted by what all columns say, up to `most`."""

    most: float = 2.0

    def build(self, layout):
        return GateModule(layout.width, self.most)


class GateModule(nn.Module):
    def __init__(self, width, most):
        super().__init__()
        self.linear, self.most = nn.Linear(width, width), most

    def forward(self, x):
        return self.most * self.linear(x).sigmoid() * x


@dataclass(frozen=True, kw_only=True)
class Popularity(pr.Stage):
    """Of each event, its smoothed log-odds among the rows of one id."""

    name: ClassVar[str] = "popularity"

    column: str
    prior: float = 10.0
    folds: int = 4

    def reads(self, schema):
        if self.column not in [slot.name for slot in schema.fields]:
            raise pr.ConfigError(f"popularity: {self.column!r} is no feature of ids")
        return len(events(schema))

    def build(self, layout):
        return PopularityModule(self, layout)


def events(schema):
    return [task for task in schema.tasks if task.label_kind.is_event]


class PopularityModule(StageModule):
    def __init__(self, spec, layout):
        super().__init__()
        schema, self.spec = layout.schema, spec
        self.heads = tuple(task.name for task in events(schema))
        self.at = [slot.name for slot in schema.fields].index(spec.column)
        self.first_row = int(layout.offsets[self.at])
        rows = layout.vocab.rows[schema.fields[self.at].table]
        self.register_buffer("odds", torch.zeros(rows, len(self.heads)))

    def forward(self, ids, bags, given):
        margin = embedding(ids[self.at] - self.first_row, self.odds)
        return margin, margin

    def in_graph(self, ids, sequences, given):
        margin = embedding(ids[self.at], self.odds)
        return margin, margin

    def learner(self, run):
        return PopularityLearner(self, run)

    def named_weights(self):
        return {"odds": self.odds}


class PopularityLearner(StageLearner):
    def __init__(self, module, run):
        self.module, self.run = module, run
        self.margins = None

    def start(self):
        module, table = self.module, self.run.train
        spec, ids = module.spec, table.ids[module.at]
        fold = folds(np.arange(len(table)), spec.folds, self.run.seed)
        weight = np.ones(len(table)) if table.weight is None else table.weight
        self.margins = torch.empty(len(table), len(module.heads))
        for at, task in enumerate(events(table.schema)):
            label = term_labels(table, own_population(table.schema, task))
            yes, no = np.zeros((2, spec.folds, len(module.odds)))  # of each fold and id
            for count, value in ((yes, 1), (no, 0)):
                own = label == value
                np.add.at(count, (fold[own], ids[own]), weight[own])
            rate = self.run.rates[task.name]

            def odds(yes, no, rate=rate):
                up = np.log(yes + spec.prior * rate) - np.log(no + spec.prior * (1 - rate))
                return torch.from_numpy(up.astype(np.float32))

            module.odds[:, at] = odds(yes.sum(0), no.sum(0))
            self.margins[:, at] = odds(yes.sum(0) - yes, no.sum(0) - no)[fold, ids]

    def alone(self, valid):
        return self.module.odds[torch.from_numpy(valid.ids[self.module.at])]

    def step(self, batch, x, column):
        margin = self.margins[batch.rows].to(x.device)
        x[:, column : column + margin.shape[1]] = margin
        return margin

    def end_epoch(self):
        pass

    def state(self):
        return {"margins": self.margins}

    def load(self, state):
        self.margins = state["margins"]


@dataclass(frozen=True, kw_only=True)
class Largest(pr.Balance):
    """The largest of the weighted losses, and a tenth of the others."""

    def build(self, terms):
        return LargestModule()


class LargestModule(pr.ScalarBalance):
    def total(self, losses):
        stacked = torch.stack(list(losses.values()))
        return 0.9 * stacked.max() + 0.1 * stacked.sum()


@dataclass(frozen=True, kw_only=True)
class Momentum(pr.RowOptimizer):
    """v ← keep · v + g; w ← w − lr · v, of the rows of a batch."""

    keep: float = 0.9
    state_columns = {"velocity": None}  # noqa: RUF012 (read only)

    def numbers(self, lr, steps):
        return lr, self.keep

    def step(self, weight, gradient, state, numbers):
        (velocity,), (lr, keep) = state, numbers
        velocity.mul_(keep).add_(gradient)
        weight.sub_(velocity, alpha=lr)


@dataclass(frozen=True, kw_only=True)
class Inverse(pr.Schedule):
    """1 ÷ √(1 + steps ÷ after)."""

    after: float = 100.0

    def factor(self, step, steps, improved=()):
        return (1 + step / self.after) ** -0.5


class CyclicGraph(FeatureGraph):
    def forward(self, inputs):
        found = []
        for name, codec in self.codecs.items():
            angle = inputs[name] * (2 * pi / codec.feature.period)
            columns = torch.stack([angle.sin(), angle.cos()], dim=1)
            found.append(torch.where(columns.isnan(), 0.0, columns))
        return Parts(columns=found)


class WatchedLikelihood(pr.Likelihood):
    """−log N(y; μ, σ) in units of the length: μ = share + unit · z₀, σ = unit · softplus(z₁)."""

    def _parameters(self, z):
        sd = torch.nn.functional.softplus(z[:, 1]) + 1e-3
        return self.fitted["share"] + self.fitted["unit"] * z[:, 0], self.fitted["unit"] * sd

    def _length(self, extras):
        return extras[self.kind.length].nan_to_num(1.0)

    def summands(self, term, scores, labels):
        task = term.population.task
        label = labels.value[task]
        rows = labels.within(term.population, ~label.isnan())
        share = torch.where(rows, label / self._length(labels.extras), 0.0)
        mean, sd = self._parameters(scores.logits[task])
        return (Summand(rows, 0.5, ((share - mean) / sd).square() + 2 * sd.log() + log(tau)),)

    def predict(self, logits, extras):
        length = self._length(extras).double()
        mean, sd = self._parameters(logits)
        return length * mean, length * sd

    def constant_loss(self, term, statistics):
        return 0.5 * (1 + log(tau)) + log(self.fitted["unit"])
