"""Means and deviations over seeds: numpy's, of every seed or of none."""

from dataclasses import replace

import numpy as np
import pytest

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.metrics.score import Fused
from polyrank.metrics.scorecard import scorecard
from polyrank.metrics.seeds import SeedScores
from polyrank.metrics.undefined import Undefined

SCHEMA = pr.Schema(
    [pr.DenseFeature("x")],
    [pr.Task("click"), pr.Task("spend", kind="regression", given="click")],
)
ROWS = 300


def card(seed, split="test", schema=SCHEMA):
    labels = np.random.default_rng(0)
    click = labels.integers(0, 2, ROWS).astype(float)
    columns = {"click": click, "spend": np.where(click == 1, labels.normal(size=ROWS), np.nan)}
    drawn = np.random.default_rng([1, seed])
    predicted = {
        "p_click": drawn.uniform(0.1, 0.9, ROWS),
        "spend_given_click": drawn.normal(size=ROWS),
    }
    predicted["spend"] = predicted["p_click"] * predicted["spend_given_click"]
    return scorecard(schema, predicted, columns, split=split)


def test_each_metric_has_the_mean_and_the_deviation_of_its_values():
    cards = {seed: card(seed) for seed in (4, 5, 6)}
    found = SeedScores(cards)
    for name, metric in (("click @ all", "auc"), ("spend|click @ click", "rmse")):
        values = [each.value(name, metric) for each in cards.values()]
        group = found.value(name, metric)
        assert group.values == dict(zip(cards, values, strict=True))
        assert group.mean == pytest.approx(np.mean(values), rel=1e-12)
        assert group.sd == pytest.approx(np.std(values, ddof=1), rel=1e-12)
        scores = {each["name"]: each for each in found.to_json()["scores"]}
        assert scores[name]["metrics"][metric] == {
            "mean": group.mean, "deviation": group.sd, "values": values
        }  # fmt: skip
    names = [each["name"] for each in found.to_json()["scores"]]
    assert names == [each.name for each in cards[4].scores]
    assert set(scores["click @ all"]["metrics"]) == set(cards[4]["click @ all"].metrics)
    assert scores["click @ all"]["absent"]["gauc"] == "no user key"
    assert "fusion" not in found.to_json()


def test_it_prints_a_line_a_metric_and_why_others_are_missing():
    cards = {seed: card(seed) for seed in (4, 5)}
    text = str(SeedScores(cards))
    assert text.startswith("test rows: mean ± standard deviation over 2 seeds (4, 5)\n")
    values = [each.value("click @ all", "auc") for each in cards.values()]
    line = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert f"click @ all          auc       {line}" in text
    assert "– gauc of click @ all: no user key" in text
    html = SeedScores(cards)._repr_html_()
    assert f"<td>auc</td><td>{line}</td>" in html
    assert "no user key" in html


def test_one_seed_has_no_deviation():
    found = SeedScores({4: card(4)})
    assert found.value("click @ all", "auc").sd is None
    assert found.to_json()["scores"][0]["metrics"]["auc"]["deviation"] is None
    assert str(found).startswith("test rows: seed 4 alone, so without a deviation\n\nscore")
    assert "±" not in str(found)


def test_a_metric_that_a_seed_lacks_has_no_mean():
    """A mean over the others would hide it."""
    cards = {seed: card(seed) for seed in (4, 5)}
    lost = cards[5]["click @ all"]
    metrics = {name: each for name, each in lost.metrics.items() if name != "auc"}
    lost = replace(lost, metrics=metrics, absent={**lost.absent, "auc": "no positive"})
    cards[5] = replace(cards[5], scores=(lost, *cards[5].scores[1:]))
    found = SeedScores(cards)
    with pytest.raises(Undefined, match=r"^seed 5: no positive$"):
        found.value("click @ all", "auc")
    score = found.to_json()["scores"][0]
    assert "auc" not in score["metrics"]
    assert score["absent"]["auc"] == "seed 5: no positive"
    assert "– auc of click @ all: seed 5: no positive" in str(found)


def test_a_fused_score_is_summed_up_by_itself():
    fused = {}
    for seed in (1, 2):
        whole = card(seed)
        ranked = replace(whole.scores[0], metrics={"auc": {"value": 0.5 + seed / 10}}, absent={})
        fused[seed] = replace(whole, fusion=Fused({"click": 1.0}, (ranked,)))
    found = SeedScores(fused)
    assert found.to_json()["fusion"][0]["metrics"] == {
        "auc": {
            "mean": pytest.approx(0.65),
            "deviation": pytest.approx(0.1 / 2**0.5),
            "values": [0.6, 0.7],
        }
    }
    assert str(found).count("of the fused score\n\nscore") == 1
    assert "of the fused score" in found._repr_html_()


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({}, "need at least one scorecard, got none"),
        (
            {1: card(1), 2: card(2, "valid")},
            "seed 1 has test rows with click @ all, .*, and seed 2 has valid rows",
        ),
        (
            {1: card(1), 2: replace(card(2), scores=card(2).scores[:1])},
            "and seed 2 has test rows with click @ all$",
        ),
    ],
)
def test_what_is_not_of_one_experiment_is_refused(cards, message):
    with pytest.raises(ConfigError, match=message):
        SeedScores(cards)


def test_unknown_names_are_refused_with_the_nearest():
    found = SeedScores({1: card(1)})
    with pytest.raises(ConfigError, match="did you mean 'click @ all'"):
        found.value("clik @ all", "auc")
    with pytest.raises(ConfigError, match="did you mean 'auc'"):
        found.value("click @ all", "acu")
