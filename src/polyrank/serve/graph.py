"""What is done to a captured graph: its names, and vocabularies in front of its inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from polyrank.data.ids import IdType
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.errors import ExportError
from polyrank.features import DenseFeature, SequenceFeature
from polyrank.schema import IdFeature, Schema
from polyrank.serve.inputs import NULL, PADDING, id_type

_ML = ("ai.onnx.ml", 4)  # LabelEncoder between any two types of tensors
_ELEMENT: Mapping[IdType, int] = {
    "int": TensorProto.INT64, "string": TensorProto.STRING, "float": TensorProto.DOUBLE
}  # fmt: skip


def named(model: ModelProto, inputs: Iterable[str], outputs: Iterable[str]) -> ModelProto:
    """Return the graph with these names of inputs and outputs, in order.

    All other values get names that none of these can be, and the traces of source code that the
    exporter leaves, with the paths of this machine, go.
    """
    graph = model.graph
    inputs, outputs = list(inputs), list(outputs)
    new = dict(zip((each.name for each in graph.input), inputs, strict=True))
    new |= dict(zip((each.name for each in graph.output), outputs, strict=True))
    free = _free_prefix([*inputs, *outputs])
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [name and new.get(name, free + name) for name in names]
    for each in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
        each.name = new.get(each.name, free + each.name)
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    graph.name = "polyrank"
    return model


def with_shapes(model: ModelProto, schema: Schema) -> ModelProto:
    """Return the graph with the sizes that vary by name: batch, and the length of each sequence."""
    sequences = {feature.name for feature in schema.sequence_features}
    for each in (*model.graph.input, *model.graph.output):
        dims = each.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        if each.name in sequences:
            dims[1].dim_param = f"{each.name}.length"
    model.graph.ClearField("value_info")  # they name the old sizes
    return model


def with_vocabulary(model: ModelProto, schema: Schema, vocab: Vocab) -> ModelProto:
    """Return a copy of a graph on rows of vocabularies that takes the ids themselves.

    Raises:
        ExportError: a feature that is hashed, or whose vocabulary holds a value that stands for
            null or for padding, by name.
    """
    found = ModelProto()
    found.CopyFrom(model)
    graph, free = found.graph, _free_prefix(_io(model))
    inputs = {each.name: each for each in graph.input}
    first = []
    for feature in schema.features:
        if isinstance(feature, DenseFeature):
            continue
        table = vocab.tables[feature.table]
        if table.dtype == "hash":
            raise ExportError(
                f"feature {feature.name!r} is hashed, and ONNX has no operation for the hash: "
                f"export without the vocabulary, and encode it by polyrank.Engine"
            )
        rows = f"{free}{feature.name}.rows"
        for node in graph.node:
            node.input[:] = [rows if name == feature.name else name for name in node.input]
        # the rows as input of a name of their own, and the ids under the feature's
        nodes, constants = _look_up(feature, table, rows, free)
        first += nodes
        graph.initializer.extend(constants)
        inputs[feature.name].type.tensor_type.elem_type = _ELEMENT[id_type(table)]
    later = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*first, *later])
    if all(each.domain != _ML[0] for each in found.opset_import):
        found.opset_import.append(helper.make_opsetid(*_ML))
    return found


def with_metadata(model: ModelProto, entries: Mapping[str, Any]) -> ModelProto:
    """Return the model with what a reader of the file alone needs to know, as JSON a key."""
    texts = {key: json.dumps(each, ensure_ascii=False) for key, each in entries.items()}
    helper.set_model_props(model, texts)
    return model


def _look_up(
    feature: IdFeature, table: Vocabulary, rows: str, free: str
) -> tuple[list[Any], list[TensorProto]]:
    """Return the nodes from a feature's ids to the value `rows`, and their constants."""
    name, kind = feature.name, id_type(table)
    sequence = isinstance(feature, SequenceFeature)
    filling = [PADDING[kind]] if sequence else []
    if isinstance(feature, SequenceFeature) and feature.padding_idx is not None:
        filling += _spelled(feature.padding_idx, kind)
    own = f"{free}{name}."
    if table.dtype == "identity":
        assert table.size is not None
        constants = {"zero": 0, "size": table.size, "minus_one": -1} | {
            f"fill_{at}": value for at, value in enumerate(filling)
        }
        nodes = [
            helper.make_node("GreaterOrEqual", [name, f"{own}zero"], [f"{own}above"]),
            helper.make_node("Less", [name, f"{own}size"], [f"{own}below"]),
            helper.make_node("And", [f"{own}above", f"{own}below"], [f"{own}inside"]),
            helper.make_node("Where", [f"{own}inside", name, f"{own}zero"], [f"{own}row_0"]),
        ]
        for at in range(len(filling)):
            nodes += [
                helper.make_node("Equal", [name, f"{own}fill_{at}"], [f"{own}filled_{at}"]),
                helper.make_node(
                    "Where", [f"{own}filled_{at}", f"{own}minus_one", f"{own}row_{at}"],
                    [f"{own}row_{at + 1}"],
                ),
            ]  # fmt: skip
        nodes.append(helper.make_node("Identity", [f"{own}row_{len(filling)}"], [rows]))
        tensors = [
            numpy_helper.from_array(np.array(value, np.int64), own + key)
            for key, value in constants.items()
        ]
        return nodes, tensors
    known = table.values.drop_nulls()
    null = table.values.is_null().arg_true()
    null_row = int(null[0]) + 1 if len(null) else 0
    values = known.to_list()
    taken = {NULL[kind], PADDING[kind]} & set(values)
    if taken:
        raise ExportError(
            f"feature {name!r} has the id {taken.pop()!r}, which stands for null or for padding in "
            "the exported file: export without the vocabulary"
        )
    numbers = dict(
        zip(values, (np.flatnonzero(table.values.is_not_null()) + 1).tolist(), strict=True)
    )
    numbers |= dict.fromkeys(filling, -1)
    if kind != "float":
        numbers[NULL[kind]] = null_row
    keys = (
        helper.make_tensor(
            "keys", TensorProto.STRING, [len(numbers)], [k.encode() for k in numbers]
        )
        if kind == "string"
        else numpy_helper.from_array(
            np.array(list(numbers), np.int64 if kind == "int" else np.float64), "keys"
        )
    )
    encoder = helper.make_node(
        "LabelEncoder", [name], [f"{own}known" if kind == "float" else rows], domain=_ML[0],
        keys_tensor=keys,
        values_tensor=numpy_helper.from_array(np.array(list(numbers.values()), np.int64), "values"),
        default_tensor=numpy_helper.from_array(np.array([0], np.int64), "default"),
    )  # fmt: skip
    if kind != "float":
        return [encoder], []
    return [
        encoder,
        helper.make_node("IsNaN", [name], [f"{own}null"]),
        helper.make_node("Where", [f"{own}null", f"{own}null_row", f"{own}known"], [rows]),
    ], [numpy_helper.from_array(np.array(null_row, np.int64), f"{own}null_row")]


def _spelled(padding: int, kind: IdType) -> list[Any]:
    """The values that are a feature's own padding."""
    if kind == "string":
        return [str(padding), f"{padding}.0"]
    return [padding if kind == "int" else float(padding)]


def _io(model: ModelProto) -> list[str]:
    return [each.name for each in (*model.graph.input, *model.graph.output)]


def _free_prefix(names: Iterable[str]) -> str:
    """Return a prefix that none of some names begins with."""
    prefix = "."
    while any(name.startswith(prefix) for name in names):
        prefix += "."
    return prefix
