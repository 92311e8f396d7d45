"""The normal tail and the mean between two limits against scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from polyrank.objective.normal import mean_between, mills


def test_the_ratio_of_mills_equals_scipy_over_its_whole_range():
    x = np.concatenate([np.linspace(0, 30, 4001), np.logspace(1, 8, 200)])
    expected = np.sqrt(np.pi / 2) * special.erfcx(x / np.sqrt(2))
    np.testing.assert_allclose(mills(torch.from_numpy(x)).numpy(), expected, rtol=1e-13)


@given(st.floats(-20, 20), st.floats(0.01, 20), st.floats(0.001, 12))
def test_the_mean_between_the_limits_equals_an_integral(mean, deviation, upper):
    arguments = (torch.tensor([each], dtype=torch.float64) for each in (mean, deviation, upper))
    found = mean_between(*arguments).item()
    # E[exp(Y) − 1] between the limits is ∫ exp(y)·P(Y > y) dy.
    edges = np.unique(np.clip([0, upper, *(mean + deviation * np.arange(-40, 41))], 0, upper))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = np.diff(edges)[:, None] / 2
    y = edges[:-1, None] + half * (nodes + 1)
    expected = (half * weights * np.exp(y) * stats.norm.sf((y - mean) / deviation)).sum()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12 * np.exp(upper))
    assert 0 <= found <= np.expm1(upper) + 1e-12 * np.exp(upper)


def test_what_is_not_a_number_stays_so():
    nan, one = torch.full((1,), torch.nan, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert mean_between(nan, one, one).isnan().all()
