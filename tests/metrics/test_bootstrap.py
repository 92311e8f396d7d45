"""A replicate is the metric with weights that were drawn; its spread is DeLong's standard error.

An interval surrounds its value, and there is a reason where there is none.
"""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.errors import ConfigError, DataError
from polyrank.metrics.bootstrap import QUANTILES, bootstrap, clusters_of, draws, intervals
from polyrank.metrics.registry import METRICS
from polyrank.metrics.undefined import Undefined

BINARY = ["auc", "gauc", "pr_auc", "log_loss", "ne", "pcoc"]
REGRESSION = ["rmse", "mae", "r2", "bias"]


def delong(label, score):
    """Return the standard error of the AUC: DeLong, DeLong and Clarke-Pearson, 1988, eq. 3."""
    above, below = np.sort(score[label == 1]), np.sort(score[label == 0])

    def placed(values, among):
        left, right = (np.searchsorted(among, values, side) for side in ("left", "right"))
        return (left + right) / (2 * len(among))

    variances = placed(above, below).var(ddof=1), placed(below, above).var(ddof=1)
    return np.sqrt(variances[0] / len(above) + variances[1] / len(below))


def logged(rows=400, seed=0, levels=20):
    random = np.random.default_rng(seed)
    p = random.integers(1, levels, rows) / levels
    return (random.random(rows) < p).astype(float), p, random.integers(0, 40, rows)


def by_hand(label, prediction, user, weight, name, replicates, seed):
    """Return the metric function on the same draws, one call a replicate."""
    cluster = clusters_of(user, len(label))
    w = np.ones(len(label)) if weight is None else weight
    found = []
    for counts in draws(cluster.max() + 1, replicates, seed, step=1):
        try:
            value = METRICS[name](label, prediction, w * counts[0][cluster], key=user)
            found.append(value)
        except Undefined:
            found.append(np.nan)
    return np.array(found)


@pytest.mark.parametrize("name", BINARY + REGRESSION)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("by_user", [False, True])
def test_a_replicate_is_the_metric_of_rows_with_counts(name, weighted, by_user):
    label, prediction, user = logged()
    weight = np.random.default_rng(1).choice([0.0, 0.5, 1, 3], len(label)) if weighted else None
    user = user if by_user or name == "gauc" else None
    found = bootstrap(label, prediction, user, weight, [name], replicates=30, seed=3)[name]
    expected = by_hand(label, prediction, user, weight, name, 30, 3)
    assert not np.isnan(found).any()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@given(
    rows=st.lists(
        st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=30,
    ),
    by_user=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_any_rows_with_ties_weights_and_few_of_a_class(rows, by_user, seed):
    label, score, weight, user = (np.array(each, dtype=float) for each in zip(*rows, strict=True))
    weight[0] = 1
    user = user if by_user else None
    names = [name for name in BINARY if user is not None or name != "gauc"]
    found = bootstrap(label, score / 4, user, weight, names, replicates=5, seed=seed)
    for name in names:
        expected = by_hand(label, score / 4, user, weight, name, 5, seed)
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-12)


def test_blocks_of_memory_decide_nothing(monkeypatch):
    label, prediction, user = logged()
    whole = bootstrap(label, prediction, user, None, BINARY, replicates=20)
    monkeypatch.setattr("polyrank.metrics.bootstrap.BLOCK", 900)
    monkeypatch.setattr("polyrank.metrics.bootstrap.SLICE", 7)
    parts = bootstrap(label, prediction, user, None, BINARY, replicates=20)
    for name in BINARY:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def test_draws_do_not_depend_on_the_prediction():
    label, prediction, user = logged()
    better = (prediction + label) / 2
    low, high = (bootstrap(label, p, user, None, ["pcoc", "auc"]) for p in (prediction, better))
    # The difference of two models that rank alike is much surer than either.
    paired = (bootstrap(label, prediction**2, user)["auc"] - low["auc"]).std()
    assert paired == 0 < low["auc"].std()
    assert (high["auc"] > low["auc"]).all()
    shifted = bootstrap(label, prediction / 2, user, None, ["pcoc"])["pcoc"]
    np.testing.assert_allclose(shifted, low["pcoc"] / 2)


def test_the_names_of_users_decide_nothing():
    label, prediction, user = logged()
    named = pl.Series([f"user {-each}" for each in user])
    one, other = (bootstrap(label, prediction, keys, None, BINARY) for keys in (user, named))
    for name in BINARY:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-12)


def test_rows_without_a_user_are_drawn_one_by_one():
    assert clusters_of([None, "a", None, "a", "b"], 5).tolist() == [0, 1, 2, 1, 3]
    assert clusters_of(None, 3).tolist() == [0, 1, 2]


def test_a_user_is_drawn_whole():
    label, prediction, _ = logged(rows=2_000)
    user = np.arange(2_000)
    twice = [np.concatenate([each, each]) for each in (label, prediction, user)]
    once = bootstrap(label, prediction, user)["auc"]
    np.testing.assert_allclose(bootstrap(*twice)["auc"], once)
    assert bootstrap(*twice[:2])["auc"].std() == pytest.approx(once.std() / 2**0.5, rel=0.2)


