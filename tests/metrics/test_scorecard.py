"""The scorecard measures each task on each of its populations, and says what it cannot measure."""

import json

import numpy as np
import polars as pl
import pytest

from polyrank.errors import ConfigError, DataError
from polyrank.metrics import binary, ranking, regression
from polyrank.metrics.scorecard import Scorecard, scorecard
from polyrank.schema import DenseFeature, Schema, Task

NAN = float("nan")
FUNNEL = Schema(
    [DenseFeature("x")],
    [
        Task("click"),
        Task("cart", given="click", space="click"),
        Task("buy", given="cart"),
        Task("spend", kind="regression", given="buy"),
        Task("rating", kind="regression"),
    ],
)
NAMES = [
    "click @ all",
    "cart @ all",
    "cart|click @ click",
    "buy @ all",
    "buy|click @ click",
    "buy|cart @ cart",
    "spend|buy @ buy",
    "rating @ all",
]
ROWS = 4_000


def drawn(rows=ROWS, seed=0):
    """Return the keyword arguments of `scorecard` for a funnel whose truth is known."""
    random = np.random.default_rng(seed)
    heads = {name: random.uniform(0.3, 0.9, rows) for name in ("click", "cart", "buy")}
    outcomes = {name: (random.random(rows) < p).astype(float) for name, p in heads.items()}
    labels = {"click": outcomes["click"]}
    labels["cart"] = labels["click"] * outcomes["cart"]
    labels["buy"] = labels["cart"] * outcomes["buy"]
    labels["spend"] = np.where(labels["buy"] == 1, random.gamma(2, 10, rows), NAN)
    labels["rating"] = np.where(random.random(rows) < 0.5, random.integers(1, 6, rows), NAN)

    def outputs(click, cart, buy):
        return {
            "p_click": click,
            "p_cart_given_click": cart,
            "p_cart": click * cart,
            "p_buy_given_cart": buy,
            "p_buy": click * cart * buy,
        }

    guessed = [np.clip(p + random.normal(0, 0.1, rows), 0.01, 0.99) for p in heads.values()]
    predictions = outputs(*guessed)
    predictions["spend_given_buy"] = random.gamma(2, 10, rows)
    predictions["spend"] = predictions["p_buy"] * predictions["spend_given_buy"]
    predictions["rating"] = random.uniform(1, 5, rows)
    truth = {f"true_{name}": values for name, values in outputs(*heads.values()).items()}
    return {
        "predictions": predictions,
        "labels": labels,
        "user": random.integers(0, 50, rows),
        "weight": random.uniform(0.5, 2, rows),
        "truth": truth,
        "request": random.integers(0, 40, rows),
    }


def without(arguments, *names):
    return {name: value for name, value in arguments.items() if name not in names}


def test_every_population_has_a_score_in_task_order():
    card = scorecard(FUNNEL, **without(drawn(), "truth"), split="test")
    assert [score.name for score in card] == NAMES
    assert card.split == "test"
    for score in card:
        assert score.truth is None
        assert score.absent == {}


def test_each_score_is_of_its_rows_labels_and_product():
    data = drawn()
    card = scorecard(FUNNEL, **data, split="test")
    labels, p, weight, user = data["labels"], data["predictions"], data["weight"], data["user"]
    product = p["p_cart_given_click"] * p["p_buy_given_cart"]
    for name, rows, label, prediction in [
        ("click @ all", weight > 0, labels["click"], p["p_click"]),
        ("cart @ all", weight > 0, labels["cart"], p["p_cart"]),
        ("cart|click @ click", labels["click"] == 1, labels["cart"], p["p_cart_given_click"]),
        ("buy @ all", weight > 0, labels["buy"], p["p_buy"]),
        ("buy|click @ click", labels["click"] == 1, labels["buy"], product),
        ("buy|cart @ cart", labels["cart"] == 1, labels["buy"], p["p_buy_given_cart"]),
    ]:
        score = card[name]
        y, q, w, u = label[rows], prediction[rows], weight[rows], user[rows]
        r = data["request"][rows]
        assert (score.rows, score.positives) == (rows.sum(), y.sum())
        assert score.label_mean == pytest.approx(np.average(y, weights=w))
        assert score.prediction_mean == pytest.approx(np.average(q, weights=w))
        assert {each: parts["value"] for each, parts in score.metrics.items()} == pytest.approx(
            {
                "auc": binary.auc(y, q, w),
                "gauc": binary.gauc(y, q, w, key=u),
                "pr_auc": binary.pr_auc(y, q, w),
                "log_loss": binary.log_loss(y, q, w),
                "ne": binary.ne(y, q, w),
                "pcoc": binary.pcoc(y, q, w),
                "ece": binary.ece(y, q, w),
                "ndcg@10": ranking.ndcg_at(10)(y, q, w, key=r),
                "recall@10": ranking.recall_at(10)(y, q, w, key=r),
                "mrr": ranking.mrr(y, q, w, key=r),
            }
        )


