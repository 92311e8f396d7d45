"""The network from rows of vocabularies and raw numbers to the named outputs, in plain torch.

What `Bundle.predict` does in numpy, kernels and torch, one after the other, is one module here, so
that one graph can be captured of it: encodings, look-ups, trunk, heads, calibrators and products.

Letters: B rows, L the longest list of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from polyrank.bundle.model import Bundle
from polyrank.calibration import CalibrationMap, Isotonic
from polyrank.data.dense import DenseEncoding
from polyrank.features import DenseFeature, SequenceFeature, SparseFeature
from polyrank.models.outputs import outputs
from polyrank.models.ranker import Ranker
from polyrank.nn.embed import LocalEmbedder
from polyrank.nn.named import Named
from polyrank.registry import resolved
from polyrank.schema import Schema

_FEW_EDGES = 64


class Twin(nn.Module):
    """A fitted bundle as one module, in evaluation mode.

    It has the weights of the bundle's ranker, without a copy. A row whose logit is not finite has
    NaN in every output of that head and of those below it.

    Args:
        bundle: what is captured.

    Shape:
        - inputs: one tensor a feature, in the schema's order: int64 (B,) of a sparse feature, int64
          (B, L) of a sequence, −1 where there is no id, float32 (B,) of a dense one, NaN = missing
        - output: float64 (B,) each, in the order of the columns of `Bundle.predict`
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.schema = bundle.schema
        ranker: Ranker = bundle.ranker
        self.embed = LocalEmbedder(ranker.embed)
        self.ranker = ranker
        encodings = bundle.vocab.dense
        binned = [
            encodings[each.name] for each in self.schema.id_features if each.name in encodings
        ]
        self.bins = Bins(binned) if binned else None
        self.columns = nn.ModuleList(
            _columns(encodings[each.name]) for each in self.schema.dense_features
        )
        self.calibrator = Named(
            {task: _calibrator(each.map) for task, each in bundle.calibrators.items()}
        )
        self.calibrated = frozenset(bundle.calibrators)
        self.likelihoods = bundle.likelihoods
        self.eval()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs."""
        by_name = dict(zip((each.name for each in self.schema.features), inputs, strict=False))
        dense = [
            columns(by_name[each.name])
            for each, columns in zip(self.schema.dense_features, self.columns, strict=True)
        ]
        x = self.embed(
            self._ids(by_name),
            torch.cat(dense, dim=1) if dense else torch.empty(inputs[0].shape[0], 0),
            [by_name[each.name] for each in self.schema.sequence_features],
        )
        logits = self.ranker(x).logits
        extras = dict(zip(self.schema.extras, inputs[len(self.schema.features) :], strict=True))
        calibrated = {}
        for task in self.schema.by_name:
            z = logits[task].double()
            z = torch.where(z.abs() < torch.inf, z, torch.nan)
            calibrated[task] = self.calibrator[task](z) if task in self.calibrated else z
        return tuple(outputs(self.schema, calibrated, self.likelihoods, extras).values())

    def _ids(self, by_name: Mapping[str, Tensor]) -> Tensor:
        """The rows of tables, a row a field: those of sparse features, then those of bins."""
        sparse = [each.name for each in self.schema.id_features if isinstance(each, SparseFeature)]
        binned = [each.name for each in self.schema.id_features if isinstance(each, DenseFeature)]
        parts = [_side_by_side(by_name, sparse)] if sparse else []
        if self.bins is not None:
            parts.append(self.bins(_side_by_side(by_name, binned)))
        return torch.cat(parts) if parts else torch.empty(0, 0, dtype=torch.int64)


def example(schema: Schema, vocab_rows: Mapping[str, int], rows: int, length: int) -> list[Tensor]:
    """Return inputs of `Twin` of the right shapes and types, to trace it with."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for feature in schema.features:
        if isinstance(feature, DenseFeature):
            found.append(torch.randn(rows, generator=generator))
            continue
        shape = (rows, length) if isinstance(feature, SequenceFeature) else (rows,)
        found.append(torch.randint(vocab_rows[feature.table], shape, generator=generator))
    return found


