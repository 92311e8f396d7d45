"""Binary metrics against scikit-learn, plain loops and their own invariances."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as reference

from polyrank.errors import DataError
from polyrank.metrics.binary import (
    auc,
    ece,
    gauc,
    log_loss,
    ne,
    pcoc,
    pr_auc,
    soft_auc,
)
from polyrank.metrics.undefined import Undefined

ALL = [auc, pr_auc, log_loss, ne, pcoc, ece]
CLOSE = {"rel": 1e-9, "abs": 1e-9}


@st.composite
def rows(draw, *, both=True):
    """Labels, predictions with many ties, positive weights and users of a handful of rows."""
    count = draw(st.integers(2, 60))
    column = lambda values: np.array(draw(st.lists(values, min_size=count, max_size=count)))  # noqa: E731
    label = column(st.integers(0, 1)).astype(float)
    if both:
        label[:2] = [0, 1]
    few = st.sampled_from([0.0, 1e-30, 0.1, 0.25, 0.3, 0.5, 1 - 1e-12, 1.0])
    prediction = column(st.one_of(few, st.floats(0, 1)))
    weight = column(st.one_of(st.integers(1, 4), st.floats(1e-3, 1e3))).astype(float)
    return label, prediction, weight, column(st.integers(0, 5))


def plain_grouped_auc(label, prediction, user, weight):
    """Return the definition, one user at a time."""
    areas, masses = [], []
    for each in np.unique(user):
        mine = user == each
        if len(np.unique(label[mine])) == 2:
            areas.append(
                reference.roc_auc_score(label[mine], prediction[mine], sample_weight=weight[mine])
            )
            masses.append(weight[mine].sum())
    return np.average(areas, weights=masses)


@given(rows())
def test_auc_equals_scikit_learn(data):
    label, prediction, weight, _ = data
    assert auc(label, prediction) == pytest.approx(
        reference.roc_auc_score(label, prediction), **CLOSE
    )
    assert auc(label, prediction, weight) == pytest.approx(
        reference.roc_auc_score(label, prediction, sample_weight=weight), **CLOSE
    )


@given(rows())
def test_average_precision_equals_scikit_learn(data):
    label, prediction, weight, _ = data
    assert pr_auc(label, prediction) == pytest.approx(
        reference.average_precision_score(label, prediction), **CLOSE
    )
    assert pr_auc(label, prediction, weight) == pytest.approx(
        reference.average_precision_score(label, prediction, sample_weight=weight), **CLOSE
    )


@given(rows(both=False))
def test_log_loss_equals_scikit_learn(data):
    label, prediction, weight, _ = data
    assert log_loss(label, prediction) == pytest.approx(
        reference.log_loss(label, prediction, labels=[0, 1]), **CLOSE
    )
    assert log_loss(label, prediction, weight) == pytest.approx(
        reference.log_loss(label, prediction, labels=[0, 1], sample_weight=weight), **CLOSE
    )


@pytest.mark.parametrize("rate", [0.01, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_many_rows_equal_scikit_learn(rate, weighted):
    random = np.random.default_rng(0)
    prediction = random.random(20_000).round(3)
    label = (random.random(20_000) < 2 * rate * prediction).astype(float)
    weight = random.exponential(size=20_000) if weighted else None
    for ours, theirs in [
        (auc, reference.roc_auc_score),
        (pr_auc, reference.average_precision_score),
        (log_loss, reference.log_loss),
    ]:
        expected = theirs(label, prediction, sample_weight=weight)
        assert ours(label, prediction, weight) == pytest.approx(expected, **CLOSE)


@given(rows())
def test_grouped_auc_equals_a_loop_over_users(data):
    label, prediction, weight, user = data
    user[:2] = 0
    ones = np.ones(len(label))
    assert gauc(label, prediction, key=user) == pytest.approx(
        plain_grouped_auc(label, prediction, user, ones), **CLOSE
    )
    assert gauc(label, prediction, weight, key=user) == pytest.approx(
        plain_grouped_auc(label, prediction, user, weight), **CLOSE
    )


@pytest.mark.slow
def test_grouped_auc_of_thousands_of_users_with_weights_of_every_size():
    random = np.random.default_rng(1)
    user = random.integers(0, 3_000, 20_000)
    prediction = random.random(20_000).round(2)
    label = (random.random(20_000) < 0.3).astype(float)
    weight = random.random(20_000) * 10.0 ** random.integers(-6, 6, 3_000)[user]
    assert gauc(label, prediction, weight, key=user) == pytest.approx(
        plain_grouped_auc(label, prediction, user, weight), **CLOSE
    )


@given(rows())
def test_grouped_auc_of_one_user_is_the_auc(data):
    label, prediction, weight, _ = data
    user = np.full(len(label), "ann")
    assert gauc(label, prediction, weight, key=user) == pytest.approx(
        auc(label, prediction, weight), **CLOSE
    )


@given(rows(), st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(data, random):
    label, prediction, weight, user = data
    user[:2] = 0
    order = np.arange(len(label))
    random.shuffle(order)
    for metric in ALL:
        for w in (None, weight):
            permuted = metric(label[order], prediction[order], None if w is None else w[order])
            assert permuted == pytest.approx(metric(label, prediction, w), **CLOSE)
    assert gauc(label[order], prediction[order], weight[order], key=user[order]) == (
        pytest.approx(gauc(label, prediction, weight, key=user), **CLOSE)
    )


@pytest.mark.slow
@given(rows(), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_an_integer_weight_is_a_repeated_row(data, times):
    label, prediction, _, user = data
    times = np.array(times)[: len(label)]
    times[:2] += 1
    user[:2] = 0
    again = np.repeat(np.arange(len(label)), times)
    for metric in ALL:
        repeated = metric(label[again], prediction[again])
        assert metric(label, prediction, times) == pytest.approx(repeated, **CLOSE)
    assert gauc(label, prediction, times, key=user) == pytest.approx(
        gauc(label[again], prediction[again], key=user[again]), **CLOSE
    )


@given(rows(), st.sampled_from([1e-120, 3.7, 1e130]))
def test_the_unit_of_the_weights_cancels(data, unit):
    label, prediction, weight, _ = data
    for metric in ALL:
        expected = metric(label, prediction, weight)
        assert metric(label, prediction, unit * weight) == pytest.approx(expected, **CLOSE)


@given(rows())
def test_extreme_weights_never_leave_float64(data):
    label, prediction, weight, user = data
    weight = weight * 10.0 ** (-100 * (np.arange(len(weight)) % 4))
    user[:2] = 0
    label[-1] = 1
    for metric in ALL:
        try:
            value = metric(label, prediction, weight)
        except Undefined:
            continue  # one class has no weight beside the other
        assert np.isfinite(value)
        assert isinstance(value, float)


@given(rows())
def test_auc_of_negated_scores_is_the_complement(data):
    label, prediction, weight, _ = data
    expected = 1 - auc(label, prediction, weight)
    assert auc(label, -prediction, weight) == pytest.approx(expected, **CLOSE)


@given(rows())
def test_soft_auc_of_labels_is_the_auc(data):
    label, prediction, weight, _ = data
    assert soft_auc(label, prediction) == pytest.approx(auc(label, prediction), **CLOSE)
    assert soft_auc(label, prediction, weight) == pytest.approx(
        auc(label, prediction, weight), **CLOSE
    )


@given(rows(), st.lists(st.floats(0.01, 0.99), min_size=60, max_size=60))
def test_soft_auc_is_the_auc_of_each_row_as_both_classes(data, p_true):
    _, prediction, weight, _ = data
    p = np.array(p_true)[: len(prediction)]
    label = np.repeat([1, 0], len(p))
    both = auc(label, np.tile(prediction, 2), np.concatenate([weight * p, weight * (1 - p)]))
    assert soft_auc(p, prediction, weight) == pytest.approx(both, **CLOSE)
    assert soft_auc(p, p) >= soft_auc(p, prediction) - 1e-12


@given(rows())
def test_normalized_entropy_of_the_base_rate_is_one(data):
    label, _, weight, _ = data
    base = np.full(len(label), np.average(label, weights=weight))
    assume(1e-9 < base[0] < 1 - 1e-9)
    assert ne(label, base, weight) == pytest.approx(1, **CLOSE)


def test_normalized_entropy_divides_by_the_entropy_of_the_scored_rows():
    label, prediction = [1, 0, 0, 0], [0.4, 0.1, 0.2, 0.3]
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    expected = reference.log_loss(label, prediction) / entropy
    assert ne(label, prediction) == pytest.approx(expected)


def test_pcoc_is_weighted():
    expected = (3 * 0.5 + 0.1) / 3
    assert pcoc([1, 0], [0.5, 0.1], [3, 1]) == pytest.approx(expected)


def test_ece_of_distinct_predictions_has_fifteen_bins_of_equal_count():
    random = np.random.default_rng(2)
    prediction = random.permutation(np.linspace(0.01, 0.99, 45))
    label = (random.random(45) < 0.4).astype(float)
    order = np.argsort(prediction)
    gaps = (prediction - label)[order].reshape(15, 3).mean(axis=1)
    assert ece(label, prediction) == pytest.approx(np.abs(gaps).mean())


def test_ece_bins_do_not_depend_on_how_equal_weights_are_rounded():
    prediction = np.linspace(0.01, 0.99, 45)
    label = (np.arange(45) % 3 == 0).astype(float)
    expected = ece(label, prediction)
    assert ece(label, prediction, np.full(45, 0.1)) == pytest.approx(expected)


def test_ece_keeps_tied_predictions_in_one_bin():
    label = np.array([0.0, 1.0] * 50)
    assert ece(label, np.full(100, 0.5)) == 0
    assert ece(label[label.argsort()], np.full(100, 0.5)) == 0


def test_a_row_of_weight_zero_is_no_row():
    label, prediction, user = [0, 1, 0, 1], [0.1, 0.2, 0.9, 0.3], [1, 1, 1, 2]
    for metric in ALL:
        assert metric(label, prediction, [1, 1, 0, 1]) == pytest.approx(
            metric([0, 1, 1], [0.1, 0.2, 0.3])
        )
    assert gauc(label, prediction, [1, 1, 0, 1], key=user) == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_number_types_are_read(dtype):
    label = np.array([True, False, True, False])
    prediction = np.array([0.75, 0.25, 0.5, 0.5], dtype=dtype)
    assert auc(label, prediction) == 0.875
    assert auc(label.astype(np.int8), prediction, np.ones(4, dtype=dtype)) == 0.875


def test_one_class_is_undefined_with_the_count():
    for metric in (auc, pr_auc, ne):
        with pytest.raises(Undefined, match=r"^no negative among 12 rows$"):
            metric(np.ones(12), np.linspace(0, 1, 12))
        with pytest.raises(Undefined, match=r"^no positive among 1,200 rows$"):
            metric(np.zeros(1200), np.linspace(0, 1, 1200), np.ones(1200))
    with pytest.raises(Undefined, match=r"^no positive among 3 rows$"):
        pcoc([0, 0, 0], [0.1, 0.2, 0.3])
    with pytest.raises(Undefined, match=r"^no negative among 2 rows$"):
        auc([1, 1, 0], [0.1, 0.2, 0.3], [1, 2, 0])


def test_one_class_still_has_a_log_loss_and_a_calibration_error():
    assert log_loss([0, 0], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert ece([0, 0], [0.5, 0.5]) == 0.5
    assert pcoc([1, 1], [0.5, 0.5]) == 0.5


def test_no_rows_are_undefined():
    for metric in [*ALL, soft_auc]:
        with pytest.raises(Undefined, match=r"^no rows$"):
            metric([], [])
        with pytest.raises(Undefined, match=r"^no rows of weight above 0$"):
            metric([1, 0], [0.5, 0.5], [0, 0])
    with pytest.raises(Undefined, match=r"^no rows$"):
        gauc([], [], key=[])


def test_no_user_with_both_classes_is_undefined():
    with pytest.raises(Undefined, match=r"^no user with both classes among 4 rows$"):
        gauc([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], key=["a", "b", "a", "b"])


def test_rows_without_a_user_are_left_out_of_the_grouped_auc():
    user = ["a", "a", None, None]
    assert gauc([0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4], key=user) == 1.0


def test_a_certain_truth_is_undefined():
    with pytest.raises(Undefined, match=r"^the true probability is 0 in all 2 rows$"):
        soft_auc([0, 0], [0.1, 0.2])
    with pytest.raises(Undefined, match=r"^the true probability is 1 in all 2 rows$"):
        soft_auc([1, 1], [0.1, 0.2])


def test_other_labels_are_refused_with_their_values():
    with pytest.raises(DataError, match=r"binary labels are 0 or 1, got 2, 0\.5 in 3 rows"):
        auc([0, 1, 2, 0.5, 2], np.zeros(5))
    with pytest.raises(DataError, match=r"got 2, 3, 4, … in 5 rows"):
        auc([2, 3, 4, 5, 6], np.zeros(5))
    with pytest.raises(DataError, match="label: 1 of 2 values are NaN, infinite or beyond"):
        auc([0, np.nan], [0, 0])


def test_other_probabilities_are_refused_with_their_values():
    message = r"prediction: a probability lies within 0 and 1, got 1\.5 in 1 row"
    for metric in (log_loss, ne, ece):
        with pytest.raises(DataError, match=message):
            metric([0, 1], [0.5, 1.5])
    with pytest.raises(DataError, match="p_true: a probability lies within 0 and 1, got -1"):
        soft_auc([0.5, -1], [0.5, 0.5])
    assert auc([0, 1], [-3, 40]) == 1.0


def test_predictions_that_are_no_numbers_are_refused():
    message = r"prediction: 2 of 3 values are NaN, infinite or beyond 1e\+140"
    with pytest.raises(DataError, match=message):
        auc([0, 1, 1], [np.nan, 0.5, np.inf])


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(
        DataError, match=r"prediction: expected an array of shape \(2,\), got \(3,\)"
    ):
        auc([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(
        DataError, match=r"label: expected an array of shape \(rows,\), got \(2, 1\)"
    ):
        auc([[0], [1]], [0.1, 0.2])
    with pytest.raises(DataError, match=r"weight: expected an array of shape \(2,\), got \(1,\)"):
        auc([0, 1], [0.1, 0.2], [1])
    with pytest.raises(DataError, match=r"user: expected an array of shape \(2,\), got \(1,\)"):
        gauc([0, 1], [0.1, 0.2], key=[1])


def test_weights_below_zero_are_refused():
    with pytest.raises(DataError, match="weights are 0 or above, got -2 in 1 row"):
        auc([0, 1], [0.1, 0.2], [1, -2])
