"""The fused score from the experiment's file to the scorecard: columns, cache, refusals."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.config import Experiment
from polyrank.metrics.binary import auc
from polyrank.train.explain import explain

EXPERIMENT = """
[data]
train = "train.parquet"
test = "test.parquet"
[features]
sparse = ["item"]
[[task]]
name = "click"
[[task]]
name = "buy"
given = "click"
[train]
epochs = 1
[fusion]
click = 1
buy = 2
price = 0.5
"""


@pytest.fixture
def log():
    generator = np.random.default_rng(7)
    click = generator.integers(0, 2, 300)
    frame = pl.DataFrame(
        {
            "item": generator.integers(0, 9, 300),
            "price": generator.lognormal(size=300),
            "click": click,
            "buy": click * generator.integers(0, 2, 300),
        }
    )
    return frame.head(200), frame.tail(100)


@pytest.fixture
def experiment(tmp_path, log):
    train, test = log
    train.drop("price").write_parquet(tmp_path / "train.parquet")  # nothing is ranked there
    test.write_parquet(tmp_path / "test.parquet")
    return Experiment.from_text(EXPERIMENT, folder=tmp_path)


def _auc(bundle, test, label):
    p = bundle.predict(test)
    score = p["p_click"].log() + 2 * p["p_buy"].log() + 0.5 * test["price"]
    return auc(test[label], score)


def test_a_declared_fusion_is_scored_kept_and_loaded(experiment, log, tmp_path):
    _, test = log
    bundle = experiment.fit(out=tmp_path / "runs" / "first")
    again = experiment.fit(out=tmp_path / "runs" / "second")  # its rows come from the cache
    assert again.scorecard == bundle.scorecard
    loaded = pr.load(tmp_path / "runs" / "second")
    assert loaded.fusion == experiment.fusion == pr.Fusion({"click": 1, "buy": 2, "price": 0.5})
    assert loaded.scorecard == bundle.scorecard
    written = json.loads((tmp_path / "runs" / "first" / "scorecard.json").read_text())
    assert written["fusion"]["weights"] == {"click": 1, "buy": 2, "price": 0.5}
    for score in written["fusion"]["scores"]:
        assert score["metrics"]["auc"]["value"] == pytest.approx(_auc(bundle, test, score["task"]))
    assert loaded.evaluate(test).fusion == bundle.scorecard.fusion
    assert "fused score, by outcome" in str(bundle.scorecard)
    assert loaded.predict(test.drop("price", "click", "buy")).height == 100
    assert Experiment.load(tmp_path / "runs" / "first" / "config.toml") == experiment


def test_a_trade_off_of_a_bundle(experiment, log):
    _, test = log
    bundle = experiment.fit()
    points = bundle.trade_off(test, "price", ("click @ all", "buy @ all"), factors=[0, 1])
    assert points["weight"].to_list() == [0.0, 0.5]
    assert points["auc of buy @ all"][1] == pytest.approx(_auc(bundle, test, "buy"))


def test_fit_takes_one_too(log):
    train, test = log
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    fitted = pr.fit(
        schema, pr.Model(), train=train, test=test, epochs=1, fusion=pr.Fusion({"price": 1})
    )
    assert fitted.scorecard.fusion.scores[0].metrics["auc"]["value"] == pytest.approx(
        auc(test["click"], test["price"])
    )
    plain = pr.fit(schema, pr.Model(), train=train, test=test, epochs=1)
    assert plain.scorecard.scores == fitted.scorecard.scores
    assert "fusion" not in plain.config
    with pytest.raises(pr.ConfigError, match="no fused score is declared"):
        plain.trade_off(test, "price", ("click @ all", "click @ all"))


def test_an_unknown_name_is_refused_before_training(log):
    train, test = log
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    with pytest.raises(
        pr.ConfigError, match=r"'prise' is neither .* of test; did you mean 'price'"
    ):
        pr.fit(schema, pr.Model(), train=train, test=test, fusion=pr.Fusion({"prise": 1}))
    with pytest.raises(pr.ConfigError, match=r"fusion must be a Fusion\(weights\), got dict"):
        pr.fit(schema, pr.Model(), train=train, test=test, fusion={"price": 1})


def test_values_that_cannot_be_added_up_are_refused_before_training(log):
    train, test = log
    broken = test.with_columns(price=pl.when(pl.col("item") == 3).then(None).otherwise("price"))
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    epochs = []
    with pytest.raises(pr.DataError, match=r"fusion: \d+ of 100 values of column 'price' are miss"):
        pr.fit(
            schema, pr.Model(), train=train, test=broken, fusion=pr.Fusion({"price": 1}),
            progress=epochs.append,
        )  # fmt: skip
    assert not epochs


def test_the_plan_says_the_weights_and_refuses_an_unknown_name(experiment):
    found = explain(
        experiment.schema, experiment.model, experiment.training, experiment.sources(),
        experiment.fusion,
    )  # fmt: skip
    assert "fused score: click = 1, buy = 2, price = 0.5" in str(found)
    assert found.to_json()["fusion"] == {"click": 1, "buy": 2, "price": 0.5}
    with pytest.raises(pr.ConfigError, match=r"'prise' is neither .* did you mean 'price'"):
        replace(experiment, fusion=pr.Fusion({"prise": 1})).sources()


def test_the_plan_refuses_a_term_of_one_label_as_training_does(experiment, log, tmp_path):
    train, _ = log
    train.with_columns(click=0, buy=0).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(pr.DataError, match="'click @ all' has no positives in train"):
        explain(
            experiment.schema, experiment.model, experiment.training, experiment.sources(),
            experiment.fusion,
        )  # fmt: skip


def test_sampling_of_no_root_is_refused_before_a_row_is_read(experiment):
    data = replace(experiment.data, train="nowhere.csv", sampling=pr.Sampling("buy", keep=0.1))
    with pytest.raises(pr.ConfigError, match="task 'buy' is given 'click', and only a root"):
        replace(experiment, data=data).sources()


def test_evaluated_rows_without_the_column_are_refused(experiment, log):
    _, test = log
    with pytest.raises(pr.ConfigError, match="'price' is neither a task, nor an output, nor a col"):
        experiment.fit().evaluate(test.drop("price"))