class Columns(nn.Module):
    """Float columns of a number: `DenseEncoding.apply`, operation by operation.

    Shape:
        float32 (B,) → float32 (B, columns)
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, encoding: DenseEncoding) -> None:
        super().__init__()
        self.kind, self.missing = encoding.kind, encoding.missing
        self.register_buffer("mean", torch.tensor(encoding.mean, dtype=torch.float32))
        self.register_buffer("sd", torch.tensor(encoding.sd, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        """Return the columns."""
        absent = values.isnan()
        body = self.body(values, absent)
        return torch.cat([body, absent.float()[:, None]], dim=1) if self.missing else body

    def body(self, values: Tensor, absent: Tensor) -> Tensor:
        """Return the columns but the indicator."""
        if self.kind == "none":
            return torch.where(absent, self.mean, values)[:, None]
        if self.kind == "log":
            values = (values.sign() * _log1p(values.double().abs())).float()
        return ((torch.where(absent, self.mean, values) - self.mean) / self.sd)[:, None]


class Linear(Columns):
    """Piecewise-linear columns."""

    edges: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, encoding: DenseEncoding) -> None:
        super().__init__(encoding)
        edges = torch.tensor(encoding.edges, dtype=torch.float32)
        lower, upper = torch.zeros(len(edges) - 1), torch.ones(len(edges) - 1)
        lower[0], upper[-1] = -torch.inf, torch.inf
        for name, each in (("edges", edges), ("lower", lower), ("upper", upper)):
            self.register_buffer(name, each)

    def body(self, values: Tensor, absent: Tensor) -> Tensor:
        """Return a column a bin."""
        filled = torch.where(absent, self.mean, values)
        body = (filled[:, None] - self.edges[:-1]) / (self.edges[1:] - self.edges[:-1])
        return torch.minimum(torch.maximum(body, self.lower), self.upper)


class Bins(nn.Module):
    """Table rows of numbers: `DenseEncoding.ids` of several features at once.

    Up to 64 edges are all compared with, the edges first: what onnxruntime adds up then lies
    together. Of more, which would take memory for each, the place is searched by halves.

    Shape:
        float32 (features, B) → int64 (features, B)
    """

    edges: Tensor

    def __init__(self, encodings: Sequence[DenseEncoding]) -> None:
        super().__init__()
        most = max(len(each.edges) for each in encodings)
        self.halvings = most.bit_length() if most > _FEW_EDGES else 0
        # Edge i of a feature lies at place i + 1 of its row, and no value is above what follows.
        edges = torch.full((len(encodings), 2 ** most.bit_length()), torch.inf)
        for row, each in zip(edges, encodings, strict=True):
            row[1 : len(each.edges) + 1] = torch.tensor(each.edges, dtype=torch.float32)
        self.register_buffer("edges", edges if self.halvings else edges[:, 1:].T[:, :, None])

    def forward(self, values: Tensor) -> Tensor:
        """Return the rows."""
        below = self._searched(values) if self.halvings else self._counted(values)
        return torch.where(values.isnan(), 0, below + 1)

    def _counted(self, values: Tensor) -> Tensor:
        # In float32, which is exact here and which onnxruntime adds up much faster than int64.
        return (values[None] > self.edges).float().sum(0).long()

    def _searched(self, values: Tensor) -> Tensor:
        below = torch.zeros_like(values, dtype=torch.int64)
        for halving in reversed(range(self.halvings)):
            further = below + 2**halving
            below = torch.where(self.edges.gather(1, further) < values, further, below)
        return below


class Applied(nn.Module):
    """A map whose `apply` takes tensors."""

    def __init__(self, found: CalibrationMap) -> None:
        super().__init__()
        self.map = found

    def forward(self, z: Tensor) -> Tensor:
        """Return calibrated logits."""
        return self.map.apply(z)


class Knots(nn.Module):
    """`Isotonic.apply`: linear between knots, slope 1 beyond them."""

    x: Tensor
    y: Tensor
    slope: Tensor

    def __init__(self, found: Isotonic) -> None:
        super().__init__()
        self.low, self.high = found.x[0], found.x[-1]
        x, y = np.array(found.x), np.array(found.y)
        slope = np.append(np.diff(y) / np.diff(x), 0.0)  # none behind the last knot
        for name, each in (("x", x), ("y", y), ("slope", slope)):
            self.register_buffer(name, torch.from_numpy(each))

    def forward(self, z: Tensor) -> Tensor:
        """Return calibrated logits."""
        inside = z.clamp(self.low, self.high)
        at = (inside >= self.x[:, None]).float().sum(0).long() - 1  # as bins are counted
        at = at.clamp(min=0)  # where z is NaN
        return self.y[at] + (inside - self.x[at]) * self.slope[at] + (z - inside)


def _columns(encoding: DenseEncoding) -> Columns:
    return Linear(encoding) if encoding.kind == "piecewise_linear" else Columns(encoding)


def _side_by_side(by_name: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """(B,) each → (names, B), in two nodes of a graph whatever their number."""
    return torch.cat([by_name[name] for name in names]).view(len(names), -1)


def _log1p(values: Tensor) -> Tensor:
    """log(1 + x) of float64, not below 0; a graph has no operation for it.

    What adding 1 loses of the digits of x is taken out of the logarithm again.

    Reference:
        Goldberg, What every computer scientist should know about floating-point arithmetic, ACM
        Computing Surveys 1991, theorem 4.
    """
    above = 1 + values
    return torch.where(above == 1, values, above.log() * (values / (above - 1)))


def _calibrator(found: CalibrationMap | None) -> nn.Module:
    if found is None:
        return nn.Identity()
    return Applied(found) if found.graph is None else resolved(found.graph)(found)
