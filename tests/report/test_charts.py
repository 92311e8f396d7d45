"""Each chart, by made-up data: a valid Vega-Lite specification that holds what it was given."""

import numpy as np
import polars as pl
import pytest

from polyrank.report import axes, charts, curves, expert_charts

EPOCHS = pl.DataFrame({"epoch": [1, 2], "series": ["a.b[0]", "c"], "value": [0.5, 0.6]})
LOSSES = pl.DataFrame(
    {"epoch": [1, 2, 1], "rows": ["training", "training", "validation"], "loss": [0.3, 0.2, 0.4]}
)
generator = np.random.default_rng(0)
P = generator.beta(1, 60, 3000)
LABEL = (generator.random(len(P)) < P).astype(float)
NAMES = [f"shared group {each}" for each in range(12)]
ENTROPIES = pl.DataFrame(
    {"epoch": [1, 2], "gate": ["click"] * 2, "of": expert_charts.HOW, "value": [0.9, 1.0]}
)
BINS = curves.reliability(LABEL, P)
CHARTS = {
    "training": lambda: charts.training(LOSSES, "log loss, nats", 2),
    "training without a best epoch": lambda: charts.training(LOSSES, "log loss, nats", None),
    "by epoch": lambda: charts.by_epoch(EPOCHS, "AUC", 1),
    "reliability": lambda: charts.reliability(BINS, logarithmic=False),
    "reliability of a rare event": lambda: charts.reliability(BINS, logarithmic=True),
    "counts": lambda: charts.counts(BINS, logarithmic=True),
    "agreement": lambda: charts.agreement(curves.agreement(P, P), logarithmic=True),
    "roc": lambda: charts.roc({"click @ all": curves.roc(LABEL, P)}),
    "precision and recall": lambda: charts.precision_recall(
        {"click @ all": curves.precision_recall(LABEL, P)}, {"click @ all": 0.016}
    ),
    "histogram": lambda: charts.histogram(curves.histogram(LABEL, P), logarithmic=False),
    "reliability before and after": lambda: charts.reliability(BINS, BINS, logarithmic=False),
    "counts before and after": lambda: charts.counts(BINS, BINS, logarithmic=False),
    "grid": lambda: expert_charts.grid(
        [[0.2, 0.8], [None, 1.0]],
        ["click", "buy"],
        ["0", "1"],
        titles=("gate", "expert"),
        measure="mean weight",
    ),
    "grid without numbers": lambda: expert_charts.grid(
        np.eye(12).tolist(), NAMES, NAMES, titles=("expert", "expert"), measure="linear CKA"
    ),
    "by expert": lambda: expert_charts.by_expert([0.2, 0.8], ["0", "1"], "mean weight", [0.5, 0.5]),
    "entropies": lambda: expert_charts.entropies(ENTROPIES, 1),
    "trade-off": lambda: charts.trade_off(
        pl.DataFrame({"weight": [0, 1], "auc of a.b": [0.5, 0.6], "ndcg[10]": [0.4, 0.3]})
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_valid_and_fits_its_place(name):
    chart = CHARTS[name]()
    chart.to_dict(validate=True)
    spec = axes.spec(chart)
    assert spec["width"] == "container"
    assert "$schema" not in spec
    assert "http" not in str(spec)


def values(chart):
    return [row for rows in axes.spec(chart)["datasets"].values() for row in rows]


def test_a_bin_without_positives_stands_at_the_floor_of_a_logarithmic_axis():
    bins = curves.reliability([0, 0, 0, 1], [0.01, 0.01, 0.02, 0.02], bins=2)
    drawn = [row for row in values(charts.reliability(bins, logarithmic=True)) if "share" in row]
    assert [row["share"] for row in drawn] == [0, 0.5]
    assert 0 < drawn[0]["observed"] < 0.01


def test_precision_of_zero_has_no_place_on_a_logarithmic_axis():
    curve = curves.precision_recall([0, 1, 0, 1], [0.9, 0.8, 0.3, 0.2])
    assert curve[1][0] == 0
    drawn = values(charts.precision_recall({"a": curve}, {"a": 0.5}))
    assert min(row["precision"] for row in drawn) > 0


def test_weights_are_written_where_there_is_room():
    points = pl.DataFrame(
        {"weight": [0, 1, 2, 4], "a": [0.5, 0.5, 0.6, 0.7], "b": [0.7, 0.7, 0.6, 0]}
    )
    drawn = values(charts.trade_off(points))
    assert {row["weight"]: row["written"] for row in drawn} == {0: True, 1: False, 2: True, 4: True}


def test_a_grid_writes_every_number_and_leaves_what_is_none_empty():
    drawn = values(CHARTS["grid"]())
    assert [(row["row"], row["column"], row["value"]) for row in drawn] == [
        ("click", "0", 0.2), ("click", "1", 0.8), ("buy", "1", 1.0)
    ]  # fmt: skip
    assert len(axes.spec(CHARTS["grid"]())["layer"]) == 2
    assert len(axes.spec(CHARTS["grid without numbers"]())["layer"]) == 1


def test_more_series_than_colours_begin_anew():
    curve = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    spec = axes.spec(charts.roc({f"score {number}": curve for number in range(8)}))
    colours = spec["layer"][1]["encoding"]["color"]["scale"]["range"]
    assert colours[6] == colours[0] == axes.BLUE


@pytest.mark.parametrize("low", [1e-9, 3e-4, 0.02, 0.5])
@pytest.mark.parametrize("ratio", [3, 30, 1000, 1e6])
def test_a_logarithmic_axis_has_a_few_ticks(low, ratio):
    found = axes.ticks_of(low, low * ratio)
    assert 1 <= len(found) <= 9
    assert all(low <= each <= low * ratio for each in found)
