"""Scores read and write JSON, answer by name and print as tables."""

import json
from dataclasses import replace

import pytest

from polyrank.errors import ConfigError
from polyrank.metrics.score import Score, Scorecard
from polyrank.metrics.undefined import Undefined

CLICK = Score(
    name="click @ all",
    task="click",
    kind="binary",
    given=None,
    space="all",
    rows=12_345,
    positives=678,
    label_mean=0.054921,
    prediction_mean=0.05,
    metrics={
        "auc": {"value": 0.71234},
        "pr_auc": {"value": 0.2},
        "log_loss": {"value": 0.19},
        "ne": {"value": 0.9},
        "pcoc": {"value": 0.91},
        "ece": {"value": 0.004},
    },
    absent={"gauc": "no user key"},
)
BUY = Score(
    name="buy|click @ click",
    task="buy",
    kind="binary",
    given="click",
    space="click",
    rows=0,
    positives=0,
    label_mean=None,
    prediction_mean=None,
    metrics={},
    absent={
        "auc": "no rows where click happened and buy is observed",
        "gauc": "no user key",
        "pr_auc": "no rows where click happened and buy is observed",
    },
)
SPEND = Score(
    name="spend|buy @ buy",
    task="spend",
    kind="regression",
    given="buy",
    space="buy",
    rows=204,
    positives=None,
    label_mean=51.0,
    prediction_mean=50.99997,
    metrics={
        "rmse": {"value": 20.5},
        "mae": {"value": 10.0},
        "r2": {"value": 0.25},
        "bias": {"value": -0.00003},
    },
    absent={},
)
CARD = Scorecard("test", (CLICK, BUY, SPEND))


def test_json_has_the_documented_form():
    table = json.loads(json.dumps(CARD.to_json(), allow_nan=False))
    assert list(table) == ["format", "split", "scores"]
    assert (table["format"], table["split"]) == (1, "test")
    assert table["scores"][1] == {
        "name": "buy|click @ click",
        "task": "buy",
        "kind": "binary",
        "given": "click",
        "space": "click",
        "rows": 0,
        "positives": 0,
        "label_mean": None,
        "prediction_mean": None,
        "metrics": {},
        "absent": dict(BUY.absent),
    }
    assert table["scores"][0]["metrics"]["auc"] == {"value": 0.71234}
    assert table["scores"][0]["given"] is None
    assert table["scores"][2]["positives"] is None


def test_json_has_truth_only_where_it_is_known():
    known = replace(CLICK, truth={"mae": 0.01, "rmse": 0.02, "oracle_auc": 0.8})
    assert known.to_json()["truth"] == {"mae": 0.01, "rmse": 0.02, "oracle_auc": 0.8}
    assert "truth" not in CLICK.to_json()
    assert Scorecard.from_json(Scorecard("test", (known,)).to_json())["click @ all"] == known


def test_json_reads_back():
    assert Scorecard.from_json(json.loads(json.dumps(CARD.to_json()))) == CARD


def test_json_with_an_interval_reads_back():
    table = CARD.to_json()
    table["scores"][0]["metrics"]["auc"] = {"value": 0.7, "low": 0.6, "high": 0.8}
    card = Scorecard.from_json(table)
    assert card.value("click @ all", "auc") == 0.7
    assert card.to_json() == table


def test_a_newer_format_is_refused_by_name():
    with pytest.raises(ConfigError) as caught:
        Scorecard.from_json({**CARD.to_json(), "format": 2, "more": []})
    assert str(caught.value) == (
        "scorecard: format 2 is newer than this polyrank reads (1); upgrade polyrank"
    )


@pytest.mark.parametrize("format", [None, "1", 0])
def test_a_table_of_no_known_format_is_refused(format):
    with pytest.raises(ConfigError, match=f"scorecard: expected format 1, got {format!r}"):
        Scorecard.from_json({"format": format})


def test_a_list_is_no_scorecard():
    with pytest.raises(ConfigError, match=r"scorecard: expected format 1, got \[\]"):
        Scorecard.from_json([])


@pytest.mark.parametrize("key", ["split", "scores"])
def test_a_scorecard_without_a_part_is_refused(key):
    table = CARD.to_json()
    del table[key]
    with pytest.raises(ConfigError, match=f"^scorecard: the key '{key}' is missing$"):
        Scorecard.from_json(table)


def test_a_score_without_a_part_is_refused():
    table = CARD.to_json()
    del table["scores"][0]["rows"]
    with pytest.raises(ConfigError, match=r"^scorecard score: the key 'rows' is missing$"):
        Scorecard.from_json(table)


def test_an_unknown_key_is_refused_with_the_nearest():
    table = CARD.to_json()
    table["scores"][0]["row"] = 1
    with pytest.raises(ConfigError, match=r"scorecard score: unknown key 'row'; did you mean"):
        Scorecard.from_json(table)
    with pytest.raises(ConfigError, match=r"scorecard: unknown key 'score'; did you mean"):
        Scorecard.from_json({**CARD.to_json(), "score": []})


def test_scores_are_found_by_name():
    assert CARD["click @ all"] is CLICK
    assert list(CARD) == [CLICK, BUY, SPEND]
    assert len(CARD) == 3
    assert [score.kind for score in CARD] == ["binary", "binary", "regression"]


def test_an_unknown_score_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no score 'clik @ all'; did you mean 'click @ all'\?"):
        CARD["clik @ all"]