def test_regressions_are_measured_where_they_are_observed():
    data = drawn()
    card = scorecard(FUNNEL, **data, split="test")
    for name, given, rows, column in [
        ("spend|buy @ buy", "buy", data["labels"]["buy"] == 1, "spend_given_buy"),
        ("rating @ all", None, ~np.isnan(data["labels"]["rating"]), "rating"),
    ]:
        score = card[name]
        y = data["labels"][score.task][rows]
        p, w = data["predictions"][column][rows], data["weight"][rows]
        assert (score.rows, score.positives, score.given) == (rows.sum(), None, given)
        assert score.space == (given or "all")
        assert score.label_mean == pytest.approx(np.average(y, weights=w))
        assert {each: parts["value"] for each, parts in score.metrics.items()} == pytest.approx(
            {
                "rmse": regression.rmse(y, p, w),
                "mae": regression.mae(y, p, w),
                "r2": regression.r2(y, p, w),
                "bias": regression.bias(y, p, w),
            }
        )
        assert score.truth is None


def test_a_label_that_was_not_observed_leaves_out_only_what_it_decides():
    schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
    labels = {"click": [0, 0, 1, 1, 1, NAN, NAN], "buy": [NAN, 0, NAN, 0, 1, NAN, 0]}
    p = np.linspace(0.1, 0.7, 7)
    predictions = {"p_click": p, "p_buy_given_click": p, "p_buy": p * p}
    card = scorecard(schema, predictions, labels, split="test")
    counts = {score.name: (score.rows, score.positives) for score in card}
    # Not clicked is not bought, observed or not; not bought is not bought, clicked or not.
    assert counts == {"click @ all": (5, 3), "buy @ all": (5, 1), "buy|click @ click": (2, 1)}


def test_truth_is_compared_on_the_rows_of_the_population():
    data = drawn()
    card = scorecard(FUNNEL, **data, split="test")
    p, true, weight = data["predictions"], data["truth"], data["weight"]
    clicked = data["labels"]["click"] == 1
    p_true = (true["true_p_cart_given_click"] * true["true_p_buy_given_cart"])[clicked]
    product = (p["p_cart_given_click"] * p["p_buy_given_cart"])[clicked]
    assert card["buy|click @ click"].truth == pytest.approx(
        {
            "mae": np.average(np.abs(product - p_true), weights=weight[clicked]),
            "rmse": np.average((product - p_true) ** 2, weights=weight[clicked]) ** 0.5,
            "oracle_auc": binary.auc(data["labels"]["buy"][clicked], p_true, weight[clicked]),
        }
    )
    assert card["buy @ all"].truth == pytest.approx(
        {
            "mae": np.average(np.abs(p["p_buy"] - true["true_p_buy"]), weights=weight),
            "rmse": np.average((p["p_buy"] - true["true_p_buy"]) ** 2, weights=weight) ** 0.5,
            "oracle_auc": binary.auc(data["labels"]["buy"], true["true_p_buy"], weight),
        }
    )


