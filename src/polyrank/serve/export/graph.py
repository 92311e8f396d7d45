"""What is done to a captured graph: its names, and vocabularies in front of its inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from polyrank.data.vocab import Vocab
from polyrank.schema import Schema
from polyrank.serve.export.features import ML, Nodes, graphs_of


def named(model: ModelProto, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Give a graph these names of inputs and outputs, in order.

    All other values get names that none of these can be, and the traces of source code that the
    exporter leaves, with the paths of this machine, go.
    """
    graph = model.graph
    inputs, outputs = list(inputs), list(outputs)
    new = dict(zip((each.name for each in graph.input), inputs, strict=True))
    new |= dict(zip((each.name for each in graph.output), outputs, strict=True))
    free = _free_prefix([*inputs, *outputs])
    graph.name = "polyrank"
    traced: list[Any] = [model, graph]
    for each in _graphs(graph):
        for node in each.node:
            node.name = ""
            for names in (node.input, node.output):
                names[:] = [name and new.get(name, free + name) for name in names]
        values = [*each.initializer, *each.value_info, *each.input, *each.output]
        for value in values:
            value.name = new.get(value.name, free + value.name)
        traced += [*each.node, *values]
    for each in traced:
        each.ClearField("metadata_props")
        each.ClearField("doc_string")


def with_shapes(model: ModelProto, schema: Schema) -> None:
    """Name the sizes of a graph that vary: batch, and the length of each sequence."""
    lists = {
        column: feature.name
        for feature in schema.features
        if feature.ragged
        for column in feature.columns
    }
    for each in (*model.graph.input, *model.graph.output):
        dims = each.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        if each.name in lists:
            dims[1].dim_param = f"{lists[each.name]}.length"
    model.graph.ClearField("value_info")  # they name the old sizes


def with_constants(model: ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Set inputs of a graph to one value in every row: of shape (1, …) each, the rows first."""
    graph = model.graph
    kept = [each for each in graph.input if each.name not in values]
    free = _free_prefix([each.name for each in (*graph.input, *graph.output)])
    taken = {each.name: each.type.tensor_type.elem_type for each in graph.input}
    rows, first = f"{free}batch", list[NodeProto]()
    if values:
        first.append(helper.make_node("Shape", [kept[0].name], [rows], start=0, end=1))
    for name, value in values.items():
        constant = value.astype(helper.tensor_dtype_to_np_dtype(taken[name]))
        graph.initializer.append(numpy_helper.from_array(constant, f"{free}{name}.served"))
        first.append(helper.make_node("Expand", [f"{free}{name}.served", rows], [name]))
    later = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*first, *later])
    graph.ClearField("input")
    graph.input.extend(kept)


def with_vocabulary(model: ModelProto, vocab: Vocab) -> None:
    """Make a graph on rows of vocabularies take the ids themselves."""
    graph = model.graph
    inputs = {each.name: each for each in graph.input}
    free = _free_prefix([*inputs, *(each.name for each in graph.output)])
    first: list[NodeProto] = []
    rows: dict[str, str] = {}
    kinds = {name: kind for kind in graphs_of(vocab) for name in kind.codecs if name in inputs}
    for name, kind in kinds.items():
        found = Nodes(name, f"{free}{name}.")
        element = kind.look_up(name, found)
        if element is None:
            continue
        rows[name] = f"{found.own}rows"
        first += found.nodes
        graph.initializer.extend(found.constants)
        inputs[name].type.tensor_type.elem_type = element
    # What read the rows under the feature's name reads them under a name of their own.
    for each in _graphs(graph):
        for node in each.node:
            node.input[:] = [rows.get(name, name) for name in node.input]
    later = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*first, *later])
    if all(each.domain != ML[0] for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(*ML))


def with_metadata(model: ModelProto, entries: Mapping[str, Any]) -> None:
    """Write into a model what a reader of the file alone needs to know, as JSON a key."""
    texts = {key: json.dumps(each, ensure_ascii=False) for key, each in entries.items()}
    helper.set_model_props(model, texts)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those inside its nodes, which a branch of a trunk of one's own becomes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return a name that is none of those taken."""
    taken = set(taken)
    while name in taken:
        name += "_"
    return name


def _free_prefix(names: Iterable[str]) -> str:
    """Return a prefix that none of some names begins with."""
    prefix = "."
    while any(name.startswith(prefix) for name in names):
        prefix += "."
    return prefix
