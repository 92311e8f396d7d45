"""Regression metrics against scikit-learn and their own invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from polyrank.errors import DataError
from polyrank.metrics.regression import bias, mae, r2, rmse
from polyrank.metrics.undefined import Undefined

ALL = [rmse, mae, r2, bias]
CLOSE = {"rel": 1e-9, "abs": 1e-9}


@st.composite
def rows(draw):
    """Labels of at least two values, predictions and positive weights."""
    count = draw(st.integers(2, 40))
    column = lambda values: np.array(draw(st.lists(values, min_size=count, max_size=count)))  # noqa: E731
    label = column(st.integers(-100, 100)).astype(float)
    label[:2] = [0, 150]
    return label, column(st.floats(-1e3, 1e3)), column(st.floats(0.01, 100))


@given(rows())
def test_metrics_equal_scikit_learn(data):
    label, prediction, weight = data
    for w in (None, weight):
        for ours, theirs in [
            (rmse, reference.root_mean_squared_error),
            (mae, reference.mean_absolute_error),
            (r2, reference.r2_score),
        ]:
            expected = theirs(label, prediction, sample_weight=w)
            assert ours(label, prediction, w) == pytest.approx(expected, **CLOSE)
        expected = np.average(prediction, weights=w) - np.average(label, weights=w)
        assert bias(label, prediction, w) == pytest.approx(expected, **CLOSE)


@given(rows(), st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_an_integer_weight_is_a_repeated_row(data, times):
    label, prediction, _ = data
    times = np.array(times)[: len(label)]
    times[:2] += 1
    again = np.repeat(np.arange(len(label)), times)
    for metric in ALL:
        repeated = metric(label[again], prediction[again])
        assert metric(label, prediction, times) == pytest.approx(repeated, **CLOSE)


@given(rows(), st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(data, random):
    label, prediction, weight = data
    order = np.arange(len(label))
    random.shuffle(order)
    for metric in ALL:
        permuted = metric(label[order], prediction[order], weight[order])
        assert permuted == pytest.approx(metric(label, prediction, weight), **CLOSE)


def test_equal_labels_have_no_variance():
    with pytest.raises(Undefined, match=r"^zero variance: the label is 0\.1 in all 12 rows$"):
        r2(np.full(12, 0.1), np.linspace(0, 1, 12))
    with pytest.raises(Undefined, match=r"^zero variance: the label is 3 in all 1 row$"):
        r2([3], [3])
    with pytest.raises(Undefined, match=r"^zero variance: the label is 3 in all 2 rows$"):
        r2([3, 3, 4], [3, 3, 3], [1, 1, 0])


def test_a_variance_below_float64_is_none():
    message = r"^zero variance: the labels differ by too little for float64$"
    with pytest.raises(Undefined, match=message):
        r2([0, 1e-300], [1, 1])
    with pytest.raises(Undefined, match=message):
        r2([0, 1e-150], [1e10, 1e10])


def test_the_largest_values_stay_finite():
    label, prediction = np.array([1e140, -1e140]), np.array([-1e140, 1e140])
    for metric in ALL:
        assert np.isfinite(metric(label, prediction, [1e140, 1e10]))
        assert isinstance(metric(label, prediction), float)


def test_no_rows_are_undefined():
    for metric in ALL:
        with pytest.raises(Undefined, match=r"^no rows$"):
            metric([], [])
        with pytest.raises(Undefined, match=r"^no rows of weight above 0$"):
            metric([1, 2], [1, 2], [0, 0])


def test_values_that_are_no_numbers_are_refused():
    for metric in ALL:
        with pytest.raises(DataError, match="label: 1 of 2 values are NaN, infinite or beyond"):
            metric([np.nan, 1], [1, 1])
        with pytest.raises(DataError, match="prediction: 1 of 2 values are NaN, infinite or"):
            metric([1, 1], [1, 1e150])
