"""Partial dependence against scikit-learn and a plain loop, and what it must refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.inspection import partial_dependence

import polyrank as pr
from polyrank.inspection.dependence import bands, grid_of

SIZE = 300


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(4)
    age = np.where(generator.random(SIZE) < 0.1, np.nan, generator.integers(18, 60, SIZE))
    price = generator.lognormal(size=SIZE).astype(np.float32)
    item = generator.integers(0, 5, SIZE)
    return {
        "item": item,
        "age": age,
        "price": price,
        "fixed": np.ones(SIZE),
        "empty": np.full(SIZE, np.nan),
        "click": (generator.random(SIZE) < 1 / (1 + price)).astype(int),
    }


@pytest.fixture(scope="module")
def bundle(rows):
    train = {**rows, "empty": np.arange(SIZE, dtype=float)}
    schema = pr.Schema(
        [
            pr.SparseFeature("item"),
            pr.DenseFeature("age", encoding="bins", bins=5),
            pr.DenseFeature("price", encoding="piecewise_linear", bins=4),
            pr.DenseFeature("empty"),
            pr.DenseFeature("fixed", serving=1.0),
        ],
        [pr.Task("click")],
    )
    return pr.fit(schema, pr.Model(embed_dim=4), train=train, valid=train, epochs=2, seed=1)


class Fitted(RegressorMixin, BaseEstimator):
    """The bundle's click, as scikit-learn asks for it."""

    def __init__(self, bundle=None, rows=None):
        self.bundle, self.rows, self.fitted_ = bundle, rows, True

    def fit(self, x, y):
        return self

    def predict(self, x):
        named = {"item": x[:, 0].astype(int), "age": x[:, 1], "price": x[:, 2].astype(np.float32)}
        return self.bundle.predict({**self.rows, **named})["p_click"].to_numpy()


@pytest.mark.parametrize(("feature", "index"), [("age", 1), ("price", 2)])
def test_curves_and_bands_are_those_of_scikit_learns_single_rows(bundle, rows, feature, index):
    found = bundle.dependence(rows, [feature], points=7)
    assert found["output"].unique().to_list() == ["p_click"]
    x = np.column_stack([rows["item"], rows["age"], rows["price"]]).astype(np.float64)
    grid = found["value"].to_numpy()
    reference = partial_dependence(
        Fitted(bundle, rows), x, [index], kind="both", custom_values={index: grid}
    )
    assert np.allclose(found["mean"], reference["average"][0], atol=2e-6)
    single = reference["individual"][0]
    moved = single - single.mean(1, keepdims=True) + single.mean()
    low, high = np.quantile(moved, [0.1, 0.9], axis=0)
    assert np.allclose(found["low"], low, atol=4e-6)
    assert np.allclose(found["high"], high, atol=4e-6)


def test_all_numbers_are_taken_but_what_is_served_or_has_no_value(bundle, rows):
    found = bundle.dependence(rows, points=3)
    assert found["feature"].unique(maintain_order=True).to_list() == ["age", "price"]
    assert found.columns == ["feature", "output", "value", "mean", "low", "high"]


def test_rows_are_drawn_where_there_are_many(bundle, rows):
    one, two = (bundle.dependence(rows, ["price"], most_rows=50, seed=s) for s in (1, 2))
    assert one["value"].equals(two["value"])  # the grid is of all rows
    assert not one["mean"].equals(two["mean"])


def test_a_row_of_weight_0_is_no_row(bundle, rows):
    table = bundle.encode(rows, split="test")
    curves = np.array([[0.0, 1.0], [5.0, 9.0]])
    average, low, high = bands(curves, np.array([2.0, 0.0]))
    assert average.tolist() == low.tolist() == high.tolist() == [0.0, 1.0]
    assert table.weight is None


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=4), st.integers(1, 6))
def test_a_number_that_moves_all_rows_alike_has_a_band_without_width(effect, count):
    levels = np.arange(count, dtype=float)
    average, low, high = bands(levels[:, None] + np.array(effect, float), None)
    assert np.allclose(low, average)
    assert np.allclose(high, average)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.integers(2, 30))
def test_a_grid_has_observed_values_in_order(values, points):
    grid = grid_of(np.array(values, dtype=np.float32), points)
    assert set(grid.tolist()) <= set(np.array(values, dtype=np.float32).tolist())
    assert 1 <= len(grid) <= points
    assert (np.diff(grid) > 0).all()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["item"], "'item' is a sparse feature; known numbers: age, price, empty"),
        (["prise"], "unknown feature 'prise'; did you mean 'price'"),
        (["fixed"], "feature 'fixed' is set at prediction: its column is not read"),
        ("price", r"features must be a list such as \['price'\], got 'price'"),
    ],
)
def test_what_is_no_number_is_refused(bundle, rows, features, message):
    with pytest.raises(pr.ConfigError, match=message):
        bundle.dependence(rows, features)


def test_a_number_without_a_value_is_refused_by_name(bundle, rows):
    with pytest.raises(pr.DataError, match="feature 'empty' has no value in these rows"):
        bundle.dependence(rows, ["empty"])


def test_counts_are_refused(bundle, rows):
    with pytest.raises(pr.ConfigError, match="points must be a whole number of at least 2, got 1"):
        bundle.dependence(rows, ["price"], points=1)
