"""Metrics of ranked lists against scikit-learn, and against the mean over all orders of ties."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from polyrank.errors import ConfigError, DataError
from polyrank.metrics.ranking import mrr, ndcg_at, recall_at
from polyrank.metrics.undefined import Undefined


def ndcg(label, score, request, weight=None, k=10):
    return ndcg_at(k)(label, score, weight, key=request)


def recall(label, score, request, weight=None, k=10):
    return recall_at(k)(label, score, weight, key=request)


def reciprocal_rank(label, score, request, weight=None):
    return mrr(label, score, weight, key=request)


EVERY = [ndcg, recall, reciprocal_rank]


def of_order(metric, label, k):
    """Return the metric of one list in the given order."""
    if metric is reciprocal_rank:
        return 1 / (1 + label.index(1))
    if metric is recall:
        return sum(label[:k]) / sum(label)
    discounts = [1 / np.log2(place + 2) for place in range(k)]
    best = sum(discounts[: sum(label)])
    return sum(d for d, hit in zip(discounts, label, strict=False) if hit) / best


def over_orders(metric, label, score, k):
    """Return the mean over the orders that the score allows."""
    rows = list(zip(score, label, strict=True))
    allowed = [
        order for order in permutations(rows) if all(a[0] >= b[0] for a, b in pairwise(order))
    ]
    return np.mean([of_order(metric, [label for _, label in order], k) for order in allowed])


LIST = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=5)


@pytest.mark.parametrize("metric", EVERY)
@given(lists=st.lists(LIST, min_size=1, max_size=3), k=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_it_is_the_mean_over_the_orders_of_ties(metric, lists, k):
    options = {} if metric is reciprocal_rank else {"k": k}
    rows = [(*row, number) for number, each in enumerate(lists) for row in each]
    label, score, request = zip(*rows, strict=True)
    answers = [
        over_orders(metric, *zip(*each, strict=True), k)
        for each in lists
        if any(label for label, _ in each)
    ]
    if answers:
        assert metric(label, score, request, **options) == pytest.approx(np.mean(answers))
    else:
        with pytest.raises(Undefined, match="no request with a positive among"):
            metric(label, score, request, **options)


@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_ndcg_is_that_of_scikit_learn(k):
    random = np.random.default_rng(0)
    label = random.integers(0, 2, (50, 20))
    label[:, 0] = 1
    score = random.integers(0, 6, (50, 20)) / 6
    mixed = random.permutation(1_000)
    request = np.repeat(np.arange(50), 20)[mixed]
    found = ndcg(label.ravel()[mixed], score.ravel()[mixed], request, k=k)
    assert found == pytest.approx(ndcg_score(label, score, k=k))


def test_a_constant_gets_what_chance_gives():
    label = np.zeros(200)
    label[7] = 1
    request = np.zeros(200)
    score = np.full(200, 0.5)
    assert recall(label, score, request) == pytest.approx(10 / 200)
    assert reciprocal_rank(label, score, request) == pytest.approx(np.mean(1 / np.arange(1, 201)))
    assert ndcg(label, score, request) == pytest.approx((1 / np.log2(np.arange(2, 12))).sum() / 200)


def test_long_lists_of_ties_keep_their_digits():
    label = np.ones(100_000)
    assert reciprocal_rank(label, label, label) == pytest.approx(1)
    label[:60_000] = 0
    # The first of many positives: nearly geometric.
    p, places = 0.4, np.arange(1, 200)
    expected = np.sum(p * (1 - p) ** (places - 1) / places)
    assert reciprocal_rank(label, np.zeros(100_000), label * 0) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("metric", EVERY)
def test_rows_without_a_request_are_left_out(metric):
    label, score = [1, 0, 0, 1, 1], [0.1, 0.9, 0.4, 0.2, 0.3]
    expected = metric(label[:4], score[:4], [0, 0, 1, 1])
    assert metric(label, score, ["a", "a", "b", "b", None]) == expected
    assert metric(label, score, [5.0, 5.0, 6.0, 6.0, float("nan")]) == expected
    with pytest.raises(Undefined, match="no request with a positive among 1 row"):
        metric([1], [0.5], [None])


@pytest.mark.parametrize("metric", EVERY)
def test_a_request_counts_with_the_mean_weight_of_its_rows(metric):
    label, score, request = [1, 0, 0, 1], [0.1, 0.9, 0.4, 0.8], [0, 0, 1, 1]
    worse, better = (metric(label[s], score[s], request[s]) for s in (slice(2), slice(2, 4)))
    found = metric(label, score, request, [1, 3, 6, 0.5])
    assert found == pytest.approx((2 * worse + 3.25 * better) / 5.25)


@pytest.mark.parametrize("metric", EVERY)
def test_a_row_of_weight_zero_is_no_row_of_its_list(metric):
    label, score, request = [0, 1, 0, 1], [0.9, 0.8, 0.1, 0.3], [7, 7, 8, 8]
    assert metric(label, score, request, [0, 1, 1, 1]) == 1


@pytest.mark.parametrize("metric", [ndcg_at, recall_at])
def test_a_list_has_places(metric):
    with pytest.raises(ConfigError, match="k must be at least 1 place, got 0"):
        metric(0)


def test_requests_have_the_shape_of_the_rows():
    with pytest.raises(DataError, match=r"request: expected an array of shape \(2,\)"):
        ndcg([1, 0], [0.5, 0.4], [1])
