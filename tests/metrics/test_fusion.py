"""The fused score by plain arithmetic, its names, what it ranks, and its trade-off."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.errors import ConfigError, DataError
from polyrank.metrics.binary import auc, gauc, pr_auc
from polyrank.metrics.fusion import Fusion, fused, trade_off
from polyrank.metrics.ranking import ndcg_at
from polyrank.metrics.score import Scorecard
from polyrank.metrics.scorecard import scorecard
from polyrank.metrics.undefined import Undefined
from polyrank.schema import DenseFeature, Schema, Task

SCHEMA = Schema(
    [DenseFeature("x")],
    [
        Task("click"),
        Task("buy", label="purchase", given="click"),
        Task("spend", kind="regression", given="buy"),
    ],
)
ROWS = 400


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(1)
    click, cvr = generator.uniform(0.01, 0.9, (2, ROWS))
    outputs = {"p_click": click, "p_buy_given_click": cvr, "p_buy": click * cvr}
    outputs |= {"spend_given_buy": np.full(ROWS, 3.0), "spend": 3 * click * cvr}
    clicked = (generator.random(ROWS) < click).astype(float)
    bought = np.where(clicked == 1, generator.random(ROWS) < cvr, np.nan).astype(float)
    labels = {"click": clicked, "buy": bought, "spend": np.full(ROWS, np.nan)}
    return outputs, {"price": pl.Series(generator.lognormal(size=ROWS))}, labels


def test_the_score_is_the_weighted_sum(log):
    outputs, columns, _ = log
    weights = {"click": 1, "p_buy_given_click": 2, "spend": 0.5, "price": -0.1}
    expected = (
        np.log(outputs["p_click"])
        + 2 * np.log(outputs["p_buy_given_click"])
        + 0.5 * outputs["spend"]
        - 0.1 * columns["price"].to_numpy()
    )
    np.testing.assert_allclose(Fusion(weights).score(SCHEMA, outputs, columns), expected)


def test_a_task_is_its_joint_probability(log):
    outputs, _, _ = log
    by_task = Fusion({"buy": 1}).score(SCHEMA, outputs, {})
    np.testing.assert_array_equal(by_task, Fusion({"p_buy": 1}).score(SCHEMA, outputs, {}))


def test_a_probability_of_0_counts_as_the_smallest():
    score = Fusion({"click": 1}).score(SCHEMA, {"p_click": np.array([0.0, 1e-320, 1.0])}, {})
    assert score.tolist() == [np.log(np.finfo(float).tiny)] * 2 + [0.0]


@given(st.floats(0.01, 100))
def test_a_common_factor_of_the_weights_changes_no_rank(factor):
    generator = np.random.default_rng(0)
    outputs = {"p_click": generator.random(50), "p_buy": generator.random(50)}
    one, other = (
        Fusion({"click": by, "buy": 2 * by}).score(SCHEMA, outputs, {}) for by in (1, factor)
    )
    assert np.argsort(one).tolist() == np.argsort(other).tolist()


def test_it_is_measured_by_the_metrics_of_an_order_alone(log):
    outputs, columns, labels = log
    fusion, user = Fusion({"click": 1, "buy": 2}), pl.Series(np.arange(ROWS) % 20)
    score = fusion.score(SCHEMA, outputs, columns)
    request = pl.Series([f"r{n // 8}" for n in range(ROWS)])
    weight = np.random.default_rng(2).uniform(1, 2, ROWS)
    found = fused(
        SCHEMA, fusion, score, labels, keys={"user": user, "request": request}, weight=weight
    )
    assert [each.name for each in found.scores] == ["click @ all", "buy @ all"]
    bought = np.nan_to_num(labels["buy"])  # no click, no purchase
    metrics = found.scores[1].metrics
    assert metrics["auc"]["value"] == pytest.approx(auc(bought, score, weight))
    assert metrics["pr_auc"]["value"] == pytest.approx(pr_auc(bought, score, weight))
    assert metrics["gauc"]["value"] == pytest.approx(gauc(bought, score, weight, key=user))
    assert metrics["ndcg@10"]["value"] == pytest.approx(
        ndcg_at(10)(bought, score, weight, key=request)
    )
    assert not {"log_loss", "ne", "pcoc", "ece"} & {*metrics, *found.scores[1].absent}
    assert found.scores[1].label_mean == pytest.approx(np.average(bought, weights=weight))
    assert found.scores[1].prediction_mean is None


def test_the_weight_of_one_task_alone_ranks_as_that_task(log):
    outputs, _, labels = log
    fusion = Fusion({"buy": 3})
    found = fused(SCHEMA, fusion, fusion.score(SCHEMA, outputs, {}), labels)
    card = scorecard(SCHEMA, outputs, labels, split="test")
    for score in found.scores[1:]:
        assert score.metrics["auc"]["value"] == pytest.approx(card.value(score.name, "auc"))
    assert found.scores[0].absent["gauc"] == "no user key"


def test_a_scorecard_with_one_reads_its_own_json_and_prints_it(log):
    outputs, _, labels = log
    fusion = Fusion({"click": 1, "buy": 2.5})
    found = fused(SCHEMA, fusion, fusion.score(SCHEMA, outputs, {}), labels)
    card = Scorecard("test", (), found)
    assert card.to_json()["fusion"]["weights"] == {"click": 1, "buy": 2.5}
    assert Scorecard.from_json(card.to_json()) == card
    assert "fused score, by outcome" in str(card)
    assert "– weights: click = 1, buy = 2.5" in str(card)
    assert "fusion" not in Scorecard("test", ()).to_json()


def test_the_trade_off_starts_at_the_rest_and_moves_to_the_swept_task(log):
    outputs, columns, labels = log
    fusion = Fusion({"click": 1, "p_buy_given_click": 2})
    scores = ("click @ all", "buy|click @ click")
    points = trade_off(
        SCHEMA, fusion, outputs, columns, labels, "p_buy_given_click", scores, factors=[0, 1, 1e9]
    )
    first, second = (f"auc of {score}" for score in scores)
    assert points.columns == ["weight", first, second]
    assert points["weight"].to_list() == [0, 2, 2e9]
    card = scorecard(SCHEMA, outputs, labels, split="test")
    assert points[first][0] == card.value(scores[0], "auc")
    assert points[second][2] == card.value(scores[1], "auc")
    score = fusion.score(SCHEMA, outputs, columns)
    assert points[first][1] == pytest.approx(auc(labels["click"], score))
    assert points[first].is_sorted(descending=True)
    assert points[second].is_sorted()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "weights must be given by name"),
        (["click"], "weights must be given by name"),
        ({"click": "1"}, "click must be a finite number, got '1'"),
        ({"click": True}, "click must be a finite number, got True"),
        ({"click": float("nan")}, "click must be a finite number, got nan"),
        ({1: 1.0}, "names must be strings, got 1"),
    ],
)
def test_what_are_no_weights_is_refused(weights, message):
    with pytest.raises(ConfigError, match=message):
        Fusion(weights)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"'prise' is neither a task, .* a column of test; did you mean 'price'"
    ):
        Fusion({"click": 1, "prise": 1}).check(SCHEMA, ["x", "price"], "test")


def test_a_label_is_refused():
    with pytest.raises(ConfigError, match=r"'purchase' is the label of task 'buy'.*write 'buy'"):
        Fusion({"purchase": 1}).columns(SCHEMA)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, None, float("nan"), float("inf")], r"3 of 4 values .* \(1 null\), .* in row 1"),
        (["1", "2", "3", "4"], "column 'price' must hold numbers, .* got String"),
    ],
)
def test_a_column_that_cannot_be_added_up_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        Fusion({"price": 1}).score(SCHEMA, {}, {"price": pl.Series(values)})


@pytest.mark.parametrize(
    ("name", "scores", "metric", "message"),
    [
        ("prise", ("click @ all", "buy @ all"), "auc", "fusion has no weight 'prise'; did you"),
        ("price", ("click @ al", "buy @ all"), "auc", "unknown score 'click @ al'; did you"),
        ("price", ("click @ all", "spend|buy @ buy"), "auc", "is between the scores of events"),
        ("price", ("click @ all", "buy @ all"), "ne", "is no probability, so it has no 'ne'"),
    ],
)
def test_a_trade_off_that_cannot_be_is_refused(log, name, scores, metric, message):
    outputs, columns, labels = log
    with pytest.raises(ConfigError, match=message):
        trade_off(
            SCHEMA, Fusion({"price": 1}), outputs, columns, labels, name, scores, metric=metric
        )


@pytest.mark.parametrize("factors", [[], ["a"], [float("nan")], 2, "12"])
def test_factors_are_finite_numbers(log, factors):
    outputs, columns, labels = log
    with pytest.raises(ConfigError, match="factors must be finite numbers, such as"):
        trade_off(
            SCHEMA, Fusion({"price": 1}), outputs, columns, labels, "price",
            ("click @ all", "buy @ all"), factors=factors,
        )  # fmt: skip


@pytest.mark.parametrize("scores", ["click @ all", ("click @ all",)])
def test_a_trade_off_takes_two_scores(log, scores):
    outputs, columns, labels = log
    with pytest.raises(ConfigError, match="a trade-off is between two scores, such as"):
        trade_off(SCHEMA, Fusion({"price": 1}), outputs, columns, labels, "price", scores)


def test_a_trade_off_without_positives_says_why(log):
    outputs, columns, labels = log
    none = {**labels, "buy": np.zeros(ROWS)}
    scores = ("click @ all", "buy @ all")
    with pytest.raises(Undefined, match="no positive among 400 rows"):
        trade_off(SCHEMA, Fusion({"price": 1}), outputs, columns, none, "price", scores)
