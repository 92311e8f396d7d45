"""Metrics of counts and money against scikit-learn and their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from polyrank.errors import DataError
from polyrank.metrics.bootstrap import bootstrap, draws, intervals
from polyrank.metrics.registry import METRICS
from polyrank.metrics.undefined import Undefined

SEEDS = st.integers(0, 2**32 - 1)


def money(seed=0, rows=300, levels=None):
    random = np.random.default_rng(seed)
    mean = random.lognormal(0, 1, rows) if levels is None else random.integers(1, levels, rows)
    label = np.where(random.random(rows) < 0.4, 0, mean * random.lognormal(0, 0.8, rows))
    return label, mean.astype(float), random.choice([0.5, 1.0, 3.0], rows)


def test_deviance_is_scikit_learns():
    random = np.random.default_rng(1)
    mean, weight = random.gamma(2, 1, 200), random.uniform(0, 2, 200)
    label = random.poisson(mean).astype(float)
    expected = sklearn.mean_poisson_deviance(label, mean, sample_weight=weight)
    assert METRICS["deviance"](label, mean, weight) == pytest.approx(expected)
    with pytest.raises(DataError, match="a predicted count is 0 or above"):
        METRICS["deviance"]([1.0], [-1.0])


def test_the_mean_ratio_divides_totals():
    assert METRICS["mean_ratio"]([1.0, 3.0], [2.0, 2.0], [1.0, 0.0]) == 2
    with pytest.raises(Undefined, match="the labels of 2 rows add up to 0"):
        METRICS["mean_ratio"]([0.0, 0.0], [1.0, 1.0])


def gini_by_pairs(label, score, weight):
    """From the definition, over all pairs of rows: a tie stands halfway."""
    sign = np.sign(score[:, None] - score[None, :])
    return float(weight * label @ sign @ weight)


@given(SEEDS, st.sampled_from([None, 4]))
def test_gini_is_the_area_ratio_from_all_pairs(seed, levels):
    label, score, weight = money(seed, 40, levels)
    label[0] += 1
    expected = gini_by_pairs(label, score, weight) / gini_by_pairs(label, label, weight)
    assert METRICS["gini"](label, score, weight) == pytest.approx(expected, abs=1e-9)


def test_gini_of_the_best_order_is_1_of_none_0_and_of_the_reverse_below():
    label, _, weight = money()
    assert METRICS["gini"](label, label**3, weight) == pytest.approx(1)
    assert METRICS["gini"](label, np.ones(300), weight) == pytest.approx(0)
    assert METRICS["gini"](label, -label, weight) == pytest.approx(-1)
    with pytest.raises(Undefined, match="the label is 2 in all 3 rows"):
        METRICS["gini"]([2.0] * 3, [1.0, 2, 3])
    with pytest.raises(DataError, match="amounts are 0 or above"):
        METRICS["gini"]([-2.0, 1], [1.0, 2])


def test_replicates_of_gini_spread_as_the_metric_of_resampled_rows():
    label, score, weight = money(3, 800)
    found = bootstrap(label, score, None, weight, ["gini"], replicates=300, seed=2)["gini"]
    expected = [
        METRICS["gini"](label, score, weight * counts[0]) for counts in draws(800, 300, 2, step=1)
    ]
    assert found.std() == pytest.approx(np.std(expected), rel=0.1)
    assert np.corrcoef(found, expected)[0, 1] > 0.95


@given(SEEDS)
def test_graded_ndcg_is_scikit_learns(seed):
    random = np.random.default_rng(seed)
    label = random.integers(0, 4, (5, 8)).astype(float)
    label[:, 0] += 1
    score = random.integers(0, 6, (5, 8)).astype(float)  # with ties
    found = METRICS["value_ndcg@10"](label.ravel(), score.ravel(), key=np.arange(5).repeat(8))
    # scikit-learn averages the gain of ties over their places too.
    assert found == pytest.approx(sklearn.ndcg_score(label, score, k=10))


def test_graded_ndcg_leaves_out_requests_without_gain_and_rows_without_a_request():
    found = METRICS["value_ndcg@10"](
        [0, 0, 3, 1, 9], [0.5, 0.2, 0.1, 0.2, 0.3], key=[1, 1, 2, 2, None]
    )
    best = 3 + 1 / np.log2(3)
    assert found == pytest.approx((1 + 3 / np.log2(3)) / best)
    with pytest.raises(Undefined, match="no request with a label above 0 among 2 rows"):
        METRICS["value_ndcg@10"]([0, 0], [0.1, 0.2], key=[1, 1])
    with pytest.raises(Undefined, match="no request key"):
        METRICS["value_ndcg@10"]([0, 1], [0.1, 0.2])


def test_graded_ndcg_cuts_at_its_places():
    label, score = np.arange(30.0), -np.arange(30.0)
    expected = sklearn.ndcg_score([label], [score], k=10)
    assert METRICS["value_ndcg@10"](label, score, key=np.zeros(30)) == pytest.approx(expected)


def test_intervals_surround_their_values():
    label, score, _ = money(4, 400)
    values = {name: METRICS[name](label, score) for name in ("mean_ratio", "gini")}
    found, reasons = intervals(values, label, score)
    assert reasons == {}
    for name, (low, high) in found.items():
        assert low < values[name] < high
