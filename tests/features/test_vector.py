"""Vectors: their encoding against scikit-learn, every message, and the whole way of a bundle."""

import json
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from tests.numerics import assert_close

import polyrank as pr
from polyrank.config import Experiment
from polyrank.data.check import check
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError, SchemaError
from polyrank.features.vector import VectorEncoding, vectors_of
from polyrank.serve.app import scorer
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.export.write import export

VALUES = np.random.default_rng(0).normal(2, [1, 5, 0.1, 3], (300, 4)).astype(np.float32)


def column(values, **dtype):
    return pl.Series("image", values, **dtype)


def encoded(values, components=None):
    feature = pr.VectorFeature("image", components=components)
    found = feature.codec({}, feature.fit(column(values)))
    return found, found.place(found.read(column(values)).values)["image"]


def test_numbers_are_standardised_on_training_rows():
    _, found = encoded(VALUES.tolist())
    assert_close(found, StandardScaler().fit_transform(VALUES.astype(float)), 300)


@pytest.mark.parametrize("components", [1, 3, 4])
def test_components_are_the_principal_ones_of_deviation_1(components):
    mixed = VALUES @ np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    codec, found = encoded(mixed.tolist(), components)
    standard = StandardScaler().fit_transform(mixed.astype(float))
    expected = PCA(components, whiten=True, svd_solver="full").fit_transform(standard)
    expected *= np.sqrt(300 / 299)  # scikit-learn divides by N − 1
    assert found.shape == (300, components)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, rtol=1e-3, atol=2e-4)
    for axis in np.array(codec.encoding.components):
        assert axis[np.abs(axis).argmax()] > 0


def test_a_missing_vector_is_the_mean_with_an_indicator_if_training_has_one():
    rows = [*VALUES[:9].tolist(), None]
    codec, found = encoded(rows)
    assert codec.columns == {"image": 5}
    assert found[-1].tolist() == [0, 0, 0, 0, 1]
    assert not found[:-1, -1].any()
    whole, _ = encoded(VALUES.tolist())
    read_back = whole.read(column([None, VALUES[0].tolist()]))
    assert read_back.nulls == 1
    assert whole.place(read_back.values)["image"][0].tolist() == [0, 0, 0, 0]


def test_a_constant_number_and_a_component_without_spread_are_0():
    rows = np.column_stack([VALUES[:, 0], VALUES[:, 0] * 2, np.full(300, 7.0)])
    _, found = encoded(rows.tolist(), 3)
    assert_close(found[:, 0].std(), np.float32(1), 300)
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-5)


@given(st.permutations(range(12)))
def test_the_fit_does_not_depend_on_the_order_of_rows(order):
    one, two = (VectorEncoding.fit(VALUES[:12][each]) for each in (list(range(12)), order))
    assert one == two


@pytest.mark.parametrize("dtype", [pl.List(pl.Float32), pl.Array(pl.Float64, 4)])
def test_lists_arrays_and_matrices_are_alike(dtype):
    expected = vectors_of(column(VALUES.tolist()))
    assert np.array_equal(vectors_of(column(VALUES.tolist(), dtype=dtype)), expected)
    frame = read({"image": VALUES}).collect()
    assert np.array_equal(vectors_of(frame["image"]), expected)
    assert np.array_equal(vectors_of(column([[1, 2], [3, 4]])), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [[1.0, 2.0], None, [1.0], [1.0, 2.0, 3.0]],
            "'image' must have vectors of one length, 2 as the first has, but 2 of 3 have another, "
            "the first in row 2 with 1 numbers",
        ),
        (
            [[1.0, 2.0], None, [1.0, float("nan")], [None, 2.0]],
            "'image' must hold finite numbers of 32 bits, but 2 of 3 vectors have null, NaN or "
            "what is too large, the first in row 2",
        ),
        ([[1.0, 2.0], [float("inf"), 0.0]], "1 of 2 vectors have null, NaN or what is too large"),
        ([[1.0, 2.0], [1e39, 0.0]], "1 of 2 vectors have null, NaN or what is too large"),
        ([[], []], "'image' has vectors without numbers: write null for a missing one"),
        (["a", "b"], "'image' must be a column of lists of numbers, got String"),
        ([["a"], ["b"]], "'image' must be a column of lists of numbers, got List"),
        ([1.0, 2.0], "'image' must be a column of lists of numbers, got Float64"),
        ([None, None], "'image' has no vector in training: leave the feature out"),
    ],
)
def test_a_column_that_holds_no_vectors_is_refused(rows, message):
    with pytest.raises(DataError, match=re.escape(message)):
        encoded(rows)


def test_a_vector_of_another_length_than_in_training_is_refused():
    codec, _ = encoded(VALUES.tolist())
    with pytest.raises(DataError, match=r"4 as in training, but 1 of 1 have another"):
        codec.read(column([[1.0, 2.0]]))


def test_more_components_than_numbers_are_refused():
    with pytest.raises(DataError, match=r"vectors of 4 numbers, which have no 5 components"):
        encoded(VALUES.tolist(), 5)
    with pytest.raises(SchemaError, match=r"'image': components must be a whole number of at le"):
        pr.VectorFeature("image", components=0)


