"""The probability to be among the first, against scipy's integrals and against draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from polyrank.errors import ConfigError
from polyrank.exploration.chances import chances, normal_cdf


def some(rows, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(-3, 0.7, rows), rng.uniform(0.05, 0.9, rows)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_place_is_the_integral_of_the_paper(seed):
    mean, sd = some(6, seed)

    def density(x, i):
        others = [norm.cdf(x, mean[j], sd[j]) for j in range(6) if j != i]
        return norm.pdf(x, mean[i], sd[i]) * np.prod(others)

    expected = [
        quad(density, m - 9 * s, m + 9 * s, args=(i,), points=sorted(mean), limit=200)[0]
        for i, (m, s) in enumerate(zip(mean, sd, strict=True))
    ]
    np.testing.assert_allclose(chances(mean, sd, 1), expected, atol=1e-8)  # quad's own error


@pytest.mark.parametrize("first", [1, 2, 5, 11])
def test_several_places_are_what_draws_say(first):
    mean, sd = some(12, 7)
    draws = 200_000
    z = mean + sd * np.random.default_rng(0).standard_normal((draws, 12))
    best = np.argsort(-z, axis=1)[:, :first]
    share = np.bincount(best.ravel(), minlength=12) / draws
    found = chances(mean, sd, first)
    # Five standard errors of a share of so many draws, at most .0056.
    error = np.sqrt(found * (1 - found) / draws)
    assert (np.abs(found - share) <= 5 * error + 1e-6).all()


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 40), first=st.integers(1, 41), seed=st.integers(0, 999),
    shift=st.floats(-50, 50), scale=st.floats(0.01, 20),
)  # fmt: skip
def test_chances_are_of_so_many_places_and_of_no_scale(rows, first, seed, shift, scale):
    mean, sd = some(rows, seed)
    found = chances(mean, sd, first)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.sum() == pytest.approx(min(first, rows), abs=1e-7)
    np.testing.assert_allclose(chances(shift + scale * mean, scale * sd, first), found, atol=1e-7)
    order = np.random.default_rng(seed).permutation(rows)
    np.testing.assert_allclose(chances(mean[order], sd[order], first), found[order], atol=1e-9)
    if first < rows:
        assert (chances(mean, sd, first + 1) >= found - 1e-9).all()


def test_equal_rows_share_the_places():
    np.testing.assert_allclose(chances(np.zeros(7), np.ones(7), 3), 3 / 7, atol=1e-10)


def test_a_row_that_is_out_of_reach_has_none():
    found = chances(np.array([0.0, 0.1, -40.0]), np.array([0.1, 0.2, 1.0]), 1)
    assert found[2] == 0
    assert found.sum() == pytest.approx(1, abs=1e-9)


def test_what_would_take_too_long_is_refused():
    mean, sd = np.zeros(1_000), np.ones(1_000)
    sd[0] = 1e-4
    with pytest.raises(
        ConfigError, match="the first 30 of 1,000 rows take too long to integrate: give draws, such"
    ):
        chances(mean, sd, 30)


def test_the_normal_distribution_is_that_of_scipy():
    x = np.linspace(-12, 12, 100_001)
    np.testing.assert_allclose(normal_cdf(x), norm.cdf(x), rtol=0, atol=2e-11)
