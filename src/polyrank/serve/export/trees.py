"""First-stage trees in an exported graph: one TreeEnsemble node of all heads' boosters.

The network's graph has the margins as one more input, (B, H) float32. Here the input goes, and what
gave it a name is computed from the raw inputs of the features, in float64 as LightGBM does.

Letters: B rows, C columns that trees read, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from polyrank.errors import ExportError
from polyrank.stages.ensemble import Ensemble
from polyrank.stages.trees import Boosters, Column, TreesModule

ML = ("ai.onnx.ml", 5)  # the first version with TreeEnsemble
# 1.19 to 1.20 have no such node, and 1.21.1 did not return from it.
LEAST_RUNTIME = (1, 23, 2)
_SUM, _AT_MOST, _MEMBER = 1, 0, 6  # of the node's aggregate functions and modes


@dataclass
class Added:
    """Nodes and constants whose names begin alike."""

    own: str
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def node(self, operation: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        """Add an operation; return its output's name."""
        return self.ending(operation, inputs, self.own + output, **attributes)

    def ending(self, operation: str, inputs: Iterable[str], name: str, **attributes: Any) -> str:
        """Add an operation whose output has a name of others' choice."""
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, name: str, dtype: Any = np.int64) -> str:
        """Add an array; return its name."""
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), self.own + name))
        return self.own + name


def check_runtime(version: str) -> None:
    """Refuse an onnxruntime that cannot run trees, or that runs them wrongly.

    Raises:
        ExportError: a version below 1.23.2.
    """
    found = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if found < LEAST_RUNTIME:
        least = ".".join(map(str, LEAST_RUNTIME))
        raise ExportError(
            f"first-stage trees need onnxruntime ≥ {least}, got {version}: upgrade it, or train "
            "with [model] trees = false"
        )


def splice_stage(model: ModelProto, stage: TreesModule, margin: str) -> None:
    """Compute a graph's input of margins by fitted trees: see `splice`.

    Raises:
        ExportError: an onnxruntime that cannot run them.
    """
    assert stage.boosters is not None
    check_runtime(version("onnxruntime"))
    splice(model, stage.boosters, margin)


def splice(model: ModelProto, boosters: Boosters, margin: str) -> None:
    """Compute a graph's input of margins inside the graph, from its other inputs.

    Args:
        model: whose inputs have the names of the features, before `graph.with_vocabulary`.
        boosters: the full ones are used.
        margin: the name of the input, float32 (B, H).

    Raises:
        ExportError: no such input.
    """
    graph = model.graph
    at = [index for index, each in enumerate(graph.input) if each.name == margin]
    if not at:
        raise ExportError(f"the graph has no input {margin!r} of margins")
    del graph.input[at[0]]
    added = Added(_free(model, f"{margin}."))
    _margins(added, boosters, margin)
    later = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*added.nodes, *later])
    graph.initializer.extend(added.constants)
    for each in model.opset_import:
        if each.domain == ML[0]:
            each.version = max(each.version, ML[1])
            break
    else:
        model.opset_import.append(helper.make_opsetid(*ML))


def tree_ensemble(ensembles: Sequence[Ensemble]) -> dict[str, Any] | None:
    """Return the attributes of the node with a target per ensemble; None where no tree splits.

    Trees of one leaf are left out: they are each ensemble's `bias`.
    """
    found = _Attributes()
    for target, each in enumerate(ensembles):
        found.add(each, target)
    return found.of_node(len(ensembles)) if found.roots else None