def test_truth_gives_each_conditional_a_score_on_all_rows():
    data = drawn()
    card = scorecard(FUNNEL, **data, split="test")
    extra = [score.name for score in card if score.name not in NAMES]
    assert extra == ["cart|click @ all", "buy|click @ all", "buy|cart @ all"]
    p, true, weight = data["predictions"], data["truth"], data["weight"]
    product = p["p_cart_given_click"] * p["p_buy_given_cart"]
    p_true = true["true_p_cart_given_click"] * true["true_p_buy_given_cart"]
    score = card["buy|click @ all"]
    assert (score.task, score.given, score.space) == ("buy", "click", "all")
    assert (score.rows, score.positives, score.label_mean) == (None, None, None)
    assert score.prediction_mean == pytest.approx(np.average(product, weights=weight))
    assert score.metrics == {"auc": {"value": binary.soft_auc(p_true, product, weight)}}
    assert score.truth == pytest.approx(
        {
            "mae": np.average(np.abs(product - p_true), weights=weight),
            "rmse": np.average((product - p_true) ** 2, weights=weight) ** 0.5,
            "oracle_auc": binary.soft_auc(p_true, p_true, weight),
        }
    )
    assert score.absent == dict.fromkeys(
        [name for name in binary_names() if name != "auc"],
        "true probabilities in place of labels: AUC only",
    )


def test_any_subset_of_the_truth_is_used_where_it_suffices():
    data = drawn()
    some = {
        name: data["truth"][name] for name in ("true_p_buy_given_cart", "true_p_cart", "true_p_buy")
    }
    card = scorecard(FUNNEL, **{**data, "truth": some}, split="test")
    known = [score.name for score in card if score.truth is not None]
    assert known == ["cart @ all", "buy @ all", "buy|cart @ cart", "buy|cart @ all"]
    heads = {name: data["truth"][name] for name in ("true_p_click", "true_p_cart_given_click")}
    card = scorecard(FUNNEL, **{**data, "truth": heads}, split="test")
    whole = scorecard(FUNNEL, **data, split="test")
    assert card["cart @ all"].truth == pytest.approx(whole["cart @ all"].truth)
    assert card["buy @ all"].truth is None


def test_a_true_regression_column_is_refused():
    refused("unknown truth column 'true_spend'", truth={"true_spend": np.ones(3)})


def test_only_the_metrics_that_are_asked_for():
    data = drawn()
    whole = scorecard(FUNNEL, **data, split="test")
    card = scorecard(FUNNEL, **data, split="test", only={"rmse", "auc"})
    assert [(score.name, score.kind) for score in card] == [(s.name, s.kind) for s in whole]
    for score in card:
        name = "rmse" if score.kind == "regression" else "auc"
        assert score.metrics == {name: whole[score.name].metrics[name]}
        assert score.absent == {}
        assert score.truth == whole[score.name].truth


def test_a_metric_that_is_asked_for_may_be_absent():
    data = without(drawn(), "user")
    card = scorecard(FUNNEL, **data, split="test", only=["gauc"])
    assert card["click @ all"].absent == {"gauc": "no user key"}
    assert card["buy|click @ all"].absent == {
        "gauc": "true probabilities in place of labels: AUC only"
    }
    assert (card["rating @ all"].metrics, card["rating @ all"].absent) == ({}, {})
    assert card["rating @ all"].kind == "regression"


def test_an_unknown_metric_to_compute_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"only: unknown metric 'acu'; did you mean 'auc'\?"):
        scorecard(FUNNEL, **drawn(rows=3), split="test", only=["acu"])


def test_users_are_told_apart_beyond_the_integers_of_a_float():
    data = drawn()
    users = pl.Series(data["user"]) % 2 + 2**53
    expected = scorecard(FUNNEL, **{**data, "user": data["user"] % 2}, split="test")
    card = scorecard(FUNNEL, **{**data, "user": users}, split="test")
    assert card.value("buy @ all", "gauc") == pytest.approx(expected.value("buy @ all", "gauc"))


def test_without_a_user_key_the_grouped_auc_is_absent():
    card = scorecard(FUNNEL, **without(drawn(), "user"), split="test")
    assert card["click @ all"].absent == {"gauc": "no user key"}
    assert "gauc" not in card["click @ all"].metrics


def test_user_keys_may_be_strings():
    data = drawn()
    named = pl.Series([f"user {each}" for each in data["user"]])
    expected = scorecard(FUNNEL, **data, split="test")
    for keys in (named, named.to_numpy()):
        card = scorecard(FUNNEL, **{**data, "user": keys}, split="test")
        assert card.value("buy @ all", "gauc") == pytest.approx(expected.value("buy @ all", "gauc"))


