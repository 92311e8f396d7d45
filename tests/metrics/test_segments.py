"""Segments: each line is the metrics of its rows, and the order puts evidence before oddity."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.errors import DataError
from polyrank.metrics import binary
from polyrank.metrics.registry import metrics_of
from polyrank.metrics.segments import SHOWN, as_text, columns, labelled, score_segments, segments
from polyrank.schema import DenseFeature, Schema, Task

ROWS = 4000


@pytest.fixture(scope="module")
def log():
    """Probabilities that are right but for city c, where they are double."""
    generator = np.random.default_rng(3)
    p = generator.uniform(0.02, 0.4, ROWS)
    label = (generator.random(ROWS) < p).astype(float)
    city = generator.choice(["a", "b", "c"], ROWS, p=[0.5, 0.3, 0.2])
    p[city == "c"] *= 2
    return label, p, city


def test_a_line_holds_the_metrics_of_its_rows(log):
    label, p, city = log
    weight = np.random.default_rng(1).uniform(0.5, 2, ROWS)
    for line in segments(label, p, {"city": city}, weight=weight).iter_rows(named=True):
        rows = city == line["value"]
        assert line["rows"] == rows.sum()
        assert line["positives"] == label[rows].sum()
        for name, each in metrics_of("binary", "diagnosed").items():
            assert line[name] == pytest.approx(each(label[rows], p[rows], weight[rows]))
        assert line["label_mean"] == pytest.approx(np.average(label[rows], weights=weight[rows]))


def test_the_segment_that_is_off_comes_first_and_a_freak_does_not(log):
    label, p, city = log
    city = city.astype(object)
    freak = np.flatnonzero(label == 1)[:3]
    city[freak], p = "freak", p.copy()
    p[freak] = 1e-12  # three certain errors: 83 nats, and no finding
    found = segments(label, p, {"city": city.tolist()})
    assert found["value"].to_list()[0] == "c"
    assert found["value"].to_list()[-1] == "freak"
    assert found["excess"].arg_max() == found.height - 1
    assert found["judged"].to_list() == [True, True, True, False]
    assert found["pcoc_low"][0] > 1
    assert found["pcoc_low"][1] < 1 < found["pcoc_high"][1]


def test_what_is_never_positive_is_judged_by_what_was_predicted():
    found = segments(np.zeros(1000), np.full(1000, 0.1), {"x": ["a"] * 1000})
    assert found["judged"].to_list() == [True]
    assert found["excess"][0] == pytest.approx(-np.log(0.9))
    reason = found["reason"][0]
    assert "auc, ne, pcoc: no positive among 1,000 rows" in reason
    assert "pcoc_low, pcoc_high: under 50 positives" in reason


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_excess_is_at_most_what_one_number_in_the_logits_wins(seed, shift):
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1, 400)
    label = (generator.random(400) < 1 / (1 + np.exp(-logit))).astype(float)
    off = logit + shift
    excess = segments(label, 1 / (1 + np.exp(-off)), {"x": np.zeros(400)})["excess"][0]
    shifts = np.linspace(-6, 6, 241)[:, None]
    loss = np.logaddexp(0, off + shifts) - label * (off + shifts)
    now = (np.logaddexp(0, off) - label * off).mean()
    assert 0 <= excess <= now - loss.mean(1).min() + 1e-3


def test_excess_of_one_probability_is_exactly_the_log_loss_above_the_base_rates():
    label = np.repeat([1.0, 0.0], [60, 140])
    found = segments(label, np.full(200, 0.5), {"x": ["a"] * 200})
    assert found["excess"][0] == pytest.approx(
        binary.log_loss(label, np.full(200, 0.5)) - binary.log_loss(label, np.full(200, 0.3))
    )


def test_the_pcoc_interval_covers_what_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        p = generator.beta(2, 8, 1000)
        label = (generator.random(1000) < p).astype(float)
        line = segments(label, p, {"x": np.zeros(1000)}).row(0, named=True)
        covered += line["pcoc_low"] <= 1 <= line["pcoc_high"]
    assert 0.91 < covered / 300 < 0.98


def test_a_weight_of_two_is_the_row_twice(log):
    label, p, city = (each[:500] for each in log)
    twice = segments(*(np.repeat(each, 2) for each in (label, p)), {"city": np.repeat(city, 2)})
    weighed = segments(label, p, {"city": city}, weight=np.full(500, 2.0))
    same = ["dimension", "value", "label_mean", "auc", "log_loss", "pcoc", "ece"]
    a, b = (frame.sort("value").select(same) for frame in (twice, weighed))
    for name in same[2:]:
        np.testing.assert_allclose(a[name], b[name])


def test_numbers_are_cut_into_bins_of_equal_count():
    found = labelled("price", np.arange(100.0))
    assert found.n_unique() == 10
    assert set(found.value_counts()["count"]) == {10, 11, 9} & set(found.value_counts()["count"])
    assert found[0] == "[0, 9)"
    assert found[99].endswith("99]")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 1, None], ["1", "2", "1", None]),
        ([1.0, 2.5, np.nan, 1.0], ["1", "2.5", None, "1"]),
        ([10**18 + 1, 10**18 + 2], ["1000000000000000001", "1000000000000000002"]),
        ([True, False, None], ["true", "false", None]),
        (["x", None, "null"], ["x", None, "null"]),
    ],
)
def test_few_values_are_themselves(values, expected):
    assert labelled("x", pl.Series(values)).to_list() == expected


def test_a_bin_that_most_rows_share_does_not_swallow_the_others():
    found = labelled("x", np.r_[np.arange(20.0), np.full(500, 20.0)])
    assert sorted(found.unique().to_list()) == ["20", "[0, 20)"]


def test_close_edges_get_the_digits_that_tell_them_apart():
    found = labelled("x", 1e9 + np.arange(100.0))
    assert found.n_unique() == 10


def test_rare_values_are_one_line():
    values = [f"v{n}" for n in range(60) for _ in range(3 if n < 50 else 1)]
    found = labelled("x", values)
    assert found.n_unique() == 51
    assert (found == "other (10 values)").sum() == 10


def test_missing_values_are_a_segment():
    found = segments([0, 1, 1], [0.1, 0.2, 0.3], {"x": pl.Series(["a", None, None])})
    assert found.filter(pl.col("value").is_null())["rows"].to_list() == [2]
    assert "x = (null)" in as_text(found)


def test_rows_of_weight_0_are_counted_and_measured_as_none():
    found = segments([0, 1, 1], [0.1, 0.2, 0.3], {"x": ["a", "b", "b"]}, weight=[1, 0, 0])
    line = found.filter(value="b").row(0, named=True)
    assert (line["rows"], line["auc"]) == (2, None)
    assert line["reason"] == "no rows of weight above 0"


def test_no_rows_and_no_columns_give_no_lines():
    assert segments([], [], {"x": []}).height == 0
    assert segments([1], [0.5], {}).schema == pl.Schema(columns())


def test_the_printed_table_says_what_it_leaves_out(log):
    label, p, _ = log
    text = as_text(segments(label, p, {"x": [str(n % 40) for n in range(ROWS)]}))
    assert f"… and {40 - SHOWN} more" in text
    assert "of 40 have under 50 positives" in text


def test_too_few_negatives_are_called_negatives():
    label, p = np.r_[np.ones(150), np.zeros(23)], np.full(173, 0.9)
    found = segments(label, p, {"x": ["a"] * 173})
    assert found["judged"].to_list() == [False]
    assert found["reason"].to_list() == ["judged: under 50 negatives"]
    assert "– 1 of 1 has under 50 negatives: at the end" in as_text(found)
    few = segments([0, 1], [0.5, 0.5], {"x": ["a", "b"]})
    assert "– 2 of 2 have under 50 positives or negatives: at the end" in as_text(few)


def test_the_text_fits_120_columns_whatever_the_names(log):
    label, p, city = log
    name = "detailed household and family status"
    values = [f"{each} of a value that is longer than its column" for each in city]
    text = as_text(segments(label, p, {name: values, "score decile": p}))
    assert max(map(len, text.splitlines())) <= 120
    assert "detailed ho… = c of a value that is …" in text


def test_lists_are_refused():
    with pytest.raises(DataError, match=r"tags: segments need single values, got List"):
        segments([0, 1], [0.1, 0.2], {"tags": pl.Series([[1], [2]])})


def test_columns_of_another_length_are_refused():
    with pytest.raises(DataError, match=r"x: expected an array of shape \(2,\), got \(3,\)"):
        segments([0, 1], [0.1, 0.2], {"x": [1, 2, 3]})


def test_a_prediction_that_is_no_probability_is_refused():
    with pytest.raises(DataError, match="a probability lies within 0 and 1"):
        segments([0, 1], [0.1, 1.2], {"x": [1, 2]})


def test_a_schema_of_regressions_has_no_segments():
    schema = Schema([DenseFeature("x")], [Task("spend", kind="regression")])
    column = {"spend": np.ones(3)}
    found = score_segments(schema, column, column, {"x": pl.Series("x", [1.0, 2.0, 3.0])})
    assert found.height == 0
    assert found.schema == {"score": pl.String, **columns()}
