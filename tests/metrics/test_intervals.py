"""An interval surrounds its value, and there is a reason where there is none."""

import numpy as np
import pytest

from polyrank.metrics.bootstrap import bootstrap
from polyrank.metrics.intervals import intervals
from polyrank.metrics.registry import METRICS

BINARY = ["auc", "gauc", "pr_auc", "log_loss", "ne", "pcoc"]


def logged(rows=4_000, users=300):
    random = np.random.default_rng(5)
    p = random.uniform(0.05, 0.6, rows)
    return (random.random(rows) < p).astype(float), p, random.integers(0, users, rows)


def measured(label, prediction, user, names):
    return {name: METRICS[name](label, prediction, key=user) for name in names}


def found_of(label, prediction, user, names, **options):
    return intervals(measured(label, prediction, user, names), label, prediction, user, **options)


def test_each_metric_lies_within_its_own():
    label, p, user = logged()
    found, reasons = found_of(label, p, user, BINARY)
    assert list(found) == BINARY
    assert reasons == {}
    for name, value in measured(label, p, user, BINARY).items():
        low, high = found[name]
        assert low < value < high
        assert type(low) is type(high) is float


def test_ends_are_symmetric_on_their_scale():
    label, p, user = logged()
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
    label, p, user = logged()
    label[np.flatnonzero(label)[49:]] = 0
    found, reasons = found_of(label, p, user, BINARY)
    assert (found, reasons) == ({}, {"interval": "49 positives; an interval takes 50"})
    _, reasons = found_of(1 - label, p, user, ["auc"])
    assert reasons == {"interval": "49 negatives; an interval takes 50"}


def test_few_users_are_the_reason_of_all():
    label, p, _ = logged()
    found, reasons = found_of(label, p, np.arange(4_000) % 49, ["auc"])
    assert (found, reasons) == ({}, {"interval": "49 users; an interval takes 50"})
    found, reasons = found_of(label[:49], p[:49], None, ["rmse"])
    assert (found, reasons) == ({}, {"interval": "49 rows; an interval takes 50"})


def test_few_users_with_both_classes_are_the_reason_of_grouped_auc():
    label, p, user = logged()
    user = np.where(np.arange(4_000) < 200, user % 10, 1_000 + np.arange(4_000))
    found, reasons = found_of(label, p, user, ["auc", "gauc"])
    assert list(found) == ["auc"]
    assert reasons == {"gauc interval": "10 users with both classes; an interval takes 50"}


def test_the_end_of_a_scale_is_a_reason():
    label, p, _ = logged()
    found, reasons = found_of(label, (p + label) / 2, None, ["auc", "ne"])
    assert list(found) == ["ne"]
    assert reasons == {"auc interval": "1 is the end of its scale"}


def test_replicates_at_the_end_of_a_scale_are_a_reason():
    label, p, _ = logged()
    score = (p + label) / 2
    score[np.argmax(label)] = 0.01  # one positive below the negatives: absent from some replicates
    _, reasons = found_of(label, score, None, ["auc"])
    assert reasons["auc interval"].endswith("of 200 replicates are at its scale's end")


def test_rows_of_weight_zero_do_not_count():
    label, p, user = logged()
    weight = np.ones(4_000)
    weight[np.flatnonzero(label)[3:]] = 0
    found, reasons = intervals({"auc": 0.6}, label, p, user, weight)
    assert (found, reasons) == ({}, {"interval": "3 positives; an interval takes 50"})


def test_nothing_measured_has_none():
    assert intervals({}, [], []) == ({}, {})


@pytest.mark.parametrize("name", ["ece"])
def test_what_resampling_biases_has_no_scale(name):
    assert METRICS[name].scale is None
