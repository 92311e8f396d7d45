"""Watch time from a file to a scorecard, a comparison and a server's engine."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.registry import resolved
from polyrank.report.blocks import Figure
from polyrank.report.compare import ComparedRun, compare
from polyrank.report.evidence import gather
from polyrank.report.page import page
from polyrank.report.sections.predictions import by_group
from polyrank.serve.export.write import export

METHODS = ("d2q", "pcr", "censored")


def log_of(rows, seed):
    """Videos that are liked more or less, of any length; some loop, some lengths are unknown."""
    rng = np.random.default_rng(seed)
    item, user = rng.integers(0, 20, rows), rng.integers(0, 80, rows)
    liked = np.linspace(-1, 1, 20)[item]
    duration = np.round(rng.lognormal(3, 0.7, rows), 2)
    play = duration * rng.lognormal(liked - 0.5, 0.4)
    click = (rng.random(rows) < 0.7).astype(float)
    play = np.where(click == 1, play, np.nan)
    duration[::17] = [0, np.nan][seed % 2]
    return pl.DataFrame(
        {"item": item, "user": user, "click": click, "play": play, "duration": duration}
    )


def schema_of(**options):
    kind = pr.WatchTime(groups=4, **options)
    tasks = [pr.Task("click"), pr.Task("play", kind=kind, given="click")]
    features = [pr.SparseFeature("item"), pr.DenseFeature("duration")]
    return pr.Schema(features, tasks, pr.Keys(user="user"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    model = pr.Model(trunk=pr.SharedBottom(hidden=[8]), tower=[8], embed_dim=4)
    stop = pr.Stop(score="play|click @ click", metric="tau_b_in_groups", patience=9)
    folder, train, valid = tmp_path_factory.mktemp("runs"), log_of(1500, 1), log_of(500, 2)

    def fitted(method):
        return pr.fit(
            schema_of(method=method), model, train=train, valid=valid, epochs=3, batch_size=64,
            seed=1, stop=stop, out=folder / method,
        )  # fmt: skip

    return {method: fitted(method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_it_ranks_within_durations_and_its_scores_have_intervals(bundles, method):
    score = bundles[method].evaluate(log_of(800, 3))["play|click @ click"]
    assert list(score.metrics) == ["tau_b", "tau_b_in_groups", "mae", "rmse", "bias"]
    for name, each in score.metrics.items():
        assert each["low"] < each["value"] < each["high"], name
    assert score.metrics["tau_b_in_groups"]["low"] > 0.2
    assert "valid play|click @ click tau_b_in_groups" in " ".join(bundles[method].history.columns)


@pytest.mark.parametrize("method", METHODS)
def test_no_prediction_is_above_a_known_duration(bundles, method):
    rows = log_of(400, 4)
    found = bundles[method].predict(rows.select("item", "duration"))["play_given_click"].to_numpy()
    duration = rows["duration"].to_numpy()
    assert (found >= 0).all()
    assert (found[duration > 0] <= duration[duration > 0] * (1 + 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_engine_answers_as_the_bundle_without_a_duration_too(bundles, method, tmp_path):
    bundle = bundles[method]
    bundle.save(tmp_path / "bundle")
    export(bundle, tmp_path / "bundle", [log_of(200, 5)])
    engine = pr.Engine(tmp_path / "bundle")
    rows = [
        {"item": 3, "duration": 12.5},
        {"item": 4, "duration": None},
        {"item": 5, "duration": 0},
    ]
    frame = pl.DataFrame(rows, schema={"item": pl.Int64, "duration": pl.Float64})
    expected = bundle.predict(frame)
    found = engine.predict(frame)
    for name in expected.columns:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(pr.DataError, match="duration"):
        engine.predict(frame.drop("duration"))


@pytest.mark.slow
@pytest.mark.parametrize("stages", [{"wide": pr.Wide()}, {"wide": False, "trees": pr.Trees()}])
@pytest.mark.parametrize("method", ["d2q", "pcr"])
def test_first_stages_and_network_learn_the_share(method, stages):
    """As a regression on the share itself would."""
    log = log_of(600, 6).filter(click=1)
    kind = pr.WatchTime(groups=4, method=method)
    columns = {"duration": log["duration"].cast(pl.Float32).to_numpy(writable=True)}
    label = kind.observed(log["play"].cast(pl.Float32).to_numpy(), columns)
    fitted = kind.fit(label.astype(np.float64), np.ones(len(label)), columns)
    likelihood = resolved(kind.likelihood)(kind, fitted)
    tensors = {name: torch.from_numpy(each) for name, each in columns.items()}
    share = likelihood.number(torch.from_numpy(label), tensors).numpy()
    model = pr.Model(trunk=pr.SharedBottom(hidden=[8]), tower=[4], embed_dim=4, **stages)
    features = [pr.SparseFeature("item"), pr.DenseFeature("duration")]
    found = []
    for task in (pr.Task("play", kind=kind), pr.Task("play", kind="regression")):
        own = log if task.kind == kind else log.with_columns(play=share)
        schema = pr.Schema(features, [task])
        bundle = pr.fit(schema, model, train=own, epochs=2, batch_size=64, seed=1, cache=False)
        found.append(bundle.logits(bundle.encode(log))["play"])
    np.testing.assert_allclose(*found, atol=2e-3)
    assert found[0].std() > 0.1


def test_runs_are_compared_within_groups_too(bundles):
    rows = log_of(800, 3)
    named = {
        method: replace(bundles[method], config={**bundles[method].config, "name": method})
        for method in ("pcr", "censored")
    }
    found = compare([ComparedRun(method, each, rows) for method, each in named.items()])
    compared = {each.metric for each in found.differences if each.score == "play|click @ click"}
    assert compared == {"rmse", "tau_b", "tau_b_in_groups"}
    assert all(each.rows is not None for each in found.differences)


def test_the_report_shows_each_group_of_durations(bundles):
    evidence = gather(bundles["pcr"], log_of(800, 3), split="test")
    section = by_group(evidence)
    assert section.title == "Predicted values by group"
    (figure,) = [each for each in section.blocks if isinstance(each, Figure)]
    assert figure.title == "play|click @ click"
    assert figure.caption.startswith("By duration. The means are furthest apart in the group ")
    (picture,) = figure.charts
    shown = {row["group"] for rows in picture.to_dict()["datasets"].values() for row in rows}
    assert "unknown" in shown
    assert len(shown) == 5
    assert "Predicted values by group" in page(evidence, written=datetime(2026, 12, 2, tzinfo=UTC))
