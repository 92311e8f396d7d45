"""The network from rows of vocabularies and raw numbers to the named outputs, in plain torch.

What `Bundle.predict` does in numpy, kernels and torch, one after the other, is one module here, so
that one graph can be captured of it: encodings, look-ups, trunk, heads, calibrators and products.

Letters: B rows, L the longest list of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from polyrank.bundle.model import Bundle
from polyrank.calibration import CalibrationMap
from polyrank.calibration.knots import Knotted
from polyrank.exploration.posterior import deviation
from polyrank.models.outputs import outputs
from polyrank.models.ranker import Ranker
from polyrank.nn.embed import LocalEmbedder
from polyrank.nn.named import Named
from polyrank.registry import resolved
from polyrank.serve.export.features import FeatureGraph, graphs_of


class Twin(nn.Module):
    """A fitted bundle as one module, in evaluation mode.

    It has the weights of the bundle's ranker, without a copy. A row whose logit is not finite has
    NaN in every output of that head and of those below it. The inputs are those of `model.onnx`
    (see `polyrank.serve.inputs`) and what is set at prediction, the outputs the columns of
    `Bundle.predict`, float64 (B,) each; behind them come deviations of the tasks `uncertain`.
    """

    def __init__(self, bundle: Bundle, uncertain: Sequence[str] = ()) -> None:
        super().__init__()
        self.schema = bundle.schema
        self.uncertain = tuple(uncertain)
        first = bundle.ranker.first
        self.variances = first.variance_graph() if first is not None and uncertain else None
        self.embed = LocalEmbedder(bundle.ranker.embed)
        self.ranker: Ranker = bundle.ranker
        self.features = nn.ModuleList(graphs_of(bundle.vocab))
        maps = {task: each.map for task, each in bundle.calibrators.items() if each.map}
        self.calibrator = Named({task: _calibrator(each) for task, each in maps.items()})
        self.mapped = tuple(maps)
        self.likelihoods = bundle.likelihoods
        self.given = given_stages(bundle)
        self.eval()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        count = len(self.schema.logged_inputs)
        by_name = dict(zip(self.schema.logged_inputs, inputs[:count], strict=True))
        given = dict(zip(self.given, inputs[count:], strict=True))
        parts = [features(by_name) for features in self.features]
        fields = [each.fields for each in parts if each.fields is not None]
        columns = [column for each in parts for column in each.columns]
        batch = inputs[0].shape[0]
        ids = torch.cat(fields) if fields else torch.empty(0, batch, dtype=torch.int64)
        dense = torch.cat(columns, dim=1) if columns else torch.empty(batch, 0)
        bags = [bag for each in parts for bag in each.bags]
        x, margin = self.embed(ids, dense, bags), None
        if self.ranker.first is not None:
            margin, reads = self.ranker.first.in_graph(ids, bags, given)
            x = torch.cat([x, reads], dim=1)
        logits = self.ranker(x, margin).logits
        extras = {name: by_name[name] for name in self.schema.extras}
        finite = {}
        for task in self.schema.by_name:
            z = logits[task].double()
            finite[task] = torch.where(z.abs() < torch.inf, z, torch.nan)
        maps = {task: self.calibrator[task] for task in self.mapped}
        found = tuple(outputs(self.schema, finite, self.likelihoods, extras, maps).values())
        if self.variances is None:
            return found
        variances = self.variances(ids, bags)
        return *found, *(deviation(variances[task]) for task in self.uncertain)


def given_stages(bundle: Bundle) -> tuple[str, ...]:
    """Return the first stages whose margins `Twin` takes, after the inputs of the schema."""
    first = bundle.ranker.first
    stages = () if first is None else first.stage.items()
    return tuple(name for name, each in stages if each.graph)


def example(bundle: Bundle, rows: int, length: int) -> list[Tensor]:
    """Return inputs to trace `Twin` with."""
    schema, vocab, first = bundle.schema, bundle.vocab, bundle.ranker.first
    generator = torch.Generator().manual_seed(0)
    graphs = {
        column: graph
        for graph in graphs_of(vocab)
        for codec in graph.codecs.values()
        for column in codec.feature.columns
    }
    number = FeatureGraph({})  # for a column that a kind of label reads
    found = [
        graphs.get(name, number).example(name, rows, length, generator)
        for name in schema.logged_inputs
    ]
    for name in given_stages(bundle):
        assert first is not None
        found.append(torch.randn(rows, len(first.stage[name].heads), generator=generator))
    return found


class Applied(nn.Module):
    """A map whose `apply` takes tensors."""

    def __init__(self, found: CalibrationMap) -> None:
        super().__init__()
        self.map = found

    def forward(self, z: Tensor) -> Tensor:
        return self.map.apply(z)


class Knots(nn.Module):
    """`Knotted.apply`: linear between knots, a slope of its own above the last, 1 below."""

    x: Tensor
    y: Tensor
    slope: Tensor

    def __init__(self, found: Knotted) -> None:
        super().__init__()
        self.low, self.high = found.x[0], found.x[-1]
        self.above = found.slope_above
        x, y = np.array(found.x), np.array(found.y)
        slope = np.append(np.diff(y) / np.diff(x), 0.0)  # none behind the last knot
        for name, each in (("x", x), ("y", y), ("slope", slope)):
            self.register_buffer(name, torch.from_numpy(each))

    def forward(self, z: Tensor) -> Tensor:
        inside = z.clamp(self.low, self.high)
        at = (inside >= self.x[:, None]).float().sum(0).long() - 1  # as bins are counted
        at = at.clamp(min=0)  # where z is NaN
        return (
            self.y[at]
            + (inside - self.x[at]) * self.slope[at]
            + torch.where(z > inside, self.above * (z - inside), z - inside)
        )


def _calibrator(found: CalibrationMap) -> nn.Module:
    return Applied(found) if found.graph is None else resolved(found.graph)(found)
