"""What is done to a captured graph: its names, and vocabularies in front of its inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from polyrank.data.ids import IdType
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.errors import ExportError
from polyrank.features import DenseFeature, SequenceFeature
from polyrank.schema import IdFeature, Schema
from polyrank.serve.inputs import NULL, PADDING, UNSEEN, id_type

_ML = ("ai.onnx.ml", 4)  # LabelEncoder between any two types of tensors
_ELEMENT: Mapping[IdType, int] = {
    "int": TensorProto.INT64, "string": TensorProto.STRING, "float": TensorProto.DOUBLE
}  # fmt: skip
_DTYPE: Mapping[IdType, Any] = {"int": np.int64, "string": object, "float": np.float64}


def named(model: ModelProto, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Give a graph these names of inputs and outputs, in order.

    All other values get names that none of these can be, and the traces of source code that the
    exporter leaves, with the paths of this machine, go.
    """
    graph = model.graph
    inputs, outputs = list(inputs), list(outputs)
    new = dict(zip((each.name for each in graph.input), inputs, strict=True))
    new |= dict(zip((each.name for each in graph.output), outputs, strict=True))
    _rename(graph, new, _free_prefix([*inputs, *outputs]))
    graph.name = "polyrank"
    for each in (model, graph):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")


def with_shapes(model: ModelProto, schema: Schema) -> None:
    """Name the sizes of a graph that vary: batch, and the length of each sequence."""
    sequences = {feature.name for feature in schema.sequence_features}
    for each in (*model.graph.input, *model.graph.output):
        dims = each.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        if each.name in sequences:
            dims[1].dim_param = f"{each.name}.length"
    model.graph.ClearField("value_info")  # they name the old sizes


def with_vocabulary(model: ModelProto, schema: Schema, vocab: Vocab) -> None:
    """Make a graph on rows of vocabularies take the ids themselves.

    Raises:
        ExportError: a feature that is hashed, or whose vocabulary holds a value that stands for
            something else in the file, by name.
    """
    graph, free = model.graph, _free_prefix(_io(model))
    ids = [feature for feature in schema.features if not isinstance(feature, DenseFeature)]
    # What read the rows under the feature's name reads them under a name of their own.
    _replace(graph, {feature.name: f"{free}{feature.name}.rows" for feature in ids})
    inputs = {each.name: each for each in graph.input}
    first: list[NodeProto] = []
    for feature in ids:
        table = vocab.tables[feature.table]
        _check(feature, table)
        found = _LookUp(feature.name, f"{free}{feature.name}.")
        if table.size is not None:
            _identity(found, feature, table.size)
        else:
            _fitted(found, feature, table)
        first += found.nodes
        graph.initializer.extend(found.constants)
        inputs[feature.name].type.tensor_type.elem_type = _ELEMENT[id_type(table)]
    later = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*first, *later])
    if all(each.domain != _ML[0] for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(*_ML))


def with_metadata(model: ModelProto, entries: Mapping[str, Any]) -> None:
    """Write into a model what a reader of the file alone needs to know, as JSON a key."""
    texts = {key: json.dumps(each, ensure_ascii=False) for key, each in entries.items()}
    helper.set_model_props(model, texts)


@dataclass
class _LookUp:
    """The nodes from a feature's ids to its rows, the last of which gives `rows`.

    Args:
        ids: the input.
        own: how the names of all others begin.
    """

    ids: str
    own: str
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


def _identity(found: _LookUp, feature: IdFeature, size: int) -> None:
    """The id itself is the row, and 0 where there is no such row."""
    zero, none = found.constant(0, "zero"), found.constant(-1, "none")
    above = found.node("GreaterOrEqual", [found.ids, zero], "above")
    below = found.node("Less", [found.ids, found.constant(size, "size")], "below")
    inside = found.node("And", [above, below], "inside")
    row = found.node("Where", [inside, found.ids, zero], "row")
    for at, value in enumerate(_filling(feature, "int")):
        equal = [found.ids, found.constant(value, f"filling_{at}")]
        filled = found.node("Equal", equal, f"filled_{at}")
        row = found.node("Where", [filled, none, row], f"row_{at}")
    found.node("Identity", [row], "rows")


