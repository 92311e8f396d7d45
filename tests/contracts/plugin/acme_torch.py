"""The half of the plugin that computes with tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi, tau

import torch
from torch import nn

import polyrank as pr
from polyrank.serve.export.features import FeatureGraph, Parts
from polyrank.terms import Summand


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
