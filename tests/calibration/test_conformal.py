"""Quantiles after their map cover what they promise, on the rows of the fit and on others."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from polyrank.calibration import Conformal
from polyrank.calibration.fitting import Calibrator, calibrate, mapped_rows
from polyrank.calibration.scale import SCALES
from polyrank.errors import ConfigError
from polyrank.labels import Quantile

KIND = Quantile(levels=[0.1, 0.5, 0.9])


def drawn(seed, rows=4_000, levels=KIND.levels, width=0.4, shift=1.0):
    """Quantiles of rows that spread differently, `width` times as far apart, and too high."""
    rng = np.random.default_rng(seed)
    middle, spread = rng.normal(0, 2, rows), rng.lognormal(0, 0.5, rows)
    found = middle[:, None] + shift + width * spread[:, None] * norm.ppf(levels)
    return found, middle + spread * rng.normal(size=rows)


@given(
    st.integers(0, 10_000), st.integers(60, 300),
    st.sampled_from([(0.5,), (0.1, 0.9), (0.1, 0.5, 0.9), (0.05, 0.2, 0.5, 0.6, 0.95)]),
)  # fmt: skip
def test_of_its_own_rows_as_many_lie_below_as_the_rank_says(seed, rows, levels):
    quantiles, label = drawn(seed, rows, levels)
    kind = Quantile(levels=levels)
    found = Conformal.fit(quantiles, label, None, kind)
    mapped = mapped_rows(found, quantiles)
    # A row that is a quantile's own score lies on it, give or take a rounding.
    below = (label[:, None] <= mapped + 1e-9).sum(0)
    middle = len(levels) // 2
    for at, (level, count) in enumerate(zip(levels, below, strict=True)):
        rank = ceil(level * (rows + 1) - 1e-9)
        # Below the middle, ranks are taken from above, where the row itself stays below.
        assert abs(count - rank) <= (0 if at == middle else 1)


def test_one_level_is_split_conformal():
    quantiles, label = drawn(1, 99, (0.9,))
    found = Conformal.fit(quantiles, label, None, Quantile(levels=[0.9]))
    assert found.factors == ()
    assert found.shift == np.sort(label - quantiles[:, 0])[89]  # the 90th of 99: .9 · 100


@given(
    st.floats(-5, 5),
    st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3),
    st.integers(0, 10_000),
)
def test_quantiles_never_cross(shift, factors, seed):
    rng = np.random.default_rng(seed)
    quantiles = np.sort(rng.normal(size=(50, 4)), axis=1)
    quantiles[::7, 2] = quantiles[::7, 1]
    mapped = mapped_rows(Conformal(shift, tuple(factors)), quantiles)
    assert (np.diff(mapped, axis=1) >= 0).all()


@pytest.mark.parametrize("levels", [(0.1, 0.5, 0.9), (0.05, 0.25, 0.75, 0.95)])
def test_coverage_of_other_rows_is_what_is_promised(levels):
    """A share over m rows, at a threshold that n rows set: within 4.5 standard errors of both."""
    kind, rows, fresh = Quantile(levels=levels), 4_000, 40_000
    quantiles, label = drawn(1, rows, levels)
    found = calibrate(quantiles, label, kind=kind)
    assert found.kind == "conformal"
    assert found.positives is None
    assert found.losses["conformal"] < found.losses["none"]
    quantiles, label = drawn(2, fresh, levels)
    share = (label[:, None] <= mapped_rows(found.map, quantiles)).mean(0)
    raw = (label[:, None] <= quantiles).mean(0)
    level = np.array(levels)
    error = np.sqrt(level * (1 - level) * (1 / rows + 1 / fresh))
    assert (abs(share - level) < 4.5 * error).all()
    assert (abs(raw - level) > 4.5 * error).any()


def test_the_guarantee_holds_on_average_over_samples():
    """Of 2,000 samples of 99 rows and one other: at or below as often as the level says."""
    rng, kind, level = np.random.default_rng(5), Quantile(levels=[0.8]), 0.8
    score = rng.normal(size=(2_000, 100))
    below = [
        score_[99] <= Conformal.fit(np.zeros((99, 1)), score_[:99], None, kind).shift
        for score_ in score
    ]
    assert abs(np.mean(below) - level) < 4.5 * np.sqrt(level * (1 - level) / 2_000)


def test_quantiles_that_are_right_are_mostly_left_alone():
    chosen = [calibrate(*drawn(seed, 2_000, width=1.0, shift=0.0), kind=KIND) for seed in range(20)]
    assert sum(each.map is None for each in chosen) >= 15


def test_the_unit_of_the_weights_does_not_matter():
    quantiles, label = drawn(3, 500)
    weight = np.random.default_rng(0).uniform(0.5, 2, 500)
    one = Conformal.fit(quantiles, label, weight, KIND)
    assert one == Conformal.fit(quantiles, label, 8 * weight, KIND)
    assert one != Conformal.fit(quantiles, label, None, KIND)


def test_labels_that_tie_leave_no_factor():
    quantiles = np.tile([0.0, 1.0, 2.0], (600, 1))
    assert Conformal.fit(quantiles, np.zeros(600), None, KIND) is None
    found = calibrate(quantiles, np.zeros(600), kind=KIND)
    assert found.reason == "in some of the 5 folds a map has no best fit"


def test_few_rows_beyond_the_outer_levels_have_no_map():
    found = calibrate(*drawn(4, 499), kind=KIND)
    assert found.reason == (
        "49 rows that the lowest level puts below it, and at least 50 are needed"
    )


def test_the_pinball_loss_is_that_of_its_formula():
    loss = SCALES["quantiles"].loss(KIND, np.array([[0.0, 1.0, 2.0]]), np.array([1.5]))
    np.testing.assert_allclose(loss, [(0.1 * 1.5 + 0.5 * 0.5 + 0.1 * 0.5) / 3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conformal(float("nan"), ()), "shift must be a finite number, got nan"),
        (lambda: Conformal(0.0, (1.0, 0.0)), "factors must be a number above 0, got 0.0"),
        (
            lambda: Conformal(0.0, (1.0,)).check(KIND, "price"),
            "price: factors must be one fewer than the 3 levels, got 1",
        ),
    ],
)
def test_what_is_no_map_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_calibrator_of_quantiles_reads_its_own_table():
    found = Calibrator(Conformal(0.5, (1.0, 2.0)), 900, None, {"none": 1.0, "conformal": 0.5})
    assert Calibrator.from_table(found.to_table(KIND), "price", KIND) == found
