"""The numbers behind the charts, against scikit-learn and our own metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from polyrank.metrics.binary import auc, ece
from polyrank.report import curves


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(0)
    p = generator.beta(1, 20, 20_000)
    return (generator.random(len(p)) < p).astype(float), p, generator.random(len(p)) + 0.2


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_gap_of_the_bins_is_the_ece(log, weighted):
    label, p, weight = log[0], log[1].round(2), log[2] if weighted else None
    found = curves.reliability(label, p, weight)
    gap = np.average(np.abs(found.prediction - found.observed), weights=found.weight)
    assert gap == pytest.approx(ece(label, p, weight), rel=1e-9)
    assert found.rows.sum() == len(p)
    assert found.positives.sum() == label.sum()


def test_bins_hold_equal_counts(log):
    found = curves.reliability(log[0], log[1])
    assert len(found.rows) == 15
    assert np.ptp(found.rows) <= 1
    assert (np.diff(found.prediction) > 0).all()


def test_the_interval_is_wilsons():
    label = np.array([1.0] * 3 + [0.0] * 37)
    found = curves.reliability(label, np.full(40, 0.1))
    # closed form for 3 of 40
    assert found.low[0] == pytest.approx(0.0258, abs=1e-4)
    assert found.high[0] == pytest.approx(0.1986, abs=1e-4)


def test_equal_weights_give_the_interval_of_the_rows(log):
    plain = curves.reliability(log[0], log[1])
    weighted = curves.reliability(log[0], log[1], np.full(len(log[0]), 0.3))
    np.testing.assert_allclose(weighted.low, plain.low, rtol=1e-9, atol=1e-12)


def test_a_roc_curve_with_few_points_is_scikit_learns(log):
    label, p = log[0][:200], log[1][:200].round(2)
    false, true, _ = sklearn_metrics.roc_curve(label, p, drop_intermediate=False)
    ours = curves.roc(label, p)
    np.testing.assert_allclose(ours[0], false, atol=1e-12)
    np.testing.assert_allclose(ours[1], true, atol=1e-12)


def test_a_thinned_roc_curve_is_short_and_has_nearly_the_area(log):
    label, p, weight = log
    false, true = curves.roc(label, p, weight)
    assert len(false) <= curves.MOST_POINTS
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, pytest.approx(1), pytest.approx(1))
    assert sklearn_metrics.auc(false, true) == pytest.approx(auc(label, p, weight), abs=2e-3)


def test_a_precision_recall_curve_is_scikit_learns(log):
    label, p = log[0][:200], log[1][:200].round(2)
    precision, recall, _ = sklearn_metrics.precision_recall_curve(label, p)
    ours_recall, ours_precision = curves.precision_recall(label, p)
    np.testing.assert_allclose(ours_recall[::-1], recall[:-1], atol=1e-12)
    np.testing.assert_allclose(ours_precision[::-1], precision[:-1], atol=1e-12)


def test_a_thinned_precision_recall_curve_lies_on_the_full_one(log):
    label, p, _ = log
    precision, recall, _ = sklearn_metrics.precision_recall_curve(label, p)
    points = set(zip(recall.round(10), precision.round(10), strict=True))
    ours = list(zip(*(each.round(10) for each in curves.precision_recall(label, p)), strict=True))
    assert len(ours) <= curves.MOST_POINTS
    assert set(ours) <= points


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_histogram_counts_every_row_once(log, logarithmic):
    label, p, _ = log
    found = curves.histogram(label, np.append(p[1:], 0.0), logarithmic=logarithmic)
    assert found.negatives.sum() == (label == 0).sum()
    assert found.positives.sum() == (label == 1).sum()
    widths = np.diff(np.log(found.edges) if logarithmic else found.edges)
    np.testing.assert_allclose(widths, widths[0], rtol=1e-6)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_prediction_has_one_bin(value, logarithmic):
    found = curves.histogram([0, 1, 1], [value] * 3, logarithmic=logarithmic)
    assert (found.negatives.sum(), found.positives.sum()) == (1, 2)


def test_agreement_is_on_the_diagonal_where_the_estimate_is_the_truth(log):
    found = curves.agreement(log[1], log[1])
    np.testing.assert_allclose(found.truth, found.estimate)
    assert (found.low <= found.truth).all()
    assert (found.truth <= found.high).all()


def test_groups_have_their_means_and_those_without_rows_are_left_out():
    label, p, weight = np.array([1.0, 3, 5, 9]), np.array([2.0, 2, 4, 4]), np.array([1.0, 3, 1, 0])
    found = curves.by_group(label, p, np.array([0, 0, 2, 2]), ["unknown", "≤ 1", "> 1"], weight)
    assert found.names == ("unknown", "> 1")
    np.testing.assert_allclose(found.observed, [2.5, 5])
    np.testing.assert_allclose(found.predicted, [2, 4])
    assert found.rows.tolist() == [2, 1]
    assert (found.low <= found.high).all()
    assert found.high[1] == 5  # the row of weight 0 is not there


def test_residuals_count_every_row_once_and_keep_their_mean(log):
    label, p, weight = log
    found = curves.residuals(label, p, weight)
    assert found.rows.sum() == len(p)
    assert found.mean == pytest.approx(np.average(label - p, weights=weight))
    assert curves.residuals([1.0, 1.0], [0.5, 0.5]).rows.sum() == 2


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=60))
def test_curves_rise_and_bins_are_within_their_intervals(rows):
    label = np.array([float(each) for each, _ in rows])
    p = np.array([each for _, each in rows])
    found = curves.reliability(label, p, bins=4)
    assert (found.low <= found.observed + 1e-12).all()
    assert (found.observed <= found.high + 1e-12).all()
    if 0 < label.sum() < len(label):
        for x, y in (curves.roc(label, p, points=10),):
            assert (np.diff(x) >= 0).all()
            assert (np.diff(y) >= 0).all()
            assert len(x) <= 10