def test_a_value_is_found_by_name():
    assert CARD.value("click @ all", "auc") == 0.71234
    assert CARD.value("spend|buy @ buy", "rmse") == 20.5


def test_an_absent_value_is_refused_with_the_reason():
    with pytest.raises(Undefined, match=r"^click @ all has no gauc: no user key$"):
        CARD.value("click @ all", "gauc")
    with pytest.raises(Undefined, match=r"^buy\|click @ click has no ece: it was not measured$"):
        CARD.value("buy|click @ click", "ece")


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"a binary task has no metric 'acu'; did you mean 'auc'\?"
    ):
        CARD.value("click @ all", "acu")
    with pytest.raises(ConfigError, match="a regression task has no metric 'auc'"):
        CARD.value("spend|buy @ buy", "auc")


def test_it_prints_as_tables_with_reasons():
    assert str(CARD) == "\n".join(
        [
            "scores of the test split",
            "",
            "score                rows  positives     auc  gauc  pr_auc  log_loss      ne    pcoc"
            "     ece",
            "click @ all        12,345        678  0.7123     –  0.2000    0.1900  0.9000  0.9100"
            "  0.0040",
            "buy|click @ click       0          0       –     –       –         –       –       –"
            "       –",
            "– gauc of click @ all, buy|click @ click: no user key",
            "– auc, pr_auc of buy|click @ click: no rows where click happened and buy is observed",
            "",
            "score            rows     rmse      mae      r2    bias",
            "spend|buy @ buy   204  20.5000  10.0000  0.2500  0.0000",
        ]
    )


def test_truth_has_columns_of_its_own():
    known = replace(
        CLICK,
        rows=None,
        truth={"mae": 0.01, "rmse": 0.02},
        absent={"oracle_auc": "no negative among 12 rows"},
    )
    header, line, reason = str(Scorecard("valid", (known,))).split("\n")[2:]
    assert header.endswith("ece  oracle auc  |p − truth|")
    assert line.endswith("0.0040           –       0.0100")
    assert line.startswith("click @ all     –        678")
    assert reason == "– oracle auc of click @ all: no negative among 12 rows"


def test_intervals_have_a_table_of_their_own():
    sure = {**CLICK.metrics, "auc": {"value": 0.71234, "low": 0.70049, "high": 0.72}}
    sure["pcoc"] = {"value": 0.91, "low": 0.9, "high": 1.02}
    absent = {**CLICK.absent, "ne interval": "0 is the end of its scale"}
    few = replace(CLICK, name="buy @ all", absent={"interval": "3 positives; an interval takes 50"})
    card = Scorecard("test", (replace(CLICK, metrics=sure, absent=absent), few))
    assert str(card).split("\n")[5:] == [
        "",
        "95 % interval            auc           pcoc",
        "click @ all    0.7005…0.7200  0.9000…1.0200",
        "",
        "– gauc of click @ all: no user key",
        "– ne interval of click @ all: 0 is the end of its scale",
        "– interval of buy @ all: 3 positives; an interval takes 50",
    ]
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_a_regression_that_cannot_be_measured_names_its_own_metrics():
    reason = "no rows where click happened and watch is observed"
    score = Score(
        "watch|click @ click", "watch", "regression", "click", "click", 0, None, None, None,
        {}, dict.fromkeys(("rmse", "mae"), reason),
    )  # fmt: skip
    assert f"– rmse, mae of watch|click @ click: {reason}" in str(Scorecard("test", (score,)))


def test_a_frame_has_a_line_a_metric_with_its_interval_or_the_reason():
    sure = {**CLICK.metrics, "auc": {"value": 0.7, "low": 0.6, "high": 0.8}}
    absent = {**CLICK.absent, "interval": "3 positives; an interval takes 50"}
    known = replace(CLICK, metrics=sure, absent=absent, raw={"pcoc": 1.2})
    frame = Scorecard("test", (known, SPEND)).to_frame()
    lines = {(line["score"], line["metric"]): line for line in frame.iter_rows(named=True)}
    assert list(lines)[:3] == [("click @ all", name) for name in ("auc", "gauc", "pr_auc")]
    auc = lines["click @ all", "auc"]
    assert (auc["value"], auc["low"], auc["high"], auc["reason"]) == (0.7, 0.6, 0.8, None)
    assert lines["click @ all", "gauc"]["reason"] == "no user key"
    assert lines["click @ all", "gauc"]["value"] is None
    assert lines["click @ all", "pcoc"]["raw"] == 1.2
    assert lines["click @ all", "pcoc"]["reason"] == "3 positives; an interval takes 50"
    assert lines["click @ all", "ece"]["reason"] is None
    spend = lines["spend|buy @ buy", "rmse"]
    assert (spend["kind"], spend["rows"], spend["positives"]) == ("regression", 204, None)
    assert Scorecard("test", ()).to_frame().columns == frame.columns


def test_a_notebook_shows_the_tables_with_every_text_escaped():
    card = Scorecard("<test>", (replace(CLICK, raw={"auc": 0.7, "pcoc": 1, "ece": 0}), SPEND))
    html = card._repr_html_()
    assert html.startswith("<p>scores of the &lt;test&gt; split</p><table>")
    assert html.count("<table>") == 3
    assert "<td>0.7123</td>" in html
    assert "– gauc of click @ all: no user key" in html
    assert "before → after calibration" in html
