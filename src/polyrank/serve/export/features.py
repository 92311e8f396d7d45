"""Each kind of feature in an exported graph: from its raw inputs to the parts of x.

Here, in torch, is what the codec of a kind does in numpy. One module has all features of a kind, so
that the graph has few nodes. A kind names its class as `Feature.graph`.

Letters: B rows, L the longest list of a batch, F fields of ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from polyrank.data.vocab import Vocab
from polyrank.errors import ExportError
from polyrank.features.dense import DenseCodec, DenseEncoding
from polyrank.features.ids import IdType
from polyrank.features.kind import Codec
from polyrank.features.sparse import DTYPE, NULL, PADDING, UNSEEN, IdCodec
from polyrank.features.vector import VectorCodec, VectorEncoding
from polyrank.nn.embed import Padded
from polyrank.registry import resolved

ML = ("ai.onnx.ml", 4)  # LabelEncoder between any two types of tensors
_ELEMENT: Mapping[IdType, int] = {
    "int": TensorProto.INT64, "string": TensorProto.STRING, "float": TensorProto.DOUBLE
}  # fmt: skip
_FEW_EDGES = 64


class Parts(NamedTuple):
    """What the features of one kind give to x, each in the order of their slots.

    Shape:
        fields: int64 (F, B) · columns: (B, columns)
    """

    fields: Tensor | None = None
    bags: Sequence[Padded] = ()
    columns: Sequence[Tensor] = ()


class FeatureGraph(nn.Module):
    """The features of one kind in an exported graph; `codecs` are theirs, by name."""

    def __init__(self, codecs: Mapping[str, Any]) -> None:
        super().__init__()
        self.codecs = codecs

    def forward(self, inputs: Mapping[str, Tensor]) -> Parts:
        """Return the parts of x from the inputs of all features, by name."""
        raise NotImplementedError

    def example(self, name: str, rows: int, length: int, generator: torch.Generator) -> Tensor:
        """Return the input of a raw column, to trace the graph with; the default is numbers."""
        return torch.randn(rows, generator=generator)

    def look_up(self, name: str, nodes: Nodes) -> int | None:
        """Add the nodes from a feature's raw input to `rows`, for the file with the vocabulary.

        Returns:
            The element type of the raw input; None where the graph takes it already.

        Raises:
            ExportError: a feature that cannot be looked up in a graph, by name.
        """
        return None


def graphs_of(vocab: Vocab) -> list[FeatureGraph]:
    """Return the module of each kind, in the order of the features."""
    kinds: dict[str, dict[str, Codec]] = {}
    for feature in vocab.features:
        if feature.graph is None:
            raise ExportError(
                f"feature {feature.name!r} is of the kind {feature.kind!r}, which has no module "
                "for the exported graph: predict with the bundle, or leave the feature out"
            )
        kinds.setdefault(feature.kind, {})[feature.name] = vocab.codecs[feature.name]
    return [
        resolved(next(iter(codecs.values())).feature.graph)(codecs) for codecs in kinds.values()
    ]


@dataclass
class Nodes:
    """The nodes from a feature's ids to its rows, the last of which gives `rows`."""

    ids: str  # the input
    own: str  # how the names of all others begin
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def node(self, operation: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        """Add an operation; return its output's name."""
        name = self.own + output
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, value: float, name: str, dtype: Any = np.int64) -> str:
        """Add a number; return its name."""
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), self.own + name))
        return self.own + name


class IdGraph(FeatureGraph):
    """Rows of vocabularies, one per row of the batch or lists of them."""

    def __init__(self, codecs: Mapping[str, IdCodec]) -> None:
        super().__init__(codecs)
        self.lists = [name for name, each in codecs.items() if each.feature.ragged]
        self.single = [name for name in codecs if name not in self.lists]

    def forward(self, inputs: Mapping[str, Tensor]) -> Parts:
        fields = _side_by_side(inputs, self.single) if self.single else None
        return Parts(fields, [bag for name in self.lists for bag in self._bags(name, inputs)])

    def _bags(self, name: str, inputs: Mapping[str, Tensor]) -> Sequence[Padded]:
        """Return the lists of a feature, by slot: those of one id a place for target attention."""
        feature, found = self.codecs[name].feature, self._list(name, inputs)
        if feature.target is None:
            return [found]
        there = found.ids >= 0
        place = there.long().cumsum(1)[:, None]  # counted from 1: (B, 1, L)
        at = torch.arange(1, len(feature.slots) + 1)[None, :, None]
        ids = torch.where((place == at) & there[:, None], found.ids[:, None], -1).amax(dim=2)
        return [Padded(each) for each in ids.split(1, dim=1)]

    def _list(self, name: str, inputs: Mapping[str, Tensor]) -> Padded:
        rows, feature = inputs[name], self.codecs[name].feature
        most, beside = getattr(feature, "max_length", None), feature.columns[1:]
        if most is not None:
            after = (rows >= 0).flip(1).long().cumsum(1).flip(1)  # ids from this one on
            rows = torch.where(after <= most, rows, -1)
        return Padded(rows, inputs[beside[0]] if beside else None)

    def example(self, name: str, rows: int, length: int, generator: torch.Generator) -> Tensor:
        if name not in self.codecs:  # weights
            return torch.randn(rows, length, generator=generator)
        shape = (rows, length) if name in self.lists else (rows,)
        return torch.randint(self.codecs[name].vocabulary.rows, shape, generator=generator)

    def look_up(self, name: str, nodes: Nodes) -> int | None:
        codec = self.codecs[name]
        table = codec.vocabulary
        if table.dtype == "hash":
            raise ExportError(
                f"feature {name!r} is hashed, and ONNX has no operation for the hash: export "
                "without the vocabulary, and encode it by polyrank.Engine"
            )
        kind = table.id_type
        taken = table.values.is_in([NULL[kind], PADDING[kind], UNSEEN[kind]])
        if table.size is None and taken.any():
            value = table.values.filter(taken)[0]
            raise ExportError(
                f"feature {name!r} has the id {value!r}, which stands for null, for padding or for "
                "an unseen id in the exported file: export without the vocabulary"
            )
        if table.size is not None:
            _identity(nodes, table.size, _filling(codec, kind))
        else:
            _fitted(nodes, codec, kind)
        return _ELEMENT[kind]


