"""The registry names every metric and knows which way is better."""

import numpy as np
import pytest

from polyrank.errors import ConfigError
from polyrank.labels import LABELS, Binary, Categorical, Quantile
from polyrank.metrics.bootstrap import intervals
from polyrank.metrics.metric import Metric, one
from polyrank.metrics.registry import METRICS, direction, metric, metrics_of
from polyrank.registry import register, unregister

BINARY = ["auc", "gauc", "pr_auc", "log_loss", "ne", "pcoc", "ece", "ndcg@10", "recall@10", "mrr"]
REGRESSION = ["rmse", "mae", "r2", "bias"]
# What metrics of several outputs take beside: a kind, and outputs of which a number is the last.
SEVERAL = {
    "quantile": (Quantile(levels=[0.3, 0.5]), lambda p: np.column_stack([p - 0.1, p])),
    "categorical": (Categorical(values=[0, 1]), lambda p: np.column_stack([1 - p, p])),
}
EVERY = list(METRICS.values())
DIRECTED = [
    (kind, each)
    for kind in LABELS
    for each in metrics_of(kind).values()
    # Of two categories, one of the first three is always right.
    if each.higher_is_better is not None and each.name != "accuracy@3"
]


def test_the_names_are_the_ones_in_json():
    assert list(metrics_of("binary")) == BINARY
    assert list(metrics_of("regression")) == REGRESSION
    assert list(metrics_of(Binary)) == list(metrics_of(Binary())) == BINARY
    assert [each.name for each in EVERY] == list(METRICS)


def test_roles_choose_where_a_metric_is_shown():
    assert list(metrics_of("binary", "compared")) == ["auc", "gauc", "pr_auc", "ne"]
    assert list(metrics_of("regression", "compared")) == ["rmse"]
    diagnosed = ["auc", "log_loss", "ne", "pcoc", "ece"]
    assert list(metrics_of("binary", "diagnosed")) == diagnosed
    assert list(metrics_of("binary", "segment table")) == ["auc", "ne", "pcoc"]
    assert list(metrics_of("binary", "calibration table")) == ["auc", "pcoc", "ece"]


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.name)
def test_every_metric_is_called_alike(each):
    label, prediction, user = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.3, 0.6]), [1, 1, 2, 2]
    beside = options(each, prediction)
    value = each(label, prediction, key=user, **beside)
    assert isinstance(value, float)
    assert each(label, prediction, np.ones(4), key=user, **beside) == pytest.approx(value)


def options(metric, prediction):
    """Return what a metric of several outputs takes beside a prediction."""
    if metric.kinds[0] not in SEVERAL:
        return {}
    kind, outputs = SEVERAL[metric.kinds[0]]
    return {"kind": kind, "outputs": outputs(prediction)}


@pytest.mark.parametrize(
    ("kind", "each"), DIRECTED, ids=lambda value: getattr(value, "name", value)
)
def test_the_truth_is_better_than_its_opposite(kind, each):
    label = np.array([0.0, 1.0, 0.0, 1.0, 0.0] + 10 * [0.0])
    good = each(label, label, key=np.zeros(15), **options(each, label))
    bad = each(label, 1 - label, key=np.zeros(15), **options(each, 1 - label))
    assert (good > bad) == direction(kind, each.name)


def mean_label(total, rows):
    return total / rows


ABOUT = {
    "title": "mean label", "kinds": ("binary",), "higher_is_better": True,
    "sums": (lambda rows: rows.label, one), "scale": "log",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"sums": ()}, "a scale needs replicates"),
        ({"best": 1}, "it has either a direction or a best value"),
        ({"higher_is_better": None}, "it has either a direction or a best value"),
        (
            {"higher_is_better": None, "best": 1, "roles": ("compared",)},
            "what is compared has a direction",
        ),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused(changes, rule):
    with pytest.raises(ConfigError, match=f"metric 'mean_label': {rule}"):
        Metric(mean_label, **{**ABOUT, **changes})


def test_a_metric_of_another_package_is_one_like_ours():
    register("metric", "mean_label", Metric(mean_label, **ABOUT))
    try:
        assert list(metrics_of("binary"))[-1] == "mean_label"
        assert direction("binary", "mean_label") is True
        label, p = np.array([0, 1, 1, 0, 1] * 40), np.linspace(0.1, 0.9, 200)
        assert metric("binary", "mean_label")(label, p) == pytest.approx(0.6)
        found, reasons = intervals({"mean_label": 0.6}, label, p)
        assert reasons == {}
        assert found["mean_label"][0] < 0.6 < found["mean_label"][1]
    finally:
        unregister("metric", "mean_label")


def test_a_kind_of_label_has_metrics_of_other_kinds_too():
    class Bounded(Binary):
        name = "bounded"
        metrics = ("rmse", "auc")

    assert list(metrics_of(Bounded)) == ["rmse", "auc"]
    assert metric(Bounded(), "rmse") is METRICS["rmse"]


def test_without_its_key_a_metric_says_so():
    with pytest.raises(ValueError, match=r"^no user key$"):
        METRICS["gauc"]([0, 1], [0.1, 0.2])


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
