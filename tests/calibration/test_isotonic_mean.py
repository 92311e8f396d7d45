"""Knots of means against scikit-learn's isotonic regression; an amount stays one."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from polyrank.calibration import IsotonicMean
from polyrank.calibration.fitting import Calibrator, calibrate
from polyrank.calibration.scale import SCALES
from polyrank.errors import ConfigError
from polyrank.labels import Count, LogNormal, Ordinal, Regression, WatchTime, WeightedLogistic

COUNT, NUMBER = Count(), Regression()


def counts(seed, rows=20_000):
    """Predictions that are too high by a factor that grows with them, and the counts."""
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(0, 0.7, rows)
    return 2 * mean**1.5, rng.poisson(mean).astype(float), mean


@given(st.integers(0, 10_000), st.integers(2, 300), st.booleans(), st.booleans())
@example(92, 92, True, False)  # two blocks whose means are equal but for rounding
def test_knots_are_the_blocks_of_scikit_learn(seed, rows, weighted, number):
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 40, rows) / 4
    y = rng.poisson(x).astype(float) + 1  # no block of zeros
    w = rng.integers(1, 5, rows).astype(float) if weighted else None
    found = IsotonicMean.fit(x, y, w, NUMBER if number else COUNT)
    if y.min() == y.max():
        assert found is None
        return
    fitted = IsotonicRegression().fit(x, y, sample_weight=w).predict(x)
    expected, place = np.unique(fitted.round(9), return_inverse=True)
    own = np.ones(rows) if w is None else w
    means = np.bincount(place, own * x) / np.bincount(place, own)
    knots = np.column_stack([found.x, found.y])[0 if number else 1 :]
    np.testing.assert_allclose(knots, np.column_stack([means, expected]), atol=1e-7)


@given(st.integers(0, 10_000), st.integers(3, 200))
def test_an_amount_stays_one_and_keeps_its_order(seed, rows):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.lognormal(size=rows)), rng.poisson(1.0, rows).astype(float)
    y[:2] = [0, 1]
    found = IsotonicMean.fit(x, y, None, COUNT)
    at = np.unique(np.concatenate([[0.0], x, [2 * x.max()]]))
    mapped = found.apply(at)
    assert mapped[0] == 0 or found.x[0] <= 0
    assert (mapped >= 0).all()
    assert (np.diff(mapped) > 0).all()


def test_an_amount_goes_on_with_its_last_ratio_and_a_number_with_slope_one():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 10.0])
    amount, number = IsotonicMean.fit(x, y, None, COUNT), IsotonicMean.fit(x, y, None, NUMBER)
    np.testing.assert_allclose(amount.apply(np.array([0, 0.5, 8.0])), [0, 1, 20])
    np.testing.assert_allclose(number.apply(np.array([-1, 0.5, 8.0])), [0, 1.5, 14])


def test_a_first_block_of_zeros_joins_the_next():
    found = IsotonicMean.fit(np.array([1.0, 2, 3]), np.array([0.0, 2, 4]), None, COUNT)
    assert (found.x, found.y) == ((0.0, 1.5, 3.0), (0.0, 1.0, 4.0))


def test_labels_that_are_equal_have_no_map():
    assert IsotonicMean.fit(np.array([1.0, 2.0]), np.array([3.0, 3.0]), None, COUNT) is None
    assert IsotonicMean.fit(np.array([]), np.array([]), None, COUNT) is None


def test_the_mean_ratio_of_each_decile_moves_to_one():
    """Of other rows than those it was fitted on: within 4.5 standard errors of both samples."""
    prediction, label, _ = counts(1)
    found = calibrate(prediction, label, kind=COUNT)
    assert found.kind == "isotonic_mean"
    assert found.losses["isotonic_mean"] < found.losses["none"]
    assert (found.rows, found.positives) == (20_000, int((label > 0).sum()))
    fresh, y, mean = counts(2)
    order = np.argsort(fresh)
    for rows in np.array_split(order, 10):
        error = np.sqrt(2 * mean[rows].sum()) / mean[rows].sum()  # Poisson's variance is its mean
        raw = fresh[rows].sum() / y[rows].sum()
        after = found.apply(fresh)[rows].sum() / y[rows].sum()
        assert abs(after - 1) < 4.5 * error
        assert abs(after - 1) < abs(raw - 1) or abs(raw - 1) < 4.5 * error


@pytest.mark.parametrize("kind", [COUNT, LogNormal(), NUMBER, Regression(transform="log1p")])
def test_a_calibrated_mean_is_mostly_left_alone(kind):
    chosen = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mean = rng.lognormal(0, 0.5, 5_000)
        label = rng.poisson(mean) if kind == COUNT else mean * rng.lognormal(-0.08, 0.4, 5_000)
        chosen.append(calibrate(mean, label.astype(float), kind=kind))
    assert sum(each.map is None for each in chosen) >= 15


def test_the_deviance_is_that_of_its_formula():
    y, mean = np.array([0.0, 2.0, 5.0]), np.array([1.0, 2.0, 3.0])
    expected = [2.0, 0.0, 2 * (5 * np.log(5 / 3) - 2)]
    np.testing.assert_allclose(SCALES["amount"].loss(COUNT, mean, y), expected)
    assert np.isfinite(SCALES["amount"].loss(COUNT, np.zeros(3), y)).all()


def test_few_rows_above_zero_have_no_map_and_a_reason():
    prediction, label, _ = counts(3, rows=2_000)
    label[label.cumsum() > 600] = 0
    found = calibrate(prediction, label, kind=COUNT)
    assert found.map is None
    assert found.reason == f"{found.positives:,} rows above 0, and at least 1,000 are needed"


@pytest.mark.parametrize(
    "kind",
    [Ordinal(), WatchTime(), Regression(loss="huber"), WeightedLogistic(negatives="no_event")],
)
def test_a_kind_without_a_mean_of_its_own_is_refused(kind):
    with pytest.raises(ConfigError, match=f"a label of kind '{kind.name}' has no calibration map"):
        calibrate(np.ones(3), np.ones(3), kind=kind)


def test_a_map_of_another_scale_is_refused():
    table = {"kind": "platt", "slope": 1.0, "intercept": 0.0, "rows": 9, "deviance": {}}
    with pytest.raises(
        ConfigError,
        match=r"units: the map 'platt' is of 'logit', and .* kind 'count' has maps of 'amount'",
    ):
        Calibrator.from_table(table, "units", COUNT)


def test_a_calibrator_of_an_amount_reads_its_own_table():
    found = Calibrator(IsotonicMean((0.0, 1.0), (0.0, 2.0), 2.0), 9, 5, {"none": 1.0})
    table = found.to_table(COUNT)
    assert table["deviance"] == {"none": 1.0}
    assert Calibrator.from_table(table, "units", COUNT) == found


def test_a_slope_that_falls_is_refused():
    with pytest.raises(ConfigError, match="above must be a number above 0, got -1"):
        IsotonicMean((0.0,), (0.0,), -1.0)