def _identity(found: Nodes, size: int, filling: Sequence[Any]) -> None:
    """The id itself is the row, and 0 where there is no such row."""
    zero, none = found.constant(0, "zero"), found.constant(-1, "none")
    above = found.node("GreaterOrEqual", [found.ids, zero], "above")
    below = found.node("Less", [found.ids, found.constant(size, "size")], "below")
    inside = found.node("And", [above, below], "inside")
    row = found.node("Where", [inside, found.ids, zero], "row")
    for at, value in enumerate(filling):
        equal = [found.ids, found.constant(value, f"filling_{at}")]
        filled = found.node("Equal", equal, f"filled_{at}")
        row = found.node("Where", [filled, none, row], f"row_{at}")
    found.node("Identity", [row], "rows")


def _fitted(found: Nodes, codec: IdCodec, kind: IdType) -> None:
    """The row of an id is the vocabulary's, and 0 where it is not in it."""
    values = codec.vocabulary.values
    present = values.is_not_null().to_numpy()
    known_rows = (np.flatnonzero(present) + 1).tolist()
    rows = dict(zip(values.drop_nulls().to_list(), known_rows, strict=True))
    rows |= dict.fromkeys(_filling(codec, kind), -1)
    null = int(np.flatnonzero(~present)[0]) + 1 if not present.all() else 0
    if kind != "float":
        _labels(found, kind, {**rows, NULL[kind]: null}, "rows")
        return
    # NaN equals nothing, itself included, so it is no key.
    known = _labels(found, kind, rows, "known")
    absent = found.node("IsNaN", [found.ids], "absent")
    found.node("Where", [absent, found.constant(null, "null"), known], "rows")


def _labels(found: Nodes, kind: IdType, rows: Mapping[Any, int], output: str) -> str:
    keys = (
        helper.make_tensor("keys", TensorProto.STRING, [len(rows)], [k.encode() for k in rows])
        if kind == "string"
        else numpy_helper.from_array(np.array(list(rows), DTYPE[kind]), "keys")
    )
    return found.node(
        "LabelEncoder", [found.ids], output, domain=ML[0],
        keys_tensor=keys,
        values_tensor=numpy_helper.from_array(np.array(list(rows.values()), np.int64), "values"),
        default_tensor=numpy_helper.from_array(np.array([0], np.int64), "default"),
    )  # fmt: skip


def _filling(codec: IdCodec, kind: IdType) -> list[Any]:
    """The values that stand for no id in a feature's lists."""
    if not codec.feature.ragged:
        return []
    own = getattr(codec.feature, "padding_idx", None)
    if own is None:
        return [PADDING[kind]]
    # A text that is all digits is the padding too, as a list's elements are told from it.
    spelled = [str(own), f"{own}.0"] if kind == "string" else [own]
    return [PADDING[kind], *spelled]


