"""Platt scaling against scikit-learn, and where it has no answer."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from polyrank.calibration.platt import FLATTEST, Platt


def drawn(seed, rows=3_000, slope=0.6, intercept=-2.5, center=3.0):
    rng = np.random.default_rng(seed)
    logit = rng.normal(center, 2.0, rows)
    p = 1 / (1 + np.exp(-(slope * logit + intercept)))
    return logit, (rng.random(rows) < p).astype(float), rng.exponential(size=rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("center", [0.0, 3.0, -300.0])
def test_it_is_logistic_regression_on_the_logit(weighted, center):
    logit, label, weight = drawn(3, center=3.0)
    logit = logit + center
    w = weight if weighted else None
    # the oracle sees the logit near 0: its own solver is not exact far from there
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1_000)
    oracle.fit((logit - center)[:, None], label, sample_weight=w)
    found = Platt.fit(logit, label, w)
    slope = oracle.coef_[0, 0]
    np.testing.assert_allclose(found.slope, slope, rtol=1e-5)
    np.testing.assert_allclose(found.intercept, oracle.intercept_[0] - slope * center, rtol=1e-4)


def test_the_mean_prediction_is_the_mean_label():
    logit, label, weight = drawn(4)
    p = 1 / (1 + np.exp(-Platt.fit(logit, label, weight).apply(logit)))
    assert weight @ p == pytest.approx(weight @ label, rel=1e-12)


def test_a_start_far_away_still_finds_it():
    logit, label, _ = drawn(5)
    near, far = Platt.fit(logit, label), Platt.fit(1e4 * logit - 7e4, label)
    assert far.slope * 1e4 == pytest.approx(near.slope, rel=1e-6)
    assert far.intercept - far.slope * 7e4 == pytest.approx(near.intercept, rel=1e-6)


def test_a_weight_of_two_is_the_row_twice():
    logit, label, _ = drawn(6, rows=400)
    twice = np.arange(400) % 2 == 0
    weighted = Platt.fit(logit, label, 1.0 + twice)
    repeated = Platt.fit(*(np.concatenate([each, each[twice]]) for each in (logit, label)))
    assert weighted.slope == pytest.approx(repeated.slope, rel=1e-9)


def test_equal_logits_are_moved_to_the_rate():
    found = Platt.fit(np.full(10, 3.0), np.array([1.0] * 2 + [0.0] * 8))
    assert found.slope == 1
    assert found.apply(np.array([3.0]))[0] == pytest.approx(np.log(0.25))


@pytest.mark.parametrize(
    ("logit", "label"),
    [
        ([0.0, 1.0, 2.0], [1, 1, 1]),  # one label
        ([], []),
        ([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]),  # separated: the slope has no end
        ([0.0, 1.0, 1.0, 3.0], [0, 0, 1, 1]),  # but for a tie
    ],
)
def test_without_a_maximum_there_is_no_map(logit, label):
    assert Platt.fit(np.array(logit), np.array(label, dtype=float)) is None


@pytest.mark.parametrize("weighted", [False, True])
def test_a_logit_that_ranks_the_wrong_way_is_told_the_base_rate(weighted):
    logit, label, weight = drawn(7, slope=-0.2)
    w = weight if weighted else np.ones(len(logit))
    found = Platt.fit(logit, label, weight if weighted else None)
    center = np.average(logit, weights=w)
    spread = np.sqrt(np.average((logit - center) ** 2, weights=w))
    assert found.slope == pytest.approx(FLATTEST / spread)
    p = 1 / (1 + np.exp(-found.apply(logit)))
    assert w @ p == pytest.approx(w @ label, rel=1e-12)
    assert (np.diff(p[np.argsort(logit)]) > 0).all()  # the order is kept
    assert np.ptp(p) < 0.1
