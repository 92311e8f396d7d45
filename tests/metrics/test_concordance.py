"""Kendall's τ-b of all pairs and of those within groups, and its replicates, by definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from polyrank.errors import ConfigError
from polyrank.metrics.bootstrap import bootstrap, draws, intervals
from polyrank.metrics.concordance import signed_pairs, tau_b, tau_b_in_groups
from polyrank.metrics.undefined import Undefined

SEEDS = st.integers(0, 2**32 - 1)


def columns(seed, rows=60, values=9, groups=4):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, values, rows) / 4
    prediction = label + rng.integers(0, 2 * values, rows)
    return label, prediction, rng.integers(-1, groups, rows), rng.uniform(0.1, 3, rows)


def by_definition(label, prediction, codes, weight):
    """The three sums over pairs of rows of one group, each pair weighing a product."""
    pairs = weight[:, None] * weight * (codes[:, None] == codes) * (codes >= 0)
    y, p = (np.sign(each[:, None] - each) for each in (label, prediction))
    return (pairs * y * p).sum(1), (pairs * abs(y)).sum(1), (pairs * abs(p)).sum(1)


def tau_by_definition(*arguments):
    signed, untied, other = (each.sum() for each in by_definition(*arguments))
    return signed / np.sqrt(untied * other)


@given(SEEDS, st.integers(1, 70), st.sampled_from([1, 2, 9, 1000]))
def test_what_a_row_shares_with_others_is_what_the_pairs_say(seed, rows, values):
    label, prediction, codes, weight = columns(seed, rows, values)
    codes = np.abs(codes)
    found = weight * signed_pairs(label, prediction, codes, weight)
    np.testing.assert_allclose(found, by_definition(label, prediction, codes, weight)[0], atol=1e-9)


@given(SEEDS)
def test_tau_equals_scipy(seed):
    label, prediction, _, _ = columns(seed)
    assert tau_b(label, prediction) == pytest.approx(kendalltau(label, prediction).statistic)


@given(SEEDS)
def test_tau_in_groups_is_over_pairs_of_one_group(seed):
    label, prediction, codes, weight = columns(seed)
    found = tau_b_in_groups(
        label, prediction, weight, key=np.where(codes < 0, None, codes).tolist()
    )
    assert found == pytest.approx(tau_by_definition(label, prediction, codes, weight))
    one = tau_b(label, prediction, weight)
    assert one == pytest.approx(tau_by_definition(label, prediction, 0 * codes, weight))


@given(SEEDS)
def test_a_weight_of_two_is_two_rows_and_one_of_zero_none(seed):
    label, prediction, codes, _ = columns(seed)
    times = np.random.default_rng(seed).integers(0, 3, len(label))
    times[:10] = 1
    repeated = [np.repeat(each, times) for each in (label, prediction, np.abs(codes))]
    try:
        expected = tau_b(*repeated[:2])
    except Undefined:
        return
    assert tau_b(label, prediction, times) == pytest.approx(expected)
    within = tau_b_in_groups(label, prediction, times, key=np.abs(codes))
    assert within == pytest.approx(tau_b_in_groups(*repeated[:2], key=repeated[2]))


def test_what_has_no_order_is_undefined_with_the_reason():
    with pytest.raises(Undefined, match="no two rows differ in their prediction, among 3 rows"):
        tau_b([1, 2, 3], [4, 4, 4])
    with pytest.raises(Undefined, match="no two rows differ in their label, among 3 rows"):
        tau_b([1, 1, 1], [4, 5, 6])
    with pytest.raises(Undefined, match="no two rows of one group differ in their label"):
        tau_b_in_groups([1, 2, 3], [4, 5, 6], key=[0, 1, 2])
    with pytest.raises(Undefined, match="no group key"):
        tau_b_in_groups([1, 2, 3], [4, 5, 6])
    with pytest.raises(ConfigError, match="bootstrap: 'tau_b_in_groups' needs the groups"):
        bootstrap([1, 2], [1, 2], metrics=["tau_b_in_groups"])


@pytest.mark.parametrize("users", [None, 100])
def test_replicates_vary_as_those_that_weigh_each_pair_anew(users):
    """A pair's weight is the product of two draws; the replicate is that to first order."""
    rng = np.random.default_rng(2)
    label = rng.normal(size=300)
    prediction, group = label + rng.normal(size=300), rng.integers(0, 3, 300)
    user = None if users is None else rng.integers(0, users, 300)
    found = bootstrap(
        label, prediction, user, None, ["tau_b", "tau_b_in_groups"], group=group, replicates=200
    )
    cluster = np.arange(300) if user is None else user
    for name, codes in (("tau_b", 0 * group), ("tau_b_in_groups", group)):
        exact = np.array(
            [
                tau_by_definition(
                    label, prediction, codes, rng.poisson(1.0, 300)[cluster].astype(float)
                )
                for _ in range(200)
            ]
        )
        # A standard deviation of 200 replicates is known to 1/√400 of itself, and so is the other.
        assert found[name].std() == pytest.approx(exact.std(), rel=5 * 2**0.5 / 400**0.5)
        assert found[name].mean() == pytest.approx(exact.mean(), abs=5 * exact.std() / 200**0.5)


def test_replicates_of_the_same_draws_are_near_one_another():
    rng = np.random.default_rng(3)
    label = rng.normal(size=2000)
    prediction = label + rng.normal(size=2000)
    found = bootstrap(label, prediction, metrics=["tau_b"], replicates=5, seed=7)["tau_b"]
    counts = next(draws(2000, 5, 7, 5)).astype(float)
    exact = [tau_by_definition(label, prediction, np.zeros(2000), each) for each in counts]
    value = tau_b(label, prediction)
    np.testing.assert_allclose(found - value, np.array(exact) - value, atol=0.15 * np.std(exact))


def test_an_interval_holds_the_value_and_lies_within_its_ends():
    rng = np.random.default_rng(4)
    label = rng.normal(size=300)
    prediction, group = label + 0.1 * rng.normal(size=300), rng.integers(0, 3, 300)
    values = {
        "tau_b": tau_b(label, prediction),
        "tau_b_in_groups": tau_b_in_groups(label, prediction, key=group),
    }
    bounds, reasons = intervals(values, label, prediction, group=group)
    assert not reasons
    for name, (low, high) in bounds.items():
        assert -1 < low < values[name] < high < 1