class DenseGraph(FeatureGraph):
    """Numbers: rows of bins and of values, and float columns, in the order of their slots."""

    order: Tensor

    def __init__(self, codecs: Mapping[str, DenseCodec]) -> None:
        super().__init__(codecs)
        each = [(name, part) for name, codec in codecs.items() for part in codec.encodings.values()]
        tables = [(name, part) for name, part in each if part.looked_up]
        self.binned = [(name, part) for name, part in tables if part.kind == "bins"]
        self.valued = [(name, part) for name, part in tables if part.kind == "values"]
        self.bins = Bins([part for _, part in self.binned]) if self.binned else None
        self.values = Values([part for _, part in self.valued]) if self.valued else None
        found = [*self.binned, *self.valued]
        order = torch.tensor([found.index(pair) for pair in tables], dtype=torch.int64)
        self.register_buffer("order", order)
        self.plain = [name for name, part in each if not part.looked_up]
        self.columns = nn.ModuleList(
            (Linear if part.kind == "piecewise_linear" else Columns)(part)
            for _, part in each
            if not part.looked_up
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Parts:
        found = [
            module(_side_by_side(inputs, [name for name, _ in pairs]))
            for module, pairs in ((self.bins, self.binned), (self.values, self.valued))
            if module is not None
        ]
        fields = (
            None if not found else found[0] if len(found) == 1 else torch.cat(found)[self.order]
        )
        each = zip(self.plain, self.columns, strict=True)
        return Parts(fields, columns=[columns(inputs[name]) for name, columns in each])


class Columns(nn.Module):
    """Float columns of a number, (B,) → (B, columns): `DenseEncoding.apply` step by step."""

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
        filled = torch.where(absent, self.mean, values)
        body = (filled[:, None] - self.edges[:-1]) / (self.edges[1:] - self.edges[:-1])
        return torch.minimum(torch.maximum(body, self.lower), self.upper)


class VectorGraph(FeatureGraph):
    """Vectors, as float columns."""

    def __init__(self, codecs: Mapping[str, VectorCodec]) -> None:
        super().__init__(codecs)
        self.columns = nn.ModuleList(VectorColumns(each.encoding) for each in codecs.values())

    def forward(self, inputs: Mapping[str, Tensor]) -> Parts:
        each = zip(self.codecs, self.columns, strict=True)
        return Parts(columns=[columns(inputs[name]) for name, columns in each])

    def example(self, name: str, rows: int, length: int, generator: torch.Generator) -> Tensor:
        return torch.randn(rows, self.codecs[name].encoding.size, generator=generator)


class VectorColumns(nn.Module):
    """Float columns of a vector, (B, D) → (B, columns): `VectorEncoding.apply` step by step."""

    mean: Tensor
    sd: Tensor
    components: Tensor

    def __init__(self, encoding: VectorEncoding) -> None:
        super().__init__()
        self.missing, self.projects = encoding.missing, bool(encoding.components)
        self.register_buffer("mean", torch.tensor(encoding.mean, dtype=torch.float32))
        self.register_buffer("sd", torch.tensor(encoding.sd, dtype=torch.float32))
        components = torch.tensor(encoding.components, dtype=torch.float64)
        self.register_buffer("components", components)

    def forward(self, vectors: Tensor) -> Tensor:
        absent = vectors[:, :1].isnan()
        body = (torch.where(absent, self.mean, vectors) - self.mean) / self.sd
        if self.projects:
            body = (body.double() @ self.components.T).float()
        return torch.cat([body, absent.float()], dim=1) if self.missing else body


class Below(nn.Module):
    """How many edges of each feature are below each of its values, (features, B) each way.

    Up to 64 edges are all compared with, the edges first: what onnxruntime adds up then lies
    together. Of more, which would take memory for each, the place is searched by halves.
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
        if self.halvings:
            below = torch.zeros_like(values, dtype=torch.int64)
            for halving in reversed(range(self.halvings)):
                further = below + 2**halving
                below = torch.where(self.edges.gather(1, further) < values, further, below)
            return below
        # In float32, which is exact here and which onnxruntime adds up much faster than int64.
        return (values[None] > self.edges).float().sum(0).long()


class Bins(nn.Module):
    """Table rows of binned numbers, (features, B) each way: `DenseEncoding.ids` of several."""

    def __init__(self, encodings: Sequence[DenseEncoding]) -> None:
        super().__init__()
        self.below = Below(encodings)

    def forward(self, values: Tensor) -> Tensor:
        return torch.where(values.isnan(), 0, self.below(values) + 1)


class Values(nn.Module):
    """Table rows of exact values, (features, B) each way: `DenseEncoding.ids` of several."""

    known: Tensor
    missing: Tensor

    def __init__(self, encodings: Sequence[DenseEncoding]) -> None:
        super().__init__()
        self.below = Below(encodings)
        # Behind the last value lies NaN, which equals none.
        most = max(len(each.edges) for each in encodings)
        known = torch.full((len(encodings), most + 1), torch.nan)
        for row, each in zip(known, encodings, strict=True):
            row[: len(each.edges)] = torch.tensor(each.edges, dtype=torch.float32)
        self.register_buffer("known", known)
        rows = [len(each.edges) + 1 if each.missing else 0 for each in encodings]
        self.register_buffer("missing", torch.tensor(rows, dtype=torch.int64)[:, None])

    def forward(self, values: Tensor) -> Tensor:
        below = self.below(values)
        found = torch.where(self.known.gather(1, below) == values, below + 1, 0)
        return torch.where(values.isnan(), self.missing, found)


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