class _Attributes:
    """The arrays of a TreeEnsemble node, in which all trees' nodes and leaves are numbered."""

    def __init__(self) -> None:
        self.roots: list[int] = []
        self.columns: list[int] = []
        self.splits: list[float] = []
        self.modes: list[int] = []
        self.missing_true: list[int] = []
        self.true: list[tuple[int, bool]] = []  # the number of a child, and whether it is a leaf
        self.false: list[tuple[int, bool]] = []
        self.sets: list[float] = []
        self.weights: list[float] = []
        self.targets: list[int] = []

    def add(self, ensemble: Ensemble, target: int) -> None:
        """Add the trees of an ensemble."""
        for root in ensemble.roots:
            if root >= 0:
                self._add_tree(ensemble, int(root), target)

    def _add_tree(self, ensemble: Ensemble, root: int, target: int) -> None:
        # LightGBM's own order may end a tree's nodes anywhere; the node must follow its parent.
        nodes, leaves = _below(ensemble, root)
        first_node = len(self.columns)
        node_number = {node: first_node + place for place, node in enumerate(nodes)}
        first = len(self.weights)
        # onnxruntime 1.23.2 takes a root for a leaf if its children, a leaf and a node, have one
        # number. A leaf that no tree has moves the numbers of this tree's.
        one, other = ensemble.left[root], ensemble.right[root]
        if (one < 0) != (other < 0):
            leaf, node = (~one, other) if one < 0 else (~other, one)
            if first + leaves.index(leaf) == node_number[node]:
                self.weights.append(0.0)
                self.targets.append(target)
                first += 1
        leaf_number = {leaf: first + place for place, leaf in enumerate(leaves)}

        def child(of: int) -> tuple[int, bool]:
            return (node_number[of], False) if of >= 0 else (leaf_number[~of], True)

        self.roots.append(node_number[root])
        for node in nodes:
            member = ensemble.first[node] >= 0
            self.columns.append(int(ensemble.columns[node]))
            self.modes.append(_MEMBER if member else _AT_MOST)
            self.splits.append(0.0 if member else float(ensemble.thresholds[node]))
            self.missing_true.append(int(ensemble.missing_left[node]))
            self.true.append(child(int(ensemble.left[node])))
            self.false.append(child(int(ensemble.right[node])))
            if member:
                self.sets += [*map(float, ensemble.members(node)), np.nan]
        self.weights += [float(ensemble.leaves[leaf]) for leaf in leaves]
        self.targets += [target] * len(leaves)

    def of_node(self, targets: int) -> dict[str, Any]:
        found = {
            "aggregate_function": _SUM,
            "post_transform": 0,
            "n_targets": targets,
            "tree_roots": self.roots,
            "nodes_featureids": self.columns,
            "nodes_splits": _tensor("splits", self.splits, np.float64),
            "nodes_modes": _tensor("modes", self.modes, np.uint8),
            "nodes_missing_value_tracks_true": self.missing_true,
            "nodes_truenodeids": [number for number, _ in self.true],
            "nodes_trueleafs": [int(leaf) for _, leaf in self.true],
            "nodes_falsenodeids": [number for number, _ in self.false],
            "nodes_falseleafs": [int(leaf) for _, leaf in self.false],
            "leaf_weights": _tensor("weights", self.weights, np.float64),
            "leaf_targetids": self.targets,
        }
        if self.sets:
            found["membership_values"] = _tensor("sets", self.sets, np.float64)
        return found


def _below(ensemble: Ensemble, root: int) -> tuple[list[int], list[int]]:
    """Return the nodes of a tree, each before its children, and its leaves."""
    nodes, leaves, waiting = [], [], [root]
    while waiting:
        each = waiting.pop()
        if each < 0:
            leaves.append(~each)
        else:
            nodes.append(each)
            waiting += [int(ensemble.right[each]), int(ensemble.left[each])]
    return nodes, leaves


def _margins(added: Added, boosters: Boosters, margin: str) -> None:
    """Add the nodes from the raw inputs of features to the margins."""
    ensembles = list(boosters.full.values())
    attributes = tree_ensemble(ensembles)
    biases = [each.bias for each in ensembles]
    if attributes is None:
        first = boosters.columns[0].feature
        rows = added.node("Shape", [first], "rows")
        heads = added.constant([len(ensembles)], "heads")
        shape = added.node("Concat", [rows, heads], "shape", axis=0)
        constant = added.constant([biases], "bias", np.float32)
        added.ending("Expand", [constant, shape], margin)
        return
    matrix = added.node("Transpose", [_columns(added, boosters.columns)], "matrix", perm=[1, 0])
    raw = added.node("TreeEnsemble", [matrix], "raw", domain=ML[0], **attributes)
    if any(biases):
        raw = added.node("Add", [raw, added.constant([biases], "bias", np.float64)], "sum")
    added.ending("Cast", [raw], margin, to=TensorProto.FLOAT)


def _columns(added: Added, columns: Sequence[Column]) -> str:
    """Return all columns as float64 (C, B), in a few nodes whatever their number."""
    kinds = {
        "categories": [each.feature for each in columns if each.categories],
        "numbers": [each.feature for each in columns if not each.categories],
    }
    parts = []
    for kind, names in kinds.items():
        if names:
            joined = added.node("Concat", names, f"{kind}_joined", axis=0)
            shape = added.constant([len(names), -1], f"{kind}_shape")
            side_by_side = added.node("Reshape", [joined, shape], f"{kind}_columns")
            parts.append(added.node("Cast", [side_by_side], kind, to=TensorProto.DOUBLE))
    return parts[0] if len(parts) == 1 else added.node("Concat", parts, "columns", axis=0)


def _tensor(name: str, values: Sequence[Any], dtype: Any) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def _free(model: ModelProto, prefix: str) -> str:
    """Return a prefix that no name of the graph begins with."""
    graph = model.graph
    names = [each.name for each in (*graph.input, *graph.output, *graph.initializer)]
    names += [name for node in graph.node for name in (*node.input, *node.output)]
    while any(name.startswith(prefix) for name in names):
        prefix += "."
    return prefix