def test_a_population_without_rows_says_why():
    data = drawn()
    data["labels"] = {**data["labels"], "click": np.zeros(ROWS), "rating": np.full(ROWS, NAN)}
    card = scorecard(FUNNEL, **data, split="test")
    score = card["buy|cart @ cart"]
    assert (score.rows, score.positives, score.metrics, score.truth) == (0, 0, {}, None)
    assert (score.label_mean, score.prediction_mean) == (None, None)
    assert score.absent == dict.fromkeys(
        binary_names(), "no rows where cart happened and buy is observed"
    )
    rating = card["rating @ all"]
    assert rating.absent == dict.fromkeys(
        ["rmse", "mae", "r2", "bias"], "no rows where rating is observed"
    )
    assert (rating.rows, rating.positives, rating.kind) == (0, None, "regression")


def binary_names():
    return ["auc", "gauc", "pr_auc", "log_loss", "ne", "pcoc", "ece", "ndcg@10", "recall@10", "mrr"]


def test_one_class_leaves_the_other_metrics():
    schema = Schema([DenseFeature("x")], [Task("click")])
    truth = {"true_p_click": [0.1, 0.2]}
    card = scorecard(schema, {"p_click": [0.5, 0.5]}, {"click": [0, 0]}, split="valid", truth=truth)
    score = card["click @ all"]
    assert score.absent == {
        **dict.fromkeys(["auc", "pr_auc", "ne", "pcoc"], "no positive among 2 rows"),
        "gauc": "no user key",
        **dict.fromkeys(["ndcg@10", "recall@10", "mrr"], "no request key"),
        "oracle_auc": "no positive among 2 rows",
    }
    assert list(score.metrics) == ["log_loss", "ece"]
    assert score.truth == pytest.approx({"mae": 0.35, "rmse": np.sqrt((0.16 + 0.09) / 2)})


def test_a_certain_truth_has_no_soft_auc():
    schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
    half = [0.5, 0.5]
    card = scorecard(
        schema,
        {"p_click": half, "p_buy_given_click": half, "p_buy": [0.25, 0.25]},
        {"click": [0, 1], "buy": [0, 1]},
        split="test",
        truth={"true_p_buy_given_click": [0, 0]},
    )
    score = card["buy|click @ all"]
    assert score.absent["auc"] == "the true probability is 0 in all 2 rows"
    assert score.absent["oracle_auc"] == "the true probability is 0 in all 2 rows"
    assert (score.metrics, score.truth) == ({}, {"mae": 0.5, "rmse": 0.5})


def test_no_rows_at_all():
    empty = drawn(rows=0)
    card = scorecard(FUNNEL, **empty, split="test")
    assert all(score.metrics == {} and score.truth is None for score in card)
    assert card["buy|click @ all"].absent["auc"] == "no rows"
    assert card["click @ all"].absent["auc"] == "no rows where click is observed"
    json.dumps(card.to_json(), allow_nan=False)


def test_rows_of_weight_zero_are_counted_and_not_measured():
    data = drawn(rows=100)
    card = scorecard(FUNNEL, **{**data, "weight": np.zeros(100)}, split="test")
    score = card["click @ all"]
    assert score.rows == 100
    assert score.positives == data["labels"]["click"].sum()
    assert (score.label_mean, score.metrics, score.truth) == (None, {}, None)
    assert set(score.absent.values()) == {"no rows of weight above 0"}


def test_it_is_plain_json_and_reads_back():
    card = scorecard(FUNNEL, **drawn(), split="test")
    text = json.dumps(card.to_json(), allow_nan=False)
    assert Scorecard.from_json(json.loads(text)) == card
    for score in card:
        numbers = [parts["value"] for parts in score.metrics.values()]
        numbers += [score.prediction_mean, *(score.truth or {}).values()]
        assert {type(number) for number in numbers} == {float}
        assert {type(score.rows), type(score.positives)} <= {int, type(None)}


def test_it_does_not_change_what_it_is_given():
    data = drawn()
    copies = {name: values.copy() for name, values in data["labels"].items()}
    scorecard(FUNNEL, **data, split="test")
    for name, values in copies.items():
        np.testing.assert_array_equal(data["labels"][name], values)


def test_it_prints():
    lines = str(scorecard(FUNNEL, **drawn(), split="test")).split("\n")
    assert lines[0] == "scores of the test split"
    assert " ".join(lines[2].split()) == (
        "score rows positives auc gauc pr_auc log_loss ne pcoc ece oracle auc |p − truth|"
    )
    assert lines[3].startswith("click @ all         4,000")
    soft = next(line for line in lines if line.startswith("buy|click @ all"))
    assert soft.split()[3:5] == ["–", "–"]
    assert lines[-3].split() == ["score", "rows", "rmse", "mae", "r2", "bias"]


