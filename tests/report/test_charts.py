"""Each chart, by made-up data: a valid Vega-Lite specification that holds what it was given."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.report import charts, curves
from polyrank.report.blocks import spec

EPOCHS = pl.DataFrame({"epoch": [1, 2], "series": ["a.b[0]", "c"], "value": [0.5, 0.6]})
LOSSES = pl.DataFrame(
    {"epoch": [1, 2, 1], "rows": ["training", "training", "validation"], "loss": [0.3, 0.2, 0.4]}
)
generator = np.random.default_rng(0)
P = generator.beta(1, 60, 3000)
LABEL = (generator.random(len(P)) < P).astype(float)
NAMES = [f"shared group {each}" for each in range(12)]
ENTROPIES = pl.DataFrame(
    {"epoch": [1, 2], "gate": ["click"] * 2, "of": charts.ENTROPIES, "value": [0.9, 1.0]}
)
CURVES = pl.DataFrame(
    {"field": ["a.b"] * 2, "information": [1, 9], "kept": [0.5, 0.9], "tenths": [0.1, 0.9]}
)
SPREADS = pl.DataFrame(
    {"name": ["click"], "low": [-1], "first": [0], "middle": [1], "third": [2], "high": [3]}
)
BINS = curves.reliability(LABEL, P)
HUE = charts.BLUE
SCHEMA = pr.Schema([pr.DenseFeature("x")], [pr.Task("click"), pr.Task("buy", given="click")])
CLICK = charts.styles(SCHEMA, ["click @ all"])
CHARTS = {
    "training": lambda: charts.training(LOSSES, "log loss, nats", 2, HUE),
    "training without a best epoch": lambda: charts.training(LOSSES, "log loss, nats", None, HUE),
    "by epoch": lambda: charts.by_epoch(EPOCHS, "AUC", 1, charts.styles(SCHEMA, ["a.b[0]", "c"])),
    "reliability": lambda: charts.reliability(BINS, logarithmic=False, hue=HUE),
    "reliability of a rare event": lambda: charts.reliability(BINS, logarithmic=True, hue=HUE),
    "counts": lambda: charts.counts(BINS, logarithmic=True, hue=HUE),
    "agreement": lambda: charts.agreement(curves.agreement(P, P), logarithmic=True, hue=HUE),
    "values": lambda: charts.agreement(
        curves.agreement(LABEL - 3, P - 3), hue=HUE, titles=("predicted", "observed"), floor=None
    ),
    "by group": lambda: charts.by_group(
        curves.by_group(LABEL, P, np.arange(len(P)) % 3, ["unknown", "≤ 2.5", "> 2.5"]),
        "duration",
        hue=HUE,
    ),
    "residuals": lambda: charts.residuals(curves.residuals(LABEL, P), hue=HUE),
    "roc": lambda: charts.roc({"click @ all": curves.roc(LABEL, P)}, CLICK),
    "precision and recall": lambda: charts.precision_recall(
        {"click @ all": curves.precision_recall(LABEL, P)}, {"click @ all": 0.016}, CLICK
    ),
    "histogram": lambda: charts.histogram(curves.histogram(LABEL, P), logarithmic=False, hue=HUE),
    "reliability before and after": lambda: charts.reliability(
        BINS, BINS, logarithmic=False, hue=HUE
    ),
    "counts before and after": lambda: charts.counts(BINS, BINS, logarithmic=False, hue=HUE),
    "grid": lambda: charts.grid(
        [[0.2, 0.8], [None, 1.0]],
        ["click", "buy"],
        ["0", "1"],
        titles=("gate", "expert"),
        measure="mean weight",
    ),
    "grid without numbers": lambda: charts.grid(
        np.eye(12).tolist(), NAMES, NAMES, titles=("expert", "expert"), measure="linear CKA"
    ),
    "by expert": lambda: charts.by_expert([0.2, 0.8], ["0", "1"], "mean weight", [0.5, 0.5]),
    "by feature": lambda: charts.by_feature({"a.b": 0.2, "c[0]": 0.1}, "deviation", hue=HUE),
    "shrinkage": lambda: charts.shrinkage(CURVES, CURVES, {"a.b": charts.Style(HUE, [1, 0])}),
    "spreads": lambda: charts.spreads(SPREADS, "logits", {"click": HUE}),
    "entropies": lambda: charts.entropies(ENTROPIES, 1, {"click": HUE}),
    "trade-off": lambda: charts.trade_off(
        pl.DataFrame({"weight": [0, 1], "auc of a.b": [0.5, 0.6], "ndcg[10]": [0.4, 0.3]}), hue=HUE
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_valid_and_fits_its_place(name):
    chart = CHARTS[name]()
    chart.to_dict(validate=True)
    table = spec(chart)
    assert table["width"] == "container"
    assert "$schema" not in table
    assert "http" not in str(table)


def values(chart):
    return [row for rows in spec(chart)["datasets"].values() for row in rows]


def test_a_bin_without_positives_stands_at_the_floor_of_a_logarithmic_axis():
    bins = curves.reliability([0, 0, 0, 1], [0.01, 0.01, 0.02, 0.02], bins=2)
    drawn = [
        row for row in values(charts.reliability(bins, logarithmic=True, hue=HUE)) if "share" in row
    ]
    assert [row["share"] for row in drawn] == [0, 0.5]
    assert 0 < drawn[0]["observed"] < 0.01


def test_precision_of_zero_has_no_place_on_a_logarithmic_axis():
    curve = curves.precision_recall([0, 1, 0, 1], [0.9, 0.8, 0.3, 0.2])
    assert curve[1][0] == 0
    drawn = values(charts.precision_recall({"a": curve}, {"a": 0.5}, charts.styles(SCHEMA, "a")))
    assert min(row["precision"] for row in drawn) > 0


def test_weights_are_written_where_there_is_room():
    points = pl.DataFrame(
        {"weight": [0, 1, 2, 4], "a": [0.5, 0.5, 0.6, 0.7], "b": [0.7, 0.7, 0.6, 0]}
    )
    drawn = values(charts.trade_off(points, hue=HUE))
    assert {row["weight"]: row["written"] for row in drawn} == {0: True, 1: False, 2: True, 4: True}


def test_a_grid_writes_every_number_and_leaves_what_is_none_empty():
    drawn = values(CHARTS["grid"]())
    assert [(row["row"], row["column"], row["value"]) for row in drawn] == [
        ("click", "0", 0.2), ("click", "1", 0.8), ("buy", "1", 1.0)
    ]  # fmt: skip
    assert len(spec(CHARTS["grid"]())["layer"]) == 2
    assert len(spec(CHARTS["grid without numbers"]())["layer"]) == 1


def test_bars_keep_their_order_and_write_shares():
    drawn = spec(CHARTS["by feature"]())["layer"][0]["encoding"]
    assert (drawn["y"]["sort"], drawn["x"]["axis"]["format"]) == (["a.b", "c[0]"], "~f")
    experts = spec(CHARTS["by expert"]())["layer"][0]["encoding"]
    assert experts["x"]["axis"]["format"] == "~%"


def test_a_task_has_one_colour_and_its_scores_differ_in_dashes():
    drawn = charts.styles(SCHEMA, ["click @ all", "buy @ all", "buy|click @ all", "shared"])
    hues = charts.hues(SCHEMA)
    assert [each.colour for each in drawn.values()][:3] == [hues["click"], hues["buy"], hues["buy"]]
    assert drawn["shared"].colour not in hues.values()
    assert drawn["buy @ all"].dash != drawn["buy|click @ all"].dash
    curve = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    encoding = spec(charts.roc(dict.fromkeys(drawn, curve), drawn))["layer"][1]["encoding"]
    assert encoding["color"]["scale"]["range"] == [each.colour for each in drawn.values()]


def test_more_tasks_than_colours_begin_anew():
    tasks = [pr.Task(f"t{number}") for number in range(12)]
    hues = charts.hues(pr.Schema([pr.DenseFeature("x")], tasks))
    assert hues["t10"] == hues["t0"] == charts.BLUE


@pytest.mark.parametrize("low", [1e-9, 3e-4, 0.02, 0.5])
@pytest.mark.parametrize("ratio", [3, 30, 1000, 1e6])
def test_a_logarithmic_axis_has_a_few_ticks(low, ratio):
    found = charts.ticks_of(low, low * ratio)
    assert 1 <= len(found) <= 9
    assert all(low <= each <= low * ratio for each in found)
