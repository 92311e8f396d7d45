"""Calibration after training: on which rows, with which weights, and what it is worth."""

import logging

import numpy as np
import pytest
from tests.train.conftest import PLAIN

import polyrank as pr
from polyrank.calibration.fitting import calibrate
from polyrank.train.heads import calibrators

SCHEMA = pr.Schema(
    [pr.SparseFeature("item")],
    [
        pr.Task("click", positive_weight=10),
        pr.Task("buy", given="click", space="all", positive_weight=10),
    ],
    pr.Keys(user="user", weight="w"),
)
MODEL = pr.Model(trunk=pr.MMoE(), tower=[4], embed_dim=4, dropout=0.1, **PLAIN)


def log(seed, rows=8_000):
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 10, rows)
    click = (rng.random(rows) < 0.05 + 0.03 * item).astype(float)
    buy = np.where(click == 1, rng.random(rows) < 0.4 - 0.03 * item, np.nan)
    return {
        "item": item,
        "user": rng.integers(0, 900, rows),
        "w": rng.integers(0, 3, rows),
        "click": click,
        "buy": buy,
    }


@pytest.fixture(scope="module")
def bundle():
    options = {
        "epochs": 3, "lr": 0.02, "batch_size": 256, "seed": 1, "schedule": pr.Constant(),
        "embeddings": pr.LazyAdam(lr=0.02, prior=0.0, decay=0.0),
        "balance": pr.Sum(normalize=True),
    }  # fmt: skip
    return pr.fit(SCHEMA, MODEL, train=log(1), valid=log(2), test=log(3), **options)


@pytest.mark.parametrize("score", ["click @ all", "buy @ all", "buy|click @ click"])
def test_what_weighed_positives_inflate_is_brought_back(bundle, score):
    found = bundle.scorecard[score]
    assert found.raw["pcoc"] > 1.5
    assert found.value("pcoc") == pytest.approx(1, abs=0.15)
    assert found.value("ece") < found.raw["ece"] / 2
    assert found.value("log_loss") < found.raw["log_loss"]


def test_before_and_after_are_printed(bundle):
    shown = str(bundle.scorecard).split("before → after calibration\n")[1]
    for score in ("click @ all", "buy @ all"):
        found = bundle.scorecard[score]
        line = next(each for each in shown.splitlines() if each.startswith(score))
        for metric in ("auc", "pcoc", "ece"):
            assert f"{found.raw[metric]:.4f} → {found.value(metric):.4f}" in line


def test_a_scorecard_with_both_reads_its_own_json(bundle):
    table = bundle.scorecard.to_json()
    assert set(table["scores"][0]["raw"]) == {"auc", "log_loss", "ne", "pcoc", "ece"}
    assert type(bundle.scorecard).from_json(table) == bundle.scorecard


def test_each_head_sees_the_rows_that_speak_of_it(bundle):
    """A root all rows, a child the rows where its parent happened; rows of weight 0 are none."""
    valid = log(2)
    counted = valid["w"] > 0
    clicked = counted & (valid["click"] == 1)
    found = bundle.calibrators
    assert (found["click"].rows, found["buy"].rows) == (counted.sum(), clicked.sum())
    assert found["buy"].positives == valid["buy"][clicked].sum()


def test_it_is_calibrate_with_weights_and_users(bundle):
    valid = log(2)
    logits = bundle.logits(bundle.encode(valid))["buy"]
    kept = valid["click"] == 1
    expected = calibrate(
        logits[kept], valid["buy"][kept], valid["w"][kept], valid["user"][kept], seed=1
    )
    assert bundle.calibrators["buy"].kind == expected.kind
    assert bundle.calibrators["buy"].losses["none"] == pytest.approx(expected.losses["none"])
    np.testing.assert_allclose(bundle.calibrators["buy"].apply(logits), expected.apply(logits))


def test_the_space_of_a_task_does_not_choose_the_rows():
    tasks = [pr.Task("click"), pr.Task("buy", given="click", space="click")]
    schema = pr.Schema(SCHEMA.features, tasks)
    fitted = pr.fit(schema, MODEL, train=log(1, 2_000), valid=log(2, 2_000), epochs=1)
    assert fitted.calibrators["buy"].rows == log(2, 2_000)["click"].sum()


def test_the_history_is_of_raw_logits(bundle):
    """Epochs are compared before anything is calibrated."""
    valid = bundle.evaluate(log(2), split="valid")
    best = bundle.history["valid total loss"].min()
    raw = sum(valid[name].raw["log_loss"] for name in ("click @ all", "buy @ all"))
    assert best == pytest.approx(raw, rel=1e-4)


def test_few_positives_are_left_alone_and_it_says_so(caplog):
    caplog.set_level(logging.INFO, logger="polyrank")
    fitted = pr.fit(SCHEMA, MODEL, train=log(1, 2_000), valid=log(2, 200), epochs=1)
    assert fitted.calibrators["buy"].map is None
    assert "task 'buy' is not calibrated on" in caplog.text
    assert "positives, and at least 50 are needed" in caplog.text


def test_without_validation_rows_nothing_is_calibrated_and_it_says_so(caplog):
    fitted = pr.fit(SCHEMA, MODEL, train=log(1, 2_000), epochs=1)
    assert fitted.calibrators == {}
    assert "the last of 1 epochs is kept, and nothing is calibrated" in caplog.text
    assert "without validation rows no calibration undoes that" in caplog.text


def test_a_huber_regression_has_no_map():
    task = pr.Task("item_value", label="w", kind=pr.Regression(loss="huber"))
    schema = pr.Schema(SCHEMA.features, [task])
    rows = log(1, 300)
    fitted = pr.fit(schema, MODEL, train=rows, valid=rows, epochs=1)
    assert calibrators(fitted, fitted.encode(rows, split="valid"), seed=0) == {}