def test_counts_are_poisson():
    assert QUANTILES.dtype == np.uint8
    assert QUANTILES.mean() == pytest.approx(1, abs=1e-4)
    assert QUANTILES.var() == pytest.approx(1, abs=1e-3)
    (counts,) = draws(10_001, 40, seed=1, step=40)
    assert counts.shape == (40, 10_001)
    assert counts.mean() == pytest.approx(1, abs=0.01)
    correlated = np.corrcoef(counts)
    assert np.abs(correlated[~np.eye(40, dtype=bool)]).max() < 0.06


@pytest.mark.parametrize(("rows", "power", "levels"), [(3_000, 1, 20), (20_000, 4, 1_000)])
def test_the_spread_of_auc_is_that_of_delong(rows, power, levels):
    random = np.random.default_rng(7)
    p = random.integers(1, levels, rows) / levels
    label = (random.random(rows) < p**power).astype(float)
    spread = bootstrap(label, p, replicates=2_000)["auc"].std(ddof=1)
    assert spread == pytest.approx(delong(label, p), rel=0.1)


def test_one_class_has_no_replicates():
    found = bootstrap([1, 1, 1], [0.1, 0.2, 0.3], metrics=["auc", "pr_auc", "ne", "log_loss"])
    assert np.isnan([found["auc"], found["pr_auc"], found["ne"]]).all()
    assert np.isfinite(found["log_loss"]).any()


def test_ece_has_no_replicates():
    with pytest.raises(ConfigError, match=r"metric 'ece' has no replicates"):
        bootstrap([0, 1], [0.1, 0.2], metrics=["ece"])


def test_grouped_auc_needs_users():
    with pytest.raises(ConfigError, match="'gauc' needs the users"):
        bootstrap([0, 1], [0.1, 0.2], metrics=["gauc"])


def test_metrics_of_events_refuse_other_labels():
    both = bootstrap([0, 1, 1], [0.1, 0.2, 0.3], metrics=["log_loss", "rmse"])
    assert np.isfinite([both["log_loss"], both["rmse"]]).any()
    with pytest.raises(DataError, match="binary labels are 0 or 1, got 2 in 1 row"):
        bootstrap([0, 2], [0.1, 0.2], metrics=["auc", "rmse"])


def clicked(rows=4_000, users=300):
    random = np.random.default_rng(5)
    p = random.uniform(0.05, 0.6, rows)
    return (random.random(rows) < p).astype(float), p, random.integers(0, users, rows)


def measured(label, prediction, user, names):
    return {name: METRICS[name](label, prediction, key=user) for name in names}


def found_of(label, prediction, user, names, **options):
    return intervals(measured(label, prediction, user, names), label, prediction, user, **options)


def test_each_metric_lies_within_its_own():
    label, p, user = clicked()
    found, reasons = found_of(label, p, user, BINARY)
    assert list(found) == BINARY
    assert reasons == {}
    for name, value in measured(label, p, user, BINARY).items():
        low, high = found[name]
        assert low < value < high
        assert type(low) is type(high) is float


def test_ends_are_symmetric_on_their_scale():
    label, p, user = clicked()
    values = measured(label, p, user, ["auc", "pcoc"])
    found, _ = intervals(values, label, p, user, replicates=50, seed=9)
    samples = bootstrap(label, p, user, None, ["auc", "pcoc"], replicates=50, seed=9)

    def logit(x):
        return np.log(x / (1 - x))

    for name, scale in (("auc", logit), ("pcoc", np.log)):
        half = 1.96 * scale(samples[name]).std(ddof=1)
        ends = scale(values[name]) + np.array([-half, half])
        np.testing.assert_allclose(scale(np.array(found[name])), ends)


def test_regressions_have_them_too():
    random = np.random.default_rng(2)
    p = random.normal(size=1_000)
    label = p + random.normal(size=1_000)
    names = ["rmse", "mae", "r2", "bias"]
    found, reasons = found_of(label, p, None, names)
    assert (list(found), reasons) == (names, {})
    assert found["rmse"][0] < 1 < found["rmse"][1]
    assert found["r2"][0] < 0.5 < found["r2"][1]
    middle, error = (p - label).mean(), (p - label).std() / 1_000**0.5
    assert found["bias"] == pytest.approx((middle - 2 * error, middle + 2 * error), abs=0.02)


def test_few_positives_are_the_reason_of_all():
    label, p, user = clicked()
    label[np.flatnonzero(label)[49:]] = 0
    found, reasons = found_of(label, p, user, BINARY)
    assert (found, reasons) == ({}, {"interval": "49 positives; an interval takes 50"})
    _, reasons = found_of(1 - label, p, user, ["auc"])
    assert reasons == {"interval": "49 negatives; an interval takes 50"}


def test_few_users_are_the_reason_of_all():
    label, p, _ = clicked()
    found, reasons = found_of(label, p, np.arange(4_000) % 49, ["auc"])
    assert (found, reasons) == ({}, {"interval": "49 users; an interval takes 50"})
    found, reasons = found_of(label[:49], p[:49], None, ["rmse"])
    assert (found, reasons) == ({}, {"interval": "49 rows; an interval takes 50"})


