"""Trees in a graph give the margins of the boosters, from the raw inputs of the features."""

from dataclasses import replace

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper
from tests.stages.test_ensemble import grown, near

import polyrank as pr
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ExportError
from polyrank.serve.engine import Session
from polyrank.serve.export import graph
from polyrank.serve.export.graph import free_name
from polyrank.serve.export.trees import check_runtime, splice, tree_ensemble
from polyrank.serve.inputs import Inputs
from polyrank.stages.ensemble import Ensemble
from polyrank.stages.trees import Boosters, Column, matrix_of

COLUMNS = (
    Column(feature="shop", categories=41),
    Column(feature="kind", categories=4),
    Column(feature="price"),
    Column(feature="tiny"),
    Column(feature="size"),
)
SEEDS = range(3)


def passing(columns, heads, *, extra=()):
    """A graph as torch exports it, which gives its input of margins back."""
    inputs = [
        helper.make_tensor_value_info(
            each.feature, TensorProto.INT64 if each.categories else TensorProto.FLOAT, ["batch"]
        )
        for each in columns
    ]
    shape = ["batch", heads]
    inputs.append(helper.make_tensor_value_info("trees_margin", TensorProto.FLOAT, shape))
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["trees_margin"], ["out"]), *extra], "g", inputs,
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip


def feeds(matrix, columns):
    return {
        each.feature: matrix[:, at].astype(np.int64) if each.categories else matrix[:, at].copy()
        for at, each in enumerate(columns)
    }


def run(model, inputs):
    onnx.checker.check_model(model, full_check=True)
    return Session(model.SerializeToString()).run(inputs)["out"]


@pytest.mark.parametrize("missing", [True, False])
def test_the_graph_gives_the_margins_of_every_head(missing):
    grew = [grown(seed, missing=missing, regression=seed == 1) for seed in SEEDS]
    ensembles = {f"h{seed}": Ensemble.read(b.model_to_string()) for seed, (_, b) in enumerate(grew)}
    boosters = Boosters(COLUMNS, {**ensembles, "constant": Ensemble.constant(-0.75, 5)})
    model = passing(COLUMNS, 4)
    splice(model, boosters, "trees_margin")
    assert [each.name for each in model.graph.input] == [each.feature for each in COLUMNS]
    for seed, (x, _) in enumerate(grew):
        rows = near(x, ensembles[f"h{seed}"], np.random.default_rng(seed))
        for matrix in (rows, rows[:1], rows[:37]):
            found = run(model, feeds(matrix, COLUMNS))
            np.testing.assert_array_equal(found, boosters.margins(matrix), strict=True)


def test_raw_scores_are_doubles_to_the_last_bit():
    x, booster = grown(2)
    ensemble = Ensemble.read(booster.model_to_string())
    attributes = tree_ensemble([ensemble])
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("TreeEnsemble", ["x"], ["out"], domain="ai.onnx.ml", **attributes)],
            "g", [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 5])],
            [helper.make_tensor_value_info("out", TensorProto.DOUBLE, ["n", 1])],
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)],
        ir_version=10,
    )  # fmt: skip
    rows = near(x, ensemble, np.random.default_rng(0))
    found = run(model, {"x": rows.astype(np.float64)})
    np.testing.assert_array_equal(found[:, 0], booster.predict(rows, raw_score=True))