def test_plain_values_are_read_as_a_column_is():
    codec, _ = encoded(VALUES.tolist())
    some = [[1, 2.5, 3, 4], [0.1, -7.0, 1e20, 2]]
    found, expected = codec.read_values(some), codec.read(column(some, strict=False))
    assert np.array_equal(found.values, expected.values)
    for other in ([None], [[1.0]], [[1.0, 2.0, None, 3.0]], [[True, 1.0, 2.0, 3.0]],
                  [[1e39, 0.0, 0.0, 0.0]], [[float("nan"), 0.0, 0.0, 0.0]], ["abcd"],
                  [[10**400, 1, 1, 1]]):  # fmt: skip
        assert codec.read_values(other) is None


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(2)
    image = generator.normal(size=(400, 3))
    click = (generator.random(400) < 1 / (1 + np.exp(-3 * image[:, 0]))).astype(int)
    return pl.DataFrame(
        {
            "item": generator.integers(0, 20, 400),
            "image": [None if at % 9 == 4 else each for at, each in enumerate(image.tolist())],
            "click": click,
        }
    )


def fitted(log, components=None, **options):
    features = [pr.SparseFeature("item"), pr.VectorFeature("image", components=components)]
    schema = pr.Schema(features, [pr.Task("click")])
    model = pr.Model(trunk=pr.SharedBottom(hidden=[8]), tower=[4], embed_dim=4, wide=False)
    return pr.fit(schema, model, train=log, valid=log, epochs=8, batch_size=50, lr=0.02, **options)


@pytest.mark.slow
@pytest.mark.parametrize("components", [None, 2])
def test_it_goes_the_whole_way_of_a_bundle(log, components, tmp_path, monkeypatch):
    bundle = fitted(log, components)
    auc = bundle.evaluate(log)["click @ all"].metrics["auc"]["value"]
    assert auc > (0.75 if components is None else 0.6)  # the answer is in the vector
    bundle.save(tmp_path / "bundle")
    loaded = pr.load(tmp_path / "bundle")
    assert loaded.predict(log).equals(bundle.predict(log))
    export(bundle, tmp_path / "bundle", [log], vocabulary=True)
    engine = pr.Engine(tmp_path / "bundle")
    expected = bundle.predict(log)["p_click"].to_numpy()
    np.testing.assert_allclose(engine.predict(log)["p_click"].to_numpy(), expected, atol=1e-6)
    lists = {name: log[name].to_list() for name in engine.inputs}
    found = engine.predict_columns(lists).outputs["p_click"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # One vector for all rows of a request, as the context has it.
    shared = {"image": lists["image"][0]}
    one = engine.predict_columns({"item": lists["item"]}, shared).outputs["p_click"]
    same = engine.predict_columns({**lists, "image": [shared["image"]] * len(log)})
    np.testing.assert_array_equal(one, same.outputs["p_click"])
    example = {name: codec.example for name, codec in engine.codecs.items()}
    assert Scorer(engine, 10)(json.dumps({"rows": [example]}).encode()).rows == 1
    monkeypatch.setattr(scorer, "MOST_IDS", 1)  # of a list of ids, which a vector is not
    body = {"context": {"image": example["image"]}, "candidates": [{"item": 1}] * 10}
    assert Scorer(engine, 10)(json.dumps(body).encode()).rows == 10
    with pytest.raises(DataError, match="3 as in training, but 1 of 1 have another"):
        engine.predict({"item": [1], "image": [[1.0]]})


def test_an_experiments_file_trains_from_memory_and_from_a_window(log, tmp_path):
    log.write_parquet(tmp_path / "log.parquet")
    text = """
    [data]
    train = "log.parquet"
    [features]
    sparse = ["item"]
    vector = ["image"]
    [features.image]
    components = 2
    [[task]]
    name = "click"
    [model]
    wide = false
    tower = [4]
    [train]
    epochs = 1
    """
    experiment = Experiment.from_text(text, folder=tmp_path)
    assert experiment.schema.features[1] == pr.VectorFeature("image", components=2)
    assert Experiment.from_text(experiment.to_toml()) == experiment
    first = experiment.fit(out=tmp_path / "run")
    again = experiment.fit(out=tmp_path / "run", force=True)  # from the cache
    assert again.predict(log).equals(first.predict(log))


def test_the_audit_knows_a_vector_by_its_length(log):
    schema = pr.Schema([pr.SparseFeature("item"), pr.VectorFeature("image")], [pr.Task("click")])
    audit = check(schema, {"train": log, "valid": log.with_columns(image=pl.lit([9.0] * 3))})
    drifted = [each for each in audit.findings if each.column == "image"]
    assert {each.check for each in drifted} >= {"drift"}
    unequal = log.with_columns(image=pl.Series([[1.0, 2.0], *[[9.0]] * 399]))
    (error,) = (
        each for each in check(schema, {"train": unequal}).findings if each.column == "image"
    )
    assert "must have vectors of one length" in error.message


def test_vectors_are_of_the_rows_and_no_shared_lists(log):
    schema = pr.Schema([pr.SparseFeature("item"), pr.VectorFeature("image")], [pr.Task("click")])
    rows = log.drop("image").with_columns(key=pl.int_range(len(log)) % 5)
    shared = pl.DataFrame({"key": range(5), "image": [[1.0, 2.0]] * 5})
    with pytest.raises(DataError, match="a vector feature has one value a row: write it into th"):
        pr.fit(schema, pr.Model(), train=pr.Joined(rows, shared, "key"), epochs=1)


def test_vectors_are_columns_of_dense(log):
    schema = pr.Schema([pr.VectorFeature("image"), pr.DenseFeature("item")], [pr.Task("click")])
    assert [each.name for each in schema.features] == ["item", "image"]
    vocab = Vocab.fit(log, schema)
    table = encode(read(log), schema, vocab)
    assert table.columns()["image"].shape == (400, 4)
    assert table.nulls["image"] == log["image"].null_count()
