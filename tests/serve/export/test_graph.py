"""Raw ids through a graph's look-ups are what the vocabulary says of them."""

import math

import numpy as np
import onnx
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import polyrank as pr
from polyrank.data.vocab import Vocab
from polyrank.errors import ExportError
from polyrank.features.sparse import NULL, PADDING, UNSEEN
from polyrank.features.vocabulary import Vocabulary
from polyrank.serve.engine import Session
from polyrank.serve.export import graph
from polyrank.serve.inputs import Inputs, matrix

few = settings(max_examples=60)


def passing(name, rank):
    """A graph that gives its rows back: what a look-up gives can then be seen."""
    shape = ["batch", "length"][:rank]
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", [name], ["out"])], "g",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape)],
            [helper.make_tensor_value_info("out", TensorProto.INT64, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip


def looked_up(feature, table, column):
    """Rows of a raw column by the graph, as a codec gives them."""
    schema = pr.Schema([feature], [pr.Task("click")])
    vocab = Vocab(schema.features, {feature.table: table}, {})
    sequence = isinstance(feature, pr.SequenceFeature)
    model = passing(feature.name, 1 + sequence)
    graph.with_vocabulary(model, vocab)
    onnx.checker.check_model(model, full_check=True)
    session = Session(model.SerializeToString())
    frame = pl.DataFrame([column.alias(feature.name)])
    (feeds,) = Inputs(schema, vocab).raw(frame).batches(10_000)
    return session.run(feeds)["out"]


def check(column, table, own_padding=7, **options):
    found = looked_up(pr.SparseFeature("id", **options), table, column)
    np.testing.assert_array_equal(found, table.encode(column)[0].astype(np.int64), strict=True)
    lists = pl.Series([column.to_list(), [], None, column.to_list()[:1]],
                      dtype=pl.List(column.dtype))  # fmt: skip
    for padding in (None, own_padding):
        feature = pr.SequenceFeature("id", padding_idx=padding, **options)
        bag = feature.codec({"id": table}, None).read(lists.alias("id")).values
        np.testing.assert_array_equal(
            looked_up(feature, table, lists), matrix(bag, -1), strict=True
        )


LEAST, MOST = -(2**63), 2**63 - 1
INTEGERS = st.sampled_from([7, 0, -1, 2**53 + 1, LEAST, LEAST + 1, LEAST + 2, MOST]) | st.integers(
    LEAST, MOST
)
KNOWN_INTEGERS = INTEGERS.filter(lambda each: each > LEAST + 2)
TEXTS = st.sampled_from(
    ["", "7", "7.0", "07", "a", "北京", "\ufdd0", "\ufdd1", "\ufdd2"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
KNOWN_TEXTS = TEXTS.filter(lambda each: each not in ("\ufdd0", "\ufdd1", "\ufdd2"))
FLOATS = st.sampled_from([0.5, -0.0, 0.0, math.nan, math.inf, -math.inf, 7.0]) | st.floats()
KNOWN_FLOATS = FLOATS.filter(lambda each: not math.isinf(each))


def columns(values, dtype):
    lists = st.lists(values | st.none(), min_size=1, max_size=12)
    return lists.map(lambda each: pl.Series(each, dtype=dtype))


@few
@given(columns(KNOWN_INTEGERS, pl.Int64), columns(INTEGERS, pl.Int64), st.integers(1, 2))
def test_integers(training, ids, min_count):
    check(ids, Vocabulary.fit([training], min_count))


@few
@given(columns(KNOWN_TEXTS, pl.String), columns(TEXTS, pl.String), st.integers(1, 2))
def test_texts(training, ids, min_count):
    training = training.extend(pl.Series(["letters", "letters"]))  # so that they are no integers
    check(ids, Vocabulary.fit([training], min_count))


@few
@given(columns(KNOWN_FLOATS, pl.Float64), columns(FLOATS, pl.Float64), st.integers(1, 2))
def test_floats(training, ids, min_count):
    training = training.extend(pl.Series([0.25, 0.25]))
    check(ids, Vocabulary.fit([training], min_count))


@few
@given(columns(INTEGERS, pl.Int64), st.integers(1, 9))
def test_identity_vocabularies(ids, size):
    check(ids, Vocabulary("identity", size=size), vocab_size=size)


@pytest.mark.parametrize("training", [
    pl.Series(["a", "7", "7.0", "1.5"]), pl.Series([7, 1]), pl.Series([7.5, 7.0]),
])  # fmt: skip
@pytest.mark.parametrize("ids", [
    pl.Series(["7", "7.0", "07", "a", "x" * 100_000, "true", "1.50", None]),
    pl.Series([7, 1, None, 2**62]), pl.Series([7.0, 7.5, 1.5, None, math.nan]),
    pl.Series([True, False, None]), pl.Series([None, None]), pl.Series([2**63], dtype=pl.UInt64),
])  # fmt: skip
def test_ids_of_another_type(training, ids):
    # As a float "07" is 7, and as an element of a list no padding 7: a file cannot tell.
    check(ids, Vocabulary.fit([training]), own_padding=1)


@pytest.mark.parametrize("dtype", [pl.Int64, pl.String, pl.Float64])
@pytest.mark.parametrize("values", [[], [None]])
def test_a_vocabulary_of_nothing_or_of_null_alone(dtype, values):
    kind = {pl.Int64: "int", pl.String: "string", pl.Float64: "float"}[dtype]
    table = Vocabulary(kind, pl.Series(values, dtype=dtype), pl.Series([3][: len(values)]))
    check(pl.Series([None, "7", "x"]), table)


def test_a_very_long_text_is_an_id_like_any_other():
    known = pl.Series(["x" * 1_000_000, "y"])
    check(known, Vocabulary.fit([known]))


@pytest.mark.parametrize("stand_in", [NULL, PADDING, UNSEEN])
@pytest.mark.parametrize(("kind", "dtype"), [
    ("int", pl.Int64), ("string", pl.String), ("float", pl.Float64),
])  # fmt: skip
def test_an_id_that_stands_for_something_else_is_refused_by_name(stand_in, kind, dtype):
    value = stand_in[kind]
    if kind == "float" and math.isnan(value):
        return  # NaN is null, so that no vocabulary has it
    table = Vocabulary(kind, pl.Series([value], dtype=dtype), pl.Series([1]))
    with pytest.raises(ExportError, match=r"feature 'id' has the id .*, which stands for null"):
        looked_up(pr.SparseFeature("id"), table, pl.Series([value], dtype=dtype))


def test_a_shared_table_knows_each_features_own_padding():
    table = Vocabulary.fit([pl.Series([7, 8])])
    lists = pl.Series([[7, 8, 9]])
    assert looked_up(pr.SequenceFeature("id", padding_idx=8), table, lists).tolist() == [[1, 0]]
    assert looked_up(pr.SparseFeature("id"), table, pl.Series([8])).tolist() == [2]


@pytest.mark.parametrize("name", ["out2", ".id", "..id.rows", "rows", "keys"])
def test_no_name_of_a_feature_clashes(name):
    table = Vocabulary.fit([pl.Series([7.5, 8])])
    ids = pl.Series([8.0, 7.5, 1])
    assert looked_up(pr.SparseFeature(name), table, ids).tolist() == [2, 1, 0]
    fixed = Vocabulary("identity", size=3)
    feature = pr.SequenceFeature(name, vocab_size=3, padding_idx=1)
    assert looked_up(feature, fixed, pl.Series([[0, 2, 5]])).tolist() == [[0, 2, 0]]


def test_names_inside_a_branch_are_changed_too():
    """A branch of a trunk of one's own is a graph in a node, which reads values from outside."""
    value = helper.make_tensor_value_info

    def branch(operation):
        node = helper.make_node(operation, ["input_0"], ["a"], doc_string="/home/me/trunk.py")
        return helper.make_graph([node], "b", [], [value("a", TensorProto.FLOAT, [2])])

    node = helper.make_node(
        "If", ["input_1"], ["result"], then_branch=branch("Neg"), else_branch=branch("Abs")
    )
    model = helper.make_model(
        helper.make_graph([node], "g", [value("input_0", TensorProto.FLOAT, [2]),
                                        value("input_1", TensorProto.BOOL, [])],
                          [value("result", TensorProto.FLOAT, [2])]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    graph.named(model, ["x", "a"], ["y"])
    onnx.checker.check_model(model, full_check=True)
    assert b"/home/me" not in model.SerializeToString()
    session = Session(model.SerializeToString())
    assert (session.inputs, session.outputs) == (("x", "a"), ("y",))
    feeds = {"x": np.array([1, -2], np.float32), "a": np.array(True)}
    assert session.run(feeds)["y"].tolist() == [-1, 2]