def _fitted(found: _LookUp, feature: IdFeature, table: Vocabulary) -> None:
    """The row of an id is the vocabulary's, and 0 where it is not in it."""
    kind = id_type(table)
    present = table.values.is_not_null().to_numpy()
    rows = dict(
        zip(
            table.values.drop_nulls().to_list(), (np.flatnonzero(present) + 1).tolist(), strict=True
        )
    )
    rows |= dict.fromkeys(_filling(feature, kind), -1)
    null = int(np.flatnonzero(~present)[0]) + 1 if not present.all() else 0
    if kind != "float":
        _labels(found, kind, {**rows, NULL[kind]: null}, "rows")
        return
    # NaN equals nothing, itself included, so it is no key.
    known = _labels(found, kind, rows, "known")
    absent = found.node("IsNaN", [found.ids], "absent")
    found.node("Where", [absent, found.constant(null, "null"), known], "rows")


def _labels(found: _LookUp, kind: IdType, rows: Mapping[Any, int], output: str) -> str:
    """Look up rows by their ids."""
    keys = (
        helper.make_tensor("keys", TensorProto.STRING, [len(rows)], [k.encode() for k in rows])
        if kind == "string"
        else numpy_helper.from_array(np.array(list(rows), _DTYPE[kind]), "keys")
    )
    return found.node(
        "LabelEncoder", [found.ids], output, domain=_ML[0],
        keys_tensor=keys,
        values_tensor=numpy_helper.from_array(np.array(list(rows.values()), np.int64), "values"),
        default_tensor=numpy_helper.from_array(np.array([0], np.int64), "default"),
    )  # fmt: skip


def _check(feature: IdFeature, table: Vocabulary) -> None:
    if table.dtype == "hash":
        raise ExportError(
            f"feature {feature.name!r} is hashed, and ONNX has no operation for the hash: "
            "export without the vocabulary, and encode it by polyrank.Engine"
        )
    kind = id_type(table)
    taken = table.values.is_in([NULL[kind], PADDING[kind], UNSEEN[kind]])
    if table.size is None and taken.any():
        value = table.values.filter(taken)[0]
        raise ExportError(
            f"feature {feature.name!r} has the id {value!r}, which stands for null, for padding or "
            "for an unseen id in the exported file: export without the vocabulary"
        )


def _filling(feature: IdFeature, kind: IdType) -> list[Any]:
    """The values that stand for no id in a feature's lists."""
    if not isinstance(feature, SequenceFeature):
        return []
    own = feature.padding_idx
    if own is None:
        return [PADDING[kind]]
    # A text that is all digits is the padding too, as a list's elements are told from it.
    spelled = [str(own), f"{own}.0"] if kind == "string" else [own]
    return [PADDING[kind], *spelled]


def _rename(graph: GraphProto, new: Mapping[str, str], free: str) -> None:
    """Rename all values: as `new` says, or with a prefix that is free."""
    for each in _graphs(graph):
        for node in each.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
            node.name = ""
            for names in (node.input, node.output):
                names[:] = [name and new.get(name, free + name) for name in names]
        for value in (*each.initializer, *each.value_info, *each.input, *each.output):
            value.name = new.get(value.name, free + value.name)
            value.ClearField("metadata_props")
            value.ClearField("doc_string")


def _replace(graph: GraphProto, new: Mapping[str, str]) -> None:
    """Make nodes read other values."""
    for each in _graphs(graph):
        for node in each.node:
            node.input[:] = [new.get(name, name) for name in node.input]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those inside its nodes, which a branch of a trunk of one's own becomes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _io(model: ModelProto) -> list[str]:
    return [each.name for each in (*model.graph.input, *model.graph.output)]


def _free_prefix(names: Iterable[str]) -> str:
    """Return a prefix that none of some names begins with."""
    prefix = "."
    while any(name.startswith(prefix) for name in names):
        prefix += "."
    return prefix
