"""The network from rows of vocabularies and raw numbers to the named outputs, in plain torch.

What `Bundle.predict` does in numpy, kernels and torch, one after the other, is one module here, so
that one graph can be captured of it: encodings, look-ups, trunk, heads, calibrators and products.

Letters: B rows, L the longest list of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from polyrank.bundle.model import Bundle
from polyrank.calibration.maps import Isotonic, Map, Platt
from polyrank.data.dense import DenseEncoding
from polyrank.features import DenseFeature, SequenceFeature
from polyrank.models.ranker import Ranker
from polyrank.nn.embed import TableEmbedder
from polyrank.schema import Schema
from polyrank.terms import output_columns


class Twin(nn.Module):
    """A fitted bundle as one module, in evaluation mode.

    A row whose logit is not finite has NaN in every output of that head and of those below it.

    Shape:
        - inputs: one tensor a feature, in the schema's order: int64 (B,) of a sparse feature, int64
          (B, L) of a sequence, −1 where there is no id, float32 (B,) of a dense one, NaN = missing
        - output: float64 (B,) each, in the order of the columns of `Bundle.predict`
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.schema = bundle.schema
        ranker: Ranker = bundle.ranker
        self.layout = ranker.layout
        self.embed = TableEmbedder(self.layout, ranker.embed.tables())
        self.trunk, self.head = ranker.trunk, ranker.head
        self.encoding = nn.ModuleList(
            _encoding(bundle.vocab.dense[feature.name])
            for feature in self.schema.features
            if isinstance(feature, DenseFeature)
        )
        self.calibrator = nn.ModuleDict(
            {
                task.name: _calibrator(bundle.calibrators[task.name].map)
                for task in self.schema.tasks
                if task.name in bundle.calibrators
            }
        )
        self.scales = dict(bundle.scales)
        self.eval()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs."""
        by_name = dict(zip((each.name for each in self.schema.features), inputs, strict=True))
        numbers = [each.name for each in self.schema.features if isinstance(each, DenseFeature)]
        encoded = {
            name: encoding(by_name[name])
            for name, encoding in zip(numbers, self.encoding, strict=True)
        }
        ids = [encoded.get(each.name, by_name[each.name]) for each in self.schema.id_features]
        dense = [encoded[each.name] for each in self.schema.dense_features]
        rows = inputs[0].shape[0]
        x = self.embed(
            ids,
            torch.cat(dense, dim=1) if dense else torch.empty(rows, 0),
            [by_name[each.name] for each in self.schema.sequence_features],
        )
        hidden = self.trunk(x)
        logits = {task: self.head[task](hidden[task]) for task in self.schema.by_name}
        return tuple(self._outputs(logits).values())

    def _outputs(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`polyrank.models.outputs.outputs` of calibrated logits."""
        names = list(self.schema.by_name)
        columns: dict[str, dict[str, Tensor]] = {}
        joints: dict[str, Tensor] = {}
        for name in sorted(names, key=lambda each: len(self.schema.ancestors(each))):
            task = self.schema.by_name[name]
            z = logits[name].double()
            finite = z.abs() < torch.inf  # not of NaN either
            if name in self.calibrator:
                z = self.calibrator[name](z)
            if task.kind == "binary":
                value = z.sigmoid()
            else:
                mean, deviation = self.scales.get(name, (0.0, 1.0))
                value = z * deviation + mean
            value = torch.where(finite, value, torch.nan)
            joints[name] = joints[task.given] * value if task.given else value
            found = (value, joints[name]) if task.given else (value,)
            columns[name] = dict(zip(output_columns(task), found, strict=True))
        return {column: each for name in names for column, each in columns[name].items()}


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


class _Columns(nn.Module):
    """Float columns of a number: `DenseEncoding.apply`, operation by operation."""

    mean: Tensor
    sd: Tensor

    def __init__(self, encoding: DenseEncoding) -> None:
        super().__init__()
        self.kind, self.missing = encoding.kind, encoding.missing
        self.register_buffer("mean", torch.tensor(encoding.mean, dtype=torch.float32))
        self.register_buffer("sd", torch.tensor(encoding.sd, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        absent = values.isnan()
        body = self.body(values, absent)
        return torch.cat([body, absent.float()[:, None]], dim=1) if self.missing else body

    def body(self, values: Tensor, absent: Tensor) -> Tensor:
        if self.kind == "none":
            return torch.where(absent, self.mean, values)[:, None]
        if self.kind == "log":
            # A graph has no log1p of a small number but the logarithm of 1 + it, which loses the
            # digits of float32 that float64 keeps.
            values = (values.sign() * values.double().abs().log1p()).float()
        return ((torch.where(absent, self.mean, values) - self.mean) / self.sd)[:, None]


class _Linear(_Columns):
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
        filled = torch.where(absent, self.mean, values)
        body = (filled[:, None] - self.edges[:-1]) / (self.edges[1:] - self.edges[:-1])
        return torch.minimum(torch.maximum(body, self.lower), self.upper)


class _Bins(nn.Module):
    """Table rows of a number: `DenseEncoding.ids`."""

    edges: Tensor

    def __init__(self, encoding: DenseEncoding) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor(encoding.edges, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        # Counted in float32, which is exact and which onnxruntime adds up much faster than int64.
        above = (values[:, None] > self.edges).float().sum(1).long() + 1
        return torch.where(values.isnan(), 0, above)


class _Line(nn.Module):
    """`Platt.apply`."""

    def __init__(self, found: Platt) -> None:
        super().__init__()
        self.slope, self.intercept = found.slope, found.intercept

    def forward(self, z: Tensor) -> Tensor:
        return self.slope * z + self.intercept


class _Knots(nn.Module):
    """`Isotonic.apply`: linear between knots, slope 1 beyond them."""

    x: Tensor
    y: Tensor
    slope: Tensor

    def __init__(self, found: Isotonic) -> None:
        super().__init__()
        x, y = np.array(found.x), np.array(found.y)
        slope = np.append(np.diff(y) / np.diff(x), 0.0)  # none behind the last knot
        for name, each in (("x", x), ("y", y), ("slope", slope)):
            self.register_buffer(name, torch.from_numpy(each))

    def forward(self, z: Tensor) -> Tensor:
        inside = z.clamp(float(self.x[0]), float(self.x[-1]))
        at = (inside[:, None] >= self.x).float().sum(1).long() - 1
        at = at.clamp(min=0)  # where z is NaN
        return self.y[at] + (inside - self.x[at]) * self.slope[at] + (z - inside)


def _encoding(encoding: DenseEncoding) -> nn.Module:
    if encoding.kind == "bins":
        return _Bins(encoding)
    return _Linear(encoding) if encoding.kind == "piecewise_linear" else _Columns(encoding)


_CALIBRATORS: Mapping[type, Callable[..., nn.Module]] = {Platt: _Line, Isotonic: _Knots}


def _calibrator(found: Map | None) -> nn.Module:
    return nn.Identity() if found is None else _CALIBRATORS[type(found)](found)