def refused(message, **changes):
    arguments = {**drawn(rows=3), **changes}
    with pytest.raises(DataError, match=message):
        scorecard(FUNNEL, **arguments, split="test")


def test_a_missing_column_is_refused_with_the_nearest():
    data = drawn(rows=3)
    refused(
        r"no prediction column 'p_cart_given_click' \(known: 'p_click', 'p_cart', ",
        predictions=without(data["predictions"], "p_cart_given_click"),
    )
    refused("no labels of task 'cart'", labels=without(data["labels"], "cart"))
    refused(
        r"unknown truth column 'true_p_clik'; did you mean 'true_p_click'\?",
        truth={"true_p_clik": np.zeros(3)},
    )


def test_the_joint_of_a_regression_may_be_left_out():
    data = drawn(rows=30)
    data["predictions"] = without(data["predictions"], "spend")
    assert len(scorecard(FUNNEL, **data, split="test")) == len(NAMES) + 3


def test_values_out_of_their_domain_are_refused_by_column():
    data = drawn(rows=3)
    p, labels = data["predictions"], data["labels"]
    refused(
        "prediction p_cart: a probability lies within 0 and 1, got 1.5 in 2 rows",
        predictions={**p, "p_cart": [0, 1.5, 1.5]},
    )
    refused(
        "prediction rating: 1 of 3 values are NaN, infinite or beyond",
        predictions={**p, "rating": [0, NAN, 5]},
    )
    refused(
        "label of cart must be 0, 1 or null, got 2 in 1 row$",
        labels={**labels, "cart": [0, 2, NAN]},
    )
    refused(
        "label of rating must be finite numbers within float32 .* or null, got inf in 1 row$",
        labels={**labels, "rating": [0, np.inf, NAN]},
    )
    refused(
        "true_p_buy: a probability lies within 0 and 1, got -1", truth={"true_p_buy": [0, -1, 0]}
    )
    refused("true_p_buy: 1 of 3 values are NaN", truth={"true_p_buy": [0, NAN, 0]})
    refused("weights are 0 or above, got -1 in 1 row$", weight=[1, 1, -1])


def test_arrays_of_another_length_are_refused_by_column():
    data = drawn(rows=3)
    refused(r"label of buy: .*\(3,\)", labels={**data["labels"], "buy": [0, 1]})
    refused(r"prediction p_buy: .*\(3,\)", predictions={**data["predictions"], "p_buy": [0.5]})
    refused(r"user: .*\(3,\)", user=[1, 2])
    refused(r"weight: .*\(3,\)", weight=[1, 2])
    refused(r"true_p_click: .*\(3,\)", truth={"true_p_click": [0.5]})


def test_intervals_are_measured_where_they_are_asked_for():
    data = drawn()
    card = scorecard(FUNNEL, **data, split="test", replicates=50)
    plain = scorecard(FUNNEL, **data, split="test")
    for score in card:
        for name, parts in score.metrics.items():
            assert parts["value"] == plain[score.name].metrics[name]["value"]
            ends = set(parts) - {"value"}
            without = {"ece", "ndcg@10", "recall@10", "mrr"}  # 40 requests are too few
            assert ends == (set() if name in without or score.rows is None else {"low", "high"})
            assert not ends or parts["low"] < parts["value"] < parts["high"]
    few = "40 requests with a positive; an interval takes 50"
    lists = ("ndcg@10", "recall@10", "mrr")
    assert card["click @ all"].absent == {f"{name} interval": few for name in lists}
    soft = card["buy|click @ all"]
    assert soft.metrics == plain["buy|click @ all"].metrics
    assert soft.absent["interval"] == "true probabilities in place of labels"
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_too_few_rows_for_an_interval_say_so():
    data = drawn(rows=80)
    data["user"] = np.arange(80)
    card = scorecard(FUNNEL, **data, split="test", replicates=50)
    count = card["buy @ all"].positives
    assert card["buy @ all"].absent["interval"] == f"{count} positives; an interval takes 50"
    data["labels"] = {**data["labels"], "click": np.zeros(80)}
    empty = scorecard(FUNNEL, **data, split="test", replicates=50)["buy|click @ click"]
    assert "interval" not in empty.absent