def test_few_users_with_both_classes_are_the_reason_of_grouped_auc():
    label, p, user = clicked()
    user = np.where(np.arange(4_000) < 200, user % 10, 1_000 + np.arange(4_000))
    found, reasons = found_of(label, p, user, ["auc", "gauc"])
    assert list(found) == ["auc"]
    assert reasons == {"gauc interval": "10 users with both classes; an interval takes 50"}


def test_the_end_of_a_scale_is_a_reason():
    label, p, _ = clicked()
    found, reasons = found_of(label, (p + label) / 2, None, ["auc", "ne"])
    assert list(found) == ["ne"]
    assert reasons == {"auc interval": "1 is the end of its scale"}


def test_replicates_at_the_end_of_a_scale_are_a_reason():
    label, p, _ = clicked()
    score = (p + label) / 2
    score[np.argmax(label)] = 0.01  # one positive below the negatives: absent from some replicates
    _, reasons = found_of(label, score, None, ["auc"])
    assert reasons["auc interval"].endswith("of 200 replicates are at its scale's end")


def test_rows_of_weight_zero_do_not_count():
    label, p, user = clicked()
    weight = np.ones(4_000)
    weight[np.flatnonzero(label)[3:]] = 0
    found, reasons = intervals({"auc": 0.6}, label, p, user, weight)
    assert (found, reasons) == ({}, {"interval": "3 positives; an interval takes 50"})


def test_nothing_measured_has_none():
    assert intervals({}, [], []) == ({}, {})


@pytest.mark.parametrize("name", ["ece"])
def test_what_resampling_biases_has_no_scale(name):
    assert METRICS[name].scale is None


LISTS = ("ndcg@10", "recall@10", "mrr")


def listed(rows=3_000, requests=400, users=60, seed=0):
    """Requests of several rows, each of one user; some rows have no request."""
    rng = np.random.default_rng(seed)
    request = rng.integers(-1, requests, rows)
    user = rng.integers(0, users, requests + 1)[request]
    prediction = rng.integers(1, 20, rows) / 20
    return (rng.random(rows) < prediction / 3).astype(int), prediction, user, request


@pytest.mark.parametrize("by_user", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LISTS)
def test_a_replicate_of_lists_is_their_mean_with_counts(name, weighted, by_user):
    label, prediction, user, request = listed()
    weight = np.random.default_rng(1).integers(1, 4, len(label)).astype(float) if weighted else None
    key = [None if each < 0 else int(each) for each in request]
    found = bootstrap(
        label, prediction, user if by_user else None, weight, [name], request=key, replicates=7
    )[name]
    cluster = clusters_of(user if by_user else None, len(label))
    counts = next(draws(int(cluster.max()) + 1, 7, 0, 7)).astype(float)
    values, weights, drawn = [], [], []
    for each in np.unique(request[request >= 0]):
        own = request == each
        if label[own].any():
            of_rows = None if weight is None else weight[own]
            values.append(METRICS[name](label[own], prediction[own], of_rows, key=request[own]))
            weights.append(1.0 if weight is None else weight[own].mean())
            drawn.append(cluster[np.flatnonzero(own)[0]])
    counted = counts[:, drawn] * np.array(weights)
    expected = (counted * values).sum(1) / counted.sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_spread_of_lists_is_that_of_a_mean_over_requests():
    label, prediction, _, request = listed(rows=12_000, requests=2_000)
    keep = request >= 0
    label, prediction, request = label[keep], prediction[keep], request[keep]
    samples = bootstrap(label, prediction, None, None, LISTS, request=request, replicates=400)
    for name in LISTS:
        values = [
            METRICS[name](label[own], prediction[own], key=request[own])
            for own in (request == each for each in np.unique(request[label == 1]))
        ]
        error = np.std(values) / np.sqrt(len(values))
        # Of 400 normal draws a standard deviation is off by 1/√800 = 3.5 %; four of these.
        assert samples[name].std(ddof=1) == pytest.approx(error, rel=0.15)


def test_lists_have_intervals_around_their_values_and_need_requests():
    label, prediction, user, request = listed(rows=8_000)
    values = {name: METRICS[name](label, prediction, key=request) for name in LISTS}
    found, reasons = intervals(values, label, prediction, user, request=request)
    assert reasons == {}
    for name, (low, high) in found.items():
        assert 0 < low < values[name] < high < 1
    with pytest.raises(ConfigError, match="bootstrap: 'mrr' needs the requests"):
        bootstrap(label, prediction, metrics=["mrr"])


def test_few_lists_are_a_reason():
    label, prediction, _, request = listed(rows=600, requests=40)
    value = METRICS["mrr"](label, prediction, key=request)
    found, reasons = intervals({"mrr": value}, label, prediction, request=request)
    assert found == {}
    (reason,) = reasons.values()
    assert "requests with a positive; an interval takes 50" in reason
