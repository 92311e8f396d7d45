"""Maps in a bundle: they travel with it, come before the products, and can be left out."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polyrank as pr
from polyrank.bundle import format
from polyrank.calibration import Isotonic, Platt
from polyrank.calibration.fitting import Calibrator
from polyrank.errors import BundleError
from polyrank.models.outputs import outputs
from polyrank.objective.likelihood import likelihoods
from polyrank.schema import DenseFeature, Schema, Task
from polyrank.serve.batch import Predictor, predict_file

LINE = Calibrator(Platt(0.3, 1.25), 500, 200, {"none": 0.75, "platt": 0.5})
KNOTS = Calibrator(Isotonic((-1.0, -0.25, 0.5), (-4.0, -0.1, 2.0)), 250, 100, {"none": 0.7})
NONE = Calibrator(None, 20, 3, {}, "3 positives, and at least 50 are needed")


@pytest.fixture(scope="module")
def plain(bundle):
    return replace(bundle, calibrators={})


@pytest.fixture(scope="module")
def calibrated(bundle):
    return replace(bundle, calibrators={"click": LINE, "buy": KNOTS})


def test_save_and_load_give_the_same_bits(calibrated, rows, tmp_path):
    calibrated.save(tmp_path / "b")
    loaded = pr.load(tmp_path / "b")
    assert loaded.calibrators == calibrated.calibrators
    assert loaded.predict(rows).equals(calibrated.predict(rows))
    assert loaded.predict(rows, raw=True).equals(calibrated.predict(rows, raw=True))


def test_what_bundle_json_says(bundle, tmp_path):
    replace(bundle, calibrators={"click": LINE, "buy": NONE}).save(tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text(encoding="utf-8"))
    assert manifest["calibrators"] == {
        "click": {
            "kind": "platt", "slope": 0.3, "intercept": 1.25,
            "rows": 500, "positives": 200, "log_loss": {"none": 0.75, "platt": 0.5},
        },
        "buy": {
            "kind": "none", "rows": 20, "positives": 3, "log_loss": {},
            "reason": "3 positives, and at least 50 are needed",
        },
    }  # fmt: skip
    assert manifest["format"] == format.FORMAT


def test_a_calibrator_that_cannot_be_read_is_refused_by_task(calibrated, tmp_path):
    calibrated.save(tmp_path / "b")
    path = tmp_path / "b" / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["calibrators"]["click"]["slope"] = -1.0
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=r"calibrators.click: slope must be a number above 0"):
        pr.load(tmp_path / "b")


def test_maps_come_before_the_products(plain, calibrated, rows):
    before, after = plain.predict(rows), calibrated.predict(rows)
    logits = {f"p_{name}": np.log(before[f"p_{name}"] / (1 - before[f"p_{name}"]))
              for name in ("click", "buy_given_click")}  # fmt: skip
    for name, found in (("p_click", LINE), ("p_buy_given_click", KNOTS)):
        expected = 1 / (1 + np.exp(-found.apply(logits[name].to_numpy())))
        np.testing.assert_allclose(after[name], expected, rtol=1e-9)
    assert (after["p_buy"] == after["p_click"] * after["p_buy_given_click"]).all()
    assert (after["spend_given_buy"] == before["spend_given_buy"]).all()
    assert (after["spend"] == after["p_buy"] * after["spend_given_buy"]).all()


def test_raw_leaves_the_maps_out(plain, calibrated, rows, tmp_path):
    assert calibrated.predict(rows, raw=True).equals(plain.predict(rows))
    assert not calibrated.predict(rows).equals(plain.predict(rows))
    for raw in (False, True):
        scorer = Predictor(calibrated.schema, partial(calibrated.predict_frame, raw=raw))
        predict_file(scorer, rows, tmp_path / "out.parquet")
        written = pl.read_parquet(tmp_path / "out.parquet", columns=["p_click", "p_buy"])
        assert written.equals(calibrated.predict(rows, raw=raw).select("p_click", "p_buy"))


def test_a_scorecard_measures_both_where_a_map_is_on_the_path(plain, bundle, rows):
    card = replace(bundle, calibrators={"buy": KNOTS, "click": NONE}).evaluate(rows)
    expected = plain.evaluate(rows)
    raws = {score.name: score.raw for score in card}
    assert raws["click @ all"] is None
    assert raws["spend|buy @ buy"] is None
    for name in ("buy @ all", "buy|click @ click"):
        assert raws[name] == {
            metric: expected.value(name, metric)
            for metric in ("auc", "log_loss", "ne", "pcoc", "ece")
        }
        assert card.value(name, "log_loss") != raws[name]["log_loss"]
    assert all(score.raw is None for score in expected)


def test_the_auc_of_a_root_is_what_it_was(plain, calibrated, rows):
    before, after = plain.evaluate(rows), calibrated.evaluate(rows)
    assert after.value("click @ all", "auc") == before.value("click @ all", "auc")
    assert after.value("buy|click @ click", "auc") == before.value("buy|click @ click", "auc")


@given(
    st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=2),
    st.floats(1e-2, 20),
    st.floats(-30, 30),
)
def test_a_child_is_never_likelier_than_its_parent(logits, slope, intercept):
    schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
    click, buy = (np.array([each], dtype=np.float64) for each in logits)
    maps = {"click": KNOTS.map.apply(click), "buy": Platt(slope, intercept).apply(buy)}
    tensors = {name: torch.from_numpy(z) for name, z in maps.items()}
    columns = outputs(schema, tensors, likelihoods(schema, {}), {})
    assert 0 <= columns["p_buy"][0] <= columns["p_click"][0] <= 1