@pytest.mark.parametrize("replicates", [-1, 1])
def test_a_spread_takes_two_replicates(replicates):
    with pytest.raises(ConfigError, match=f"replicates must be 0, .* got {replicates}"):
        scorecard(FUNNEL, **drawn(rows=3), split="test", replicates=replicates)


def test_without_a_request_key_ranked_lists_are_absent():
    card = scorecard(FUNNEL, **without(drawn(), "request"), split="test")
    assert card["buy @ all"].absent == dict.fromkeys(
        ["ndcg@10", "recall@10", "mrr"], "no request key"
    )
    assert "by request" not in str(card)


def test_rows_without_a_request_are_in_no_list():
    data = drawn()
    known = data["request"] < 30
    named = pl.Series([f"r{each}" if each < 30 else None for each in data["request"]])
    card = scorecard(FUNNEL, **{**data, "request": named}, split="test")
    label, p = data["labels"]["buy"][known], data["predictions"]["p_buy"][known]
    expected = ranking.ndcg_at(10)(label, p, data["weight"][known], key=data["request"][known])
    assert card.value("buy @ all", "ndcg@10") == pytest.approx(expected)


def test_ranked_lists_have_a_table_of_their_own():
    lines = str(scorecard(FUNNEL, **drawn(), split="test")).split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("by request"))
    assert lines[start].split() == ["by", "request", "ndcg@10", "recall@10", "mrr"]
    assert lines[start - 1] == ""
    assert lines[start + 1].startswith("click @ all")
    assert not any(line.startswith("buy|click @ all") for line in lines[start:])
    assert max(map(len, lines[: start + 6])) <= 120


CALIBRATED = {"p_click": [0.2, 0.6, 0.4, 0.7], "p_buy_given_click": [0.5] * 4,
              "p_buy": [0.1, 0.3, 0.2, 0.35]}  # fmt: skip
OBSERVED = {"click": [0, 1, 0, 1], "buy": [0, 1, 0, 0]}


def calibrated(raw, **options):
    schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
    return scorecard(schema, CALIBRATED, OBSERVED, split="test", raw=raw, **options)


def test_raw_predictions_are_measured_where_a_score_uses_them():
    before = [0.4, 0.8, 0.5, 0.9]
    card = calibrated({"p_click": before, "p_buy": [p / 2 for p in before]})
    assert card["buy|click @ click"].raw is None
    assert card["click @ all"].raw == {
        each.name: each(OBSERVED["click"], before)
        for each in (binary.auc, binary.log_loss, binary.ne, binary.pcoc, binary.ece)
    }
    assert card["buy @ all"].raw["pcoc"] == pytest.approx(1.3)
    assert card.value("click @ all", "pcoc") == pytest.approx(0.95)
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert "raw" not in card.to_json()["scores"][2]


def test_before_and_after_are_printed_and_what_is_undefined_is_left_open():
    shown = str(calibrated({"p_buy_given_click": [0.7] * 4}, only=["auc", "ece"]))
    assert shown.split("\n\n")[-1].splitlines() == [
        "before → after calibration",
        "score                          auc  pcoc              ece",
        "buy|click @ click  0.5000 → 0.5000     –  0.2000 → 0.0000",
    ]


def test_raw_predictions_have_a_soft_auc_where_the_truth_is_known():
    truth = {"true_p_buy_given_click": [0.1, 0.2, 0.3, 0.9]}
    before = [0.4, 0.3, 0.2, 0.1]
    card = calibrated({"p_buy_given_click": before}, truth=truth)
    expected = binary.soft_auc(truth["true_p_buy_given_click"], before)
    assert card["buy|click @ all"].raw == {"auc": expected}


def test_a_raw_column_that_is_no_output_is_refused_with_the_nearest():
    with pytest.raises(DataError, match="unknown raw column 'p_clik'; did you mean 'p_click'"):
        calibrated({"p_clik": [0.1] * 4})


def test_a_raw_column_is_held_to_what_a_prediction_is():
    with pytest.raises(DataError, match="raw p_click: a probability lies within 0 and 1"):
        calibrated({"p_click": [0.1, 0.2, 0.3, 1.4]})