def test_constants_alone_need_no_node():
    heads = {"a": Ensemble.constant(1.5, 1), "b": Ensemble.constant(-2.0, 1)}
    columns = (Column(feature="price"),)
    model = passing(columns, 2)
    splice(model, Boosters(columns, heads), "trees_margin")
    found = run(model, {"price": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(found, np.float32([[1.5, -2.0]] * 3), strict=True)
    assert tree_ensemble(list(heads.values())) is None


def test_a_root_never_has_children_of_one_number():
    ensembles = [Ensemble.read(grown(seed, rounds=40)[1].model_to_string()) for seed in range(5)]
    attributes = tree_ensemble(ensembles)
    mixed = 0
    for root in attributes["tree_roots"]:
        true, false = attributes["nodes_trueleafs"][root], attributes["nodes_falseleafs"][root]
        if true != false:
            mixed += 1
            assert attributes["nodes_truenodeids"][root] != attributes["nodes_falsenodeids"][root]
    assert mixed
    # In trees of three leaves the numbers meet.
    chain = replace(
        ensembles[0],
        roots=np.array([0], np.int32), columns=np.zeros(2, np.int32),
        thresholds=np.array([0, 1], np.float32), missing_left=np.zeros(2, bool),
        left=np.array([~0, ~1], np.int32), right=np.array([1, ~2], np.int32),
        first=np.full(2, -1, np.int32), words=np.zeros(2, np.int32),
        sets=np.zeros(0, np.uint32), leaves=np.array([1.0, 2.0, 4.0]),
    )  # fmt: skip
    # The second tree has nodes 2 and 3, and its root's leaf would be number 3 too.
    found = tree_ensemble([chain, chain])
    assert (found["nodes_truenodeids"][2], found["nodes_falsenodeids"][2]) == (4, 3)
    weights = onnx.numpy_helper.to_array(found["leaf_weights"])
    np.testing.assert_array_equal(weights, [1, 2, 4, 0, 1, 2, 4])


def test_names_of_a_graph_are_kept_apart():
    model = passing(
        COLUMNS[2:3], 1, extra=[helper.make_node("Identity", ["price"], ["trees_margin.raw"])]
    )
    ensemble = Ensemble.read(grown(0)[1].model_to_string())
    one = replace(ensemble, columns=np.zeros_like(ensemble.columns))
    splice(model, Boosters(COLUMNS[2:3], {"click": one}), "trees_margin")
    assert "trees_margin.raw" in {name for node in model.graph.node for name in node.output}
    onnx.checker.check_model(model, full_check=True)


def test_a_vocabulary_comes_before_the_trees():
    # with_vocabulary renames what reads the rows, so that it can come after splice.
    schema = pr.Schema([pr.SparseFeature("shop"), pr.DenseFeature("price")], [pr.Task("click")])
    shops, prices = [f"s{at % 7}" for at in range(40)], [float(at) for at in range(40)]
    frame = pl.DataFrame({"shop": shops, "price": prices, "click": [0, 1] * 20})
    vocab = Vocab.fit(frame, schema)
    columns = (Column(feature="shop", categories=8), Column(feature="price"))
    ensemble = Ensemble.read(grown(0)[1].model_to_string())
    one = replace(ensemble, columns=np.where(ensemble.columns < 2, 0, 1).astype(np.int32))
    boosters = Boosters(columns, {"click": one})
    model = passing(columns, 1)
    splice(model, boosters, "trees_margin")
    graph.with_vocabulary(model, vocab)
    (versions,) = [each.version for each in model.opset_import if each.domain == "ai.onnx.ml"]
    assert versions == 5
    raw = pl.DataFrame({"shop": ["s3", "new", None, "s6"], "price": [1.5, None, 20.0, 39.0]})
    (fed,) = Inputs(schema, vocab).raw(raw).batches(10)
    table = encode(raw, schema, vocab, labels=False, numbers=True)
    np.testing.assert_array_equal(run(model, fed), boosters.margins(matrix_of(table, columns)))


def test_a_graph_without_margins_is_refused():
    model = passing(COLUMNS[2:3], 1)
    boosters = Boosters(COLUMNS[2:3], {"click": Ensemble.constant(0.0, 1)})
    with pytest.raises(ExportError, match="no input 'margin' of margins"):
        splice(model, boosters, "margin")


def test_the_input_of_margins_has_a_name_of_its_own():
    assert free_name("trees_margin", ["a"]) == "trees_margin"
    assert free_name("trees_margin", ["trees_margin", "trees_margin_"]) == "trees_margin__"


@pytest.mark.parametrize("version", ["1.19.2", "1.20.1", "1.21.1", "1.23.1", "0.9"])
def test_an_old_onnxruntime_is_refused(version):
    with pytest.raises(ExportError, match=f"onnxruntime ≥ 1.23.2, got {version}: upgrade it"):
        check_runtime(version)


@pytest.mark.parametrize(
    "version", ["1.23.2", "1.24.0", "1.32.0", "2.0.0rc1", "1.23.2.dev20251001"]
)
def test_a_new_onnxruntime_is_taken(version):
    check_runtime(version)
