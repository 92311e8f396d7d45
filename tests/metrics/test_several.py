"""Metrics of quantiles and categories against scikit-learn, and their replicates by hand."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

import polyrank as pr
from polyrank.errors import DataError
from polyrank.metrics.bootstrap import bootstrap, draws, intervals
from polyrank.metrics.registry import METRICS
from polyrank.metrics.undefined import Undefined

ROWS = 600
LEVELS = (0.1, 0.5, 0.9)


def of_quantiles(seed=0):
    random = np.random.default_rng(seed)
    centre = random.normal(0, 1, ROWS)
    outputs = centre[:, None] + np.array([-1.0, 0.1, 1.4])
    label = centre + random.normal(0, 1, ROWS)
    return label, outputs, {"outputs": outputs, "kind": pr.Quantile(levels=LEVELS)}


def of_categories(seed=0, values=(1, 2, 5)):
    random = np.random.default_rng(seed)
    outputs = random.dirichlet([2.0, 1.0, 0.7], ROWS)
    label = np.array(values)[(random.random(ROWS)[:, None] > outputs.cumsum(1)).sum(1)]
    return label, outputs, {"outputs": outputs, "kind": pr.Categorical(values=values)}


WEIGHT = np.random.default_rng(5).choice([0.0, 0.5, 2.0], ROWS)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_pinball_is_the_mean_of_scikit_learns(weight):
    label, outputs, beside = of_quantiles()
    expected = [
        sklearn.mean_pinball_loss(label, each, alpha=level, sample_weight=weight)
        for level, each in zip(LEVELS, outputs.T, strict=True)
    ]
    found = METRICS["pinball"](label, outputs[:, 0], weight, **beside)
    assert found == pytest.approx(np.mean(expected))


def test_coverage_counts_the_rows_between_the_outer_quantiles():
    label, outputs, beside = of_quantiles()
    inside = ((label > outputs[:, 0]) & (label <= outputs[:, -1])).mean()
    found = METRICS["coverage_gap"](label, outputs[:, 0], **beside)
    assert found == pytest.approx(inside - 0.8)
    one = pr.Quantile(levels=[0.3])
    found = METRICS["coverage_gap"](label, outputs[:, 0], kind=one)
    assert found == pytest.approx((label <= outputs[:, 0]).mean() - 0.3)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_categories_equal_scikit_learn(weight):
    label, outputs, beside = of_categories()
    values = beside["kind"].values

    def found(name):
        return METRICS[name](label, outputs[:, 0], weight, **beside)

    loss = sklearn.log_loss(label, outputs, sample_weight=weight, labels=values)
    assert found("cross_entropy") == pytest.approx(loss)
    top = sklearn.top_k_accuracy_score(label, outputs, k=1, sample_weight=weight, labels=values)
    assert found("accuracy@1") == pytest.approx(top)
    assert found("accuracy@3") == 1
    each = [
        sklearn.roc_auc_score(label == value, score, sample_weight=weight)
        for value, score in zip(values, outputs.T, strict=True)
    ]
    assert found("macro_auc") == pytest.approx(np.mean(each))


def test_ties_of_categories_share_a_place():
    label, kind = np.array([1.0, 2, 5]), pr.Categorical(values=[1, 2, 5])
    even = np.full((3, 3), 1 / 3)
    assert METRICS["accuracy@1"](label, even[:, 0], outputs=even, kind=kind) == pytest.approx(1 / 3)
    assert METRICS["macro_auc"](label, even[:, 0], outputs=even, kind=kind) == pytest.approx(0.5)


def test_one_category_has_no_area():
    kind = pr.Categorical(values=[1, 2])
    with pytest.raises(Undefined, match="one category in all 2 rows"):
        METRICS["macro_auc"]([1, 1], [0.5, 0.5], outputs=np.full((2, 2), 0.5), kind=kind)


def test_what_is_missing_is_named():
    with pytest.raises(DataError, match="a metric of categories needs"):
        METRICS["cross_entropy"]([1.0], [0.5])
    with pytest.raises(DataError, match="a metric of quantiles needs"):
        METRICS["pinball"]([1.0], [0.5])


@pytest.mark.parametrize(
    ("name", "log"),
    [
        ("pinball", of_quantiles), ("coverage_gap", of_quantiles),
        ("cross_entropy", of_categories), ("accuracy@1", of_categories),
    ],
)  # fmt: skip
def test_a_replicate_is_the_metric_of_rows_with_counts(name, log):
    label, outputs, beside = log()
    found = bootstrap(label, outputs[:, 0], None, None, [name], replicates=20, seed=2, **beside)
    expected = [
        METRICS[name](label, outputs[:, 0], counts[0].astype(float), **beside)
        for counts in draws(ROWS, 20, 2, step=1)
    ]
    np.testing.assert_allclose(found[name], expected, rtol=1e-9)


def test_replicates_of_the_macro_auc_spread_as_the_metric_of_resampled_rows():
    label, outputs, beside = of_categories()
    found = bootstrap(
        label, outputs[:, 0], None, None, ["macro_auc"], replicates=300, seed=2, **beside
    )["macro_auc"]
    expected = [
        METRICS["macro_auc"](label, outputs[:, 0], counts[0].astype(float), **beside)
        for counts in draws(ROWS, 300, 2, step=1)
    ]
    assert found.std() == pytest.approx(np.std(expected), rel=0.05)
    assert np.corrcoef(found, expected)[0, 1] > 0.98


def test_intervals_surround_their_values():
    label, outputs, beside = of_categories()
    names = ("cross_entropy", "accuracy@1", "macro_auc")
    values = {name: METRICS[name](label, outputs[:, 0], **beside) for name in names}
    found, reasons = intervals(values, label, outputs[:, 0], **beside)
    assert reasons == {}
    for name, (low, high) in found.items():
        assert low < values[name] < high
