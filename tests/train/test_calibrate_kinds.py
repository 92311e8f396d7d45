"""Kinds that are no events are calibrated too, through training, a bundle, a graph and a report."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.calibration import Conformal, IsotonicMean
from polyrank.report.blocks import Figure
from polyrank.report.evidence import gather
from polyrank.report.sections import predictions, values
from polyrank.serve.export.write import export

SCHEMA = pr.Schema(
    [pr.SparseFeature("item")],
    [
        pr.Task("click"),
        pr.Task("units", kind="count"),
        pr.Task("spend", kind="lognormal", given="click"),
        pr.Task("rating", kind="regression"),
        pr.Task("price", kind="quantile"),
    ],
)
# One short epoch: everything is still near the mean of the training rows, and so miscalibrated.
MODEL = pr.Model(trunk=pr.SharedBottom(hidden=[8]), tower=[4], embed_dim=4, wide=False, trees=False)
KINDS = {
    "units": "isotonic_mean", "spend": "isotonic_mean", "rating": "isotonic_mean",
    "price": "conformal",
}  # fmt: skip


def log(seed, rows=6_000, drift=0.0):
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 12, rows)
    level = item / 6 + drift
    click = (rng.random(rows) < 0.5).astype(float)
    return pl.DataFrame(
        {
            "item": item,
            "click": click,
            "units": rng.poisson(np.exp(level)).astype(float),
            "spend": np.where(click == 1, rng.lognormal(level, 0.5), 0.0),
            "rating": level + rng.normal(size=rows),
            "price": 3 * level + (1 + item / 6) * rng.normal(size=rows),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Validation and test rows are of a later time than the training rows: all labels rose."""
    out = tmp_path_factory.mktemp("kinds") / "run"
    bundle = pr.fit(
        SCHEMA, MODEL, train=log(1), valid=log(2, drift=0.7), test=log(3, drift=0.7),
        epochs=2, batch_size=128, lr=0.02, seed=1, out=out,
    )  # fmt: skip
    return bundle, out


def test_each_kind_gets_a_map_of_its_own(run):
    bundle, _ = run
    assert {name: bundle.calibrators[name].kind for name in KINDS} == KINDS
    assert isinstance(bundle.calibrators["units"].map, IsotonicMean)
    assert isinstance(bundle.calibrators["price"].map, Conformal)
    assert bundle.calibrators["spend"].rows == int((log(2, drift=0.7)["click"] == 1).sum())


def test_what_rose_is_brought_back_on_test_rows(run):
    bundle, _ = run
    card = bundle.scorecard
    for name in ("units @ all", "spend|click @ click"):
        score = card[name]
        assert score.raw["mean_ratio"] < 0.8
        assert score.value("mean_ratio") == pytest.approx(1, abs=0.1)
    price = card["price @ all"]
    assert abs(price.value("coverage_gap")) < abs(price.raw["coverage_gap"])
    assert price.value("pinball") < price.raw["pinball"]
    assert card["rating @ all"].value("rmse") < card["rating @ all"].raw["rmse"]
    assert "mean ratio" in str(card).split("before → after calibration")[1].replace("_", " ")


def test_quantiles_do_not_cross_and_only_the_given_column_and_its_joint_move(run):
    bundle, _ = run
    rows = log(4)
    found, raw = bundle.predict(rows), bundle.predict(rows, raw=True)
    q = found.select("price_q10", "price_q50", "price_q90").to_numpy()
    assert (np.diff(q, axis=1) >= 0).all()
    given = bundle.calibrators["spend"].apply(raw["spend_given_click"].to_numpy())
    np.testing.assert_allclose(found["spend_given_click"], given, rtol=1e-12)
    joint = found["p_click"].to_numpy() * given
    np.testing.assert_allclose(found["spend"], joint, rtol=1e-12)


@pytest.mark.slow
def test_the_maps_are_saved_exported_and_served(run):
    bundle, out = run
    rows = log(4, rows=200)
    loaded = pr.load(out)
    assert loaded.calibrators == bundle.calibrators
    found = loaded.predict(rows)
    assert found.equals(bundle.predict(rows))
    export(loaded, out / "bundle", [rows])
    engine = pr.Engine(out)
    answer = engine.predict(rows.drop("click", "units", "spend", "rating", "price")).to_dict()
    for name in found.columns:
        np.testing.assert_allclose(answer[name], found[name], rtol=1e-4, atol=1e-4)


def test_the_report_names_each_map(run):
    bundle, _ = run
    evidence = gather(bundle, log(3, rows=500))
    captions = [each.caption for each in values(evidence).blocks if isinstance(each, Figure)]
    assert ["before calibration), observed" in each for each in captions] == [True] * 3 + [False]
    text = predictions.calibration(evidence).html()
    assert "conformal, shift" in text
    assert "isotonic mean, " in text
    assert "cross-fit their pinball went from" in text
