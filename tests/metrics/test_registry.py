"""The registry names every metric and knows which way is better."""

import numpy as np
import pytest

from polyrank.errors import ConfigError
from polyrank.metrics.registry import METRICS, direction, metric

BINARY = ["auc", "gauc", "pr_auc", "log_loss", "ne", "pcoc", "ece", "ndcg@10", "recall@10", "mrr"]
REGRESSION = ["rmse", "mae", "r2", "bias"]
EVERY = [each for known in METRICS.values() for each in known.values()]
DIRECTED = [
    (kind, each)
    for kind, known in METRICS.items()
    for each in known.values()
    if each.higher_is_better is not None
]


def test_the_names_are_the_ones_in_json():
    assert list(METRICS) == ["binary", "regression"]
    assert list(METRICS["binary"]) == BINARY
    assert list(METRICS["regression"]) == REGRESSION
    assert all(name == each.name for known in METRICS.values() for name, each in known.items())


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.name)
def test_every_metric_is_called_alike(each):
    label, prediction, user = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.3, 0.6]), [1, 1, 2, 2]
    keys = (user,) if each.key else ()
    value = each.function(label, prediction, *keys, None)
    assert isinstance(value, float)
    assert each.function(label, prediction, *keys, np.ones(4)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("kind", "each"), DIRECTED, ids=lambda value: getattr(value, "name", value)
)
def test_the_truth_is_better_than_its_opposite(kind, each):
    label = np.array([0.0, 1.0, 0.0, 1.0, 0.0] + 10 * [0.0])
    keys = (np.zeros(15),) if each.key else ()
    good = each.function(label, label, *keys, None)
    bad = each.function(label, 1 - label, *keys, None)
    assert (good > bad) == direction(kind, each.name)


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.name)
def test_only_a_metric_without_direction_has_a_best_value(each):
    assert (each.best is None) == (each.higher_is_better is not None)


def test_an_unknown_metric_is_refused_with_the_nearest():
    message = r"a binary task has no metric 'pr_aucc'; did you mean 'pr_auc'\? \(known: 'auc', "
    with pytest.raises(ConfigError, match=message):
        metric("binary", "pr_aucc")
    with pytest.raises(ConfigError, match="a regression task has no metric 'auc' "):
        direction("regression", "auc")


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown kind 'binry'; did you mean 'binary'\?"):
        direction("binry", "auc")


def test_a_metric_without_direction_cannot_choose_an_epoch():
    with pytest.raises(ConfigError) as caught:
        direction("binary", "pcoc")
    assert str(caught.value) == (
        "metric 'pcoc' is best near 1, neither high nor low, so it cannot tell a better epoch; "
        "use one of 'auc', 'gauc', 'pr_auc', 'log_loss', 'ne', 'ece', 'ndcg@10', "
        "'recall@10', 'mrr'"
    )
    with pytest.raises(ConfigError, match=r"'bias' is best near 0, .* 'rmse', 'mae', 'r2'$"):
        direction("regression", "bias")
