import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.datasets.marginals import CHUNK_ROWS, marginal, nodes, sigmoid
from polyrank.errors import ConfigError

A, B = (each.ravel() for each in np.meshgrid(np.linspace(-9, 6, 16), np.linspace(-9, 6, 16)))


def brute_force(a, b, hidden):
    """Return the three expectations by the trapezoid rule on a fine grid."""
    u = np.linspace(-10, 10, 4001)
    weight = np.exp(-(u**2) / 2)
    weight /= weight.sum()
    p, q = sigmoid(a[:, None] + hidden * u), sigmoid(b[:, None] + hidden * u)
    return p @ weight, (p * q) @ weight, q @ weight


@pytest.mark.parametrize("hidden", [-1.0, 0.3, 1.0, 2.0, 3.0, 4.0])
def test_the_quadrature_agrees_with_brute_force(hidden):
    truth = marginal(A, B, hidden)
    click, buy, forced = brute_force(A, B, hidden)
    np.testing.assert_allclose(truth.p_click, click, rtol=0, atol=1e-7)
    np.testing.assert_allclose(truth.p_buy, buy, rtol=0, atol=1e-7)
    np.testing.assert_allclose(truth.do_buy, forced, rtol=0, atol=1e-7)
    np.testing.assert_allclose(truth.p_buy_given_click, buy / click, rtol=0, atol=1e-6)


def test_it_agrees_with_a_draw():
    rng = np.random.default_rng(3)
    cause = 1.5 * rng.standard_normal(400_000)
    click = rng.random(400_000) < sigmoid(-2 + cause)
    buy = click & (rng.random(400_000) < sigmoid(-1 + cause))
    truth = marginal(np.array([-2.0]), np.array([-1.0]), 1.5)
    assert click.mean() == pytest.approx(truth.p_click[0], abs=0.003)
    assert buy.mean() == pytest.approx(truth.p_buy[0], abs=0.003)
    assert buy[click].mean() == pytest.approx(truth.p_buy_given_click[0], abs=0.008)


def test_without_a_hidden_cause_it_is_the_closed_form():
    truth = marginal(A, B, 0.0)
    np.testing.assert_array_equal(truth.p_click, sigmoid(A))
    np.testing.assert_array_equal(truth.p_buy, sigmoid(A) * sigmoid(B))
    np.testing.assert_array_equal(truth.p_buy_given_click, sigmoid(B))
    np.testing.assert_array_equal(truth.do_buy, truth.p_buy_given_click)


@given(
    a=st.floats(-30, 30),
    b=st.floats(-30, 30),
    hidden=st.floats(-4, 4).filter(lambda h: h == 0 or abs(h) > 1e-3),
)
def test_the_chain_rule_holds_and_a_shared_cause_only_raises_the_ratio(a, b, hidden):
    truth = marginal(np.array([a]), np.array([b]), hidden)
    product = truth.p_click * truth.p_buy_given_click
    np.testing.assert_allclose(product, truth.p_buy, rtol=1e-12)
    assert truth.p_buy_given_click >= truth.do_buy * (1 - 1e-6)
    assert 0 <= truth.p_buy <= truth.p_click <= 1 + 1e-12


def test_chunks_leave_no_seam():
    a = np.linspace(-5, 1, CHUNK_ROWS + 3)
    whole, rest = marginal(a, a, 1.0), marginal(a[CHUNK_ROWS:], a[CHUNK_ROWS:], 1.0)
    np.testing.assert_array_equal(whole.p_buy[CHUNK_ROWS:], rest.p_buy)


@pytest.mark.parametrize("hidden", [0.0, 1.0, 4.0])
def test_the_nodes_have_the_moments_of_a_standard_normal(hidden):
    points, weights = nodes(hidden)
    assert weights.sum() == pytest.approx(1)
    assert weights @ points == pytest.approx(0, abs=1e-12)
    if hidden:
        assert weights @ points**2 == pytest.approx(1)


@pytest.mark.parametrize("hidden", [4.5, float("nan")])
def test_a_coefficient_beyond_the_tested_range_is_refused(hidden):
    with pytest.raises(ConfigError, match="hidden must be a number of at least -4 and at most 4"):
        marginal(A, B, hidden)
