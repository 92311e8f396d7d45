"""The page of a replay."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from polyrank.metrics.score import Score
from polyrank.metrics.scorecard import Scorecard
from polyrank.report.charts import PALETTE, Style
from polyrank.report.replayed import by_period, replay_page
from polyrank.train.replay import Replay, Replayed


def cell(period, strategy, value):
    auc = (
        {} if value is None else {"auc": {"value": value, "low": value - 0.1, "high": value + 0.1}}
    )
    score = Score(
        name="click @ all", task="click", kind="binary", given=None, space="all", rows=9,
        positives=4, label_mean=0.4, prediction_mean=0.5, metrics=auc,
        absent={} if auc else {"auc": "one class"},
    )  # fmt: skip
    return Replayed(
        period=period, strategy=strategy, rows=9, scorecard=Scorecard("test", (score,)),
        learned=8, seconds=1.5,
    )  # fmt: skip


FOUND = Replay(
    Path("out"),
    (
        cell("<1>", "scratch", 0.6),
        cell("<1>", "warm", None),
        cell("2", "scratch", 0.7),
        cell("2", "warm", 0.8),
    ),
    "click @ all",
    "auc",
)


def test_the_page_has_all_numbers_and_no_text_of_others_as_html():
    page = replay_page(FOUND, written=datetime(2026, 3, 1, tzinfo=UTC))
    assert "auc of click @ all" in page
    assert "<1>" not in page
    assert "0.8000" in page
    assert "0.7000 to 0.9000" in page


def test_a_day_without_the_metric_is_a_dash():
    lines = [line.split() for line in str(FOUND).splitlines()]
    assert lines[2] == ["<1>", "9", "0.6000", "[0.5000,", "0.7000]", "–"]


@pytest.mark.parametrize("band", [True, False])
def test_charts_are_valid(band):
    frame = FOUND.frame() if band else FOUND.frame().drop("low", "high")
    drawn = {name: Style(PALETTE[at], [1, 0]) for at, name in enumerate(FOUND.strategies)}
    table = by_period(frame, "auc", drawn).to_dict(validate=True)
    assert len(table["layer"]) == 1 + band
    assert isinstance(frame, pl.DataFrame)
