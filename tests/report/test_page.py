"""The page as text: whole, self-contained, escaped, and plain about what it lacks."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from html.parser import HTMLParser
from itertools import combinations, pairwise

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.data.check import Audit
from polyrank.inspection.importance import Drop
from polyrank.metrics.score import Scorecard
from polyrank.report import Evidence, curves, gather, write
from polyrank.report.blocks import Figure
from polyrank.report.page import page
from polyrank.report.sections import debiased, epochs, inspected, predictions, record, scores
from polyrank.report.sections.values import values as predicted_values

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
TITLES = [
    "Scorecard", "Calibration", "Ranking", "Predictions by label", "Predicted values",
    "Estimate and truth", "Segments", "Importance of features", "Dependence on numbers",
    "Fused score", "Training", "Propensities",
    "First stages", "Gates and experts", "Audit of the log", "Configuration", "Environment",
]  # fmt: skip


class Parsed(HTMLParser):
    """What a browser would see: tags with their attributes, and the text of each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.path = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.path.append(tag)

    def handle_endtag(self, tag):
        assert self.path.pop() == tag, f"{tag} closes nothing"

    def handle_data(self, data):
        self.texts.setdefault(self.path[-1] if self.path else "", []).append(data)


@pytest.fixture(scope="module")
def text(full):
    return page(full, written=NOW)


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


def test_every_section_is_there_in_order(parsed):
    assert parsed.texts["h2"] == TITLES


def test_the_contents_lead_to_every_section(parsed):
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    anchors = [f"#{attributes['id']}" for tag, attributes in parsed.tags if tag == "section"]
    assert links == anchors
    assert len(set(anchors)) == len(TITLES)


def test_headings_descend_by_one(parsed):
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_it_is_small_and_carries_its_runtime_once(text):
    assert len(text.encode()) < 4_000_000
    assert text.count("window.vegaEmbed=") == 1


def test_it_loads_nothing(parsed, text):
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith("#"), tag
    (style,) = ("".join(parsed.texts["style"]),)
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def test_specifications_name_no_address(parsed):
    for attributes, body in scripts(parsed):
        if attributes.get("type") == "application/json":
            assert "http" not in body


def scripts(parsed):
    attributes = [found for tag, found in parsed.tags if tag == "script"]
    return list(zip(attributes, parsed.texts["script"], strict=True))


def test_every_chart_has_a_specification_and_a_description(parsed):
    charts = [found for _, found in parsed.tags if found.get("class") == "chart"]
    specs = [json.loads(body) for found, body in scripts(parsed) if found.get("type")]
    assert len(charts) == len(specs) > 15
    assert all(found["role"] == "img" and len(found["aria-label"]) > 20 for found in charts)
    assert all(spec["width"] == "container" for spec in specs)


def test_no_row_is_embedded(parsed):
    for found, body in scripts(parsed):
        if found.get("type"):
            (*datasets,) = json.loads(body)["datasets"].values()
            assert 0 < sum(map(len, datasets)) <= 3 * curves.MOST_POINTS + 10


def test_names_from_the_log_are_text_and_nothing_else(parsed, text):
    assert "alert('x')</script>" not in text
    assert any(
        each.startswith("item</script><script>alert('x')</script> = ")
        for each in parsed.texts["span"]
    )
    assert len(scripts(parsed)) == text.count("<script")


def test_the_headline_says_what_it_is(parsed):
    found = "".join(parsed.texts["p"])
    assert "mmoe trunk · seed 0 · trained 2026-11-26 12:00 · 4,000 valid rows" in found


def test_every_score_has_a_card(parsed, full):
    cards = [attributes for tag, attributes in parsed.tags if attributes.get("class") == "name"]
    assert len(cards) == len(full.scorecard)
    found = " ".join(parsed.texts["span"])
    assert "true\xa0probabilities" in found
    assert "positives · PCOC" in found.replace("\xa0", " ")
    assert "RMSE" in parsed.texts["small"]


def test_a_value_that_is_predicted_has_two_charts(evidence):
    (figure,) = predicted_values(evidence).blocks[1:]
    assert (figure.title, len(figure.charts)) == ("spend|buy @ buy", 2)
    only = {name: each for name, each in evidence.rows.items() if each.is_event}
    assert predicted_values(replace(evidence, rows=only)) is None


def test_a_metric_shows_its_interval(evidence):
    table = evidence.scorecard.to_json()
    for score in table["scores"]:
        score["metrics"] = {name: {"value": m["value"]} for name, m in score["metrics"].items()}
    bare = replace(evidence, scorecard=Scorecard.from_json(table))
    table["scores"][0]["metrics"]["auc"] = {"value": 0.7123, "low": 0.699, "high": 0.725}
    found = scores.scorecard(replace(evidence, scorecard=Scorecard.from_json(table))).html()
    assert '.7123 <span class="detail">[.6990, .7250]</span>' in found
    assert "95 % intervals. They" in found
    assert "95 % intervals. They" not in scores.scorecard(bare).html()


def test_an_absent_metric_is_a_dash_with_its_reason(full):
    table = full.scorecard.to_json()
    del table["scores"][0]["metrics"]["gauc"]
    table["scores"][0]["absent"] = {"gauc": "no user key"}
    text = scores.scorecard(replace(full, scorecard=Scorecard.from_json(table))).html()
    assert 'title="no user key"><span>–</span>' in text
    assert "– grouped AUC of click @ all: no user key" in text


def test_without_rows_the_page_says_so_and_stands(bundle):
    evidence = gather(bundle, missing="the file is gone")
    text = page(evidence, written=NOW)
    assert Parsed(text).texts["h2"] == [
        "Not on this page", "Scorecard", "Calibration", "Fused score", "Training",
        "Gates and experts", "Audit of the log", "Configuration", "Environment",
    ]  # fmt: skip
    assert "need the scored rows: the file is gone." in text


def test_without_truth_there_is_no_such_section(bundle, rows):
    plain = {name: column for name, column in rows.items() if not name.startswith("true_")}
    evidence = gather(bundle, plain)
    assert predictions.known_truth(evidence) is None
    assert predictions.calibration(evidence) is not None


def test_without_both_labels_no_curve_is_drawn(bundle, rows):
    only = {
        name: np.asarray(column)[np.asarray(rows["click"]) == 0] for name, column in rows.items()
    }
    evidence = gather(bundle, only, split="given")
    assert "No score has rows of both labels" in record.missing(evidence).html()
    assert predictions.ranking(evidence) is None


def test_without_a_scorecard_the_page_says_so(bundle):
    evidence = gather(replace(bundle, scorecard=None))
    assert "Nothing was scored" in scores.scorecard(evidence).html()
    assert "<h1>fit</h1>" in page(evidence, written=NOW)


def test_without_a_history_the_page_says_so(evidence):
    bare = replace(evidence, history=pl.DataFrame())
    assert "no history" in record.missing(bare).html()
    assert epochs.training(bare) is None


def test_figures_before_calibration_have_a_table_of_their_own(evidence):
    score = evidence.scorecard["click @ all"]
    after = scores.number(score.value("auc"))
    found = scores.scorecard(evidence).html()
    assert "Before → after calibration" in found
    assert f"{scores.number(score.raw['auc'])} → {after}" in found
    plain = Scorecard("valid", (replace(score, raw=None),))
    assert "calibration" not in scores.scorecard(replace(evidence, scorecard=plain)).html()


def test_each_head_says_which_map_it_got_or_why_none(bundle, evidence):
    text = predictions.calibration(evidence).html()
    assert "Platt, slope .9000, intercept −.2000, fitted on 4,000 validation rows with 700" in text
    assert f"positives: {bundle.calibrators['buy'].reason}" in text
    none = predictions.calibration(replace(evidence, calibrators={})).html()
    assert none.count("no map: there were no validation rows") == 3


def test_raw_rows_are_kept_where_a_map_changed_the_score(evidence):
    changed = {name for name, rows in evidence.rows.items() if rows.raw is not None}
    assert changed == {"click @ all", "buy @ all"}
    text = predictions.calibration(evidence).html()
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert ["before calibration" in each for each in captions] == [True, True, False]


def test_lists_have_a_table_where_there_are_requests(evidence):
    assert "by request" not in scores.scorecard(evidence).html()
    table = evidence.scorecard.to_json()
    table["scores"][0]["metrics"]["mrr"] = {"value": 0.4321}
    found = scores.scorecard(replace(evidence, scorecard=Scorecard.from_json(table))).html()
    assert found.count(">by request<") == 1
    assert 'data-label="MRR"><span>.4321' in found


def test_each_heads_own_best_epoch_is_told(schema):
    history = pl.DataFrame(
        {
            "epoch": [1, 2, 3],
            "valid click normalized loss": [0.95, 0.93, 0.94],
            "valid buy|click normalized loss": [0.99, 1.0, None],
            "valid normalized loss": [1.94, 1.93, 1.9],
            "best": [True, True, True],
        }
    )
    found = epochs.training(Evidence("x", schema, {}, history, None, {}, None)).blocks
    figure = next(each for each in found if getattr(each, "title", "") == "Each head's own loss")
    assert "Each head's own best: click in epoch 2, buy|click in epoch 1." in figure.caption
    assert (
        epochs.training(
            Evidence("x", schema, {}, history.select("epoch", "best"), None, {}, None)
        ).blocks
        == found[:1]
    )


def test_the_agreement_of_gradients_is_drawn(schema):
    names = ["click @ all · buy|click @ click", "click @ all · spend|buy @ buy"]
    history = pl.DataFrame(
        {
            "epoch": [1, 2],
            f"cosine {names[0]}": [0.4, -0.1],
            f"cosine {names[1]}": [0.0, None],
            "best": [True, True],
        }
    )
    found = epochs.training(Evidence("x", schema, {}, history, None, {}, None)).blocks
    (figure,) = (each for each in found if getattr(each, "title", "") == "Agreement of gradients")
    (chart,) = figure.charts
    drawn = json.dumps(chart.to_dict(), ensure_ascii=False)
    assert all(name in drawn for name in names)
    assert "below 0 they pull apart" in figure.caption
    assert "Means" not in figure.caption


def test_the_agreement_of_many_gradients_is_a_grid(schema):
    terms = ["click @ all", "buy|click @ click", "spend|buy @ buy", "like @ all"]
    pairs = list(combinations(terms, 2))
    history = pl.DataFrame(
        {"epoch": [1, 2]}
        | {f"cosine {a} · {b}": [0.1 * at, 0.3 * at] for at, (a, b) in enumerate(pairs)}
    )
    found = epochs.training(Evidence("x", schema, {}, history, None, {}, None)).blocks
    (figure,) = (each for each in found if getattr(each, "title", "") == "Agreement of gradients")
    (rows,) = figure.charts[0].to_dict()["datasets"].values()
    drawn = {(each["row"], each["column"]): each["value"] for each in rows}
    assert len(drawn) == 2 * len(pairs)
    for at, (a, b) in enumerate(pairs):
        assert drawn[a, b] == drawn[b, a] == pytest.approx(0.2 * at)
    assert figure.caption.endswith("Means over the epochs.")


def test_a_gate_that_collapsed_is_warned_of_at_the_top(full):
    text = epochs.experts(full).html()
    assert text.index("Level 0: the gate of &#x27;click&#x27; gives 99.0%") < text.index("<figure>")
    assert "An empty cell is an expert that the gate does not see." in text
    assert "Entropy of the gates" in text


def test_entropies_are_told_by_level(schema):
    history = pl.DataFrame(
        {"epoch": [1, 2]}
        | {f"level {each} gate shared row entropy": [1.0, 0.5] for each in (0, 1)}
        | {"level 1 gate shared mean entropy": [1.0, 0.9], "level 1 largest dead rate": [0.0, 0.1]}
    )
    figures = epochs.experts(Evidence("x", schema, {}, history, None, {}, None)).blocks
    assert [each.title for each in figures] == [
        "Entropy of the gates of level 0", "Entropy of the gates of level 1",
        "Dead units over the epochs",
    ]  # fmt: skip


def test_segments_are_of_the_joint_outcomes_and_of_lines_that_can_be_judged(evidence):
    assert list(evidence.segments) == ["click @ all", "buy @ all"]
    frame = evidence.segments["click @ all"]
    text = scores.segments(evidence).html()
    worst = frame.filter("judged").row(0, named=True)
    assert escape(f"{worst['dimension']} = {worst['value']}") in text
    few = frame.with_columns(judged=pl.lit(False))
    text = scores.segments(replace(evidence, segments={"click @ all": few})).html()
    assert f"None of {frame.height} segments can be judged: they have under 50 positives" in text
    assert scores.segments(replace(evidence, segments={})) is None


def test_a_column_that_cuts_nothing_is_no_segment(evidence):
    one = evidence.segments["click @ all"].head(1)
    text = scores.segments(replace(evidence, segments={"click @ all": one})).html()
    assert "None of 0 segments" in text


def test_a_trade_off_that_the_rows_cannot_give_is_said():
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click"), pr.Task("like")])
    log = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4, "like": [0, 1] * 8}
    fusion = pr.Fusion({"click": 1, "like": 2})
    bundle = pr.fit(schema, pr.Model(), train=log, fusion=fusion, epochs=1)
    found = gather(bundle, {**log, "like": [0] * 16})
    assert found.trade_offs == {}
    (note,) = found.notes
    assert re.fullmatch(
        r"There is no trade-off curve of the weight of like: .*no positive.*\.", note
    )
    assert note in page(found, written=NOW)


def test_every_weight_of_a_fused_score_but_the_first_is_swept(evidence):
    assert list(evidence.trade_offs) == ["buy", "price"]
    assert evidence.trade_offs["price"].columns == [
        "weight", "auc of click @ all", "auc of buy @ all"
    ]  # fmt: skip
    text = scores.fusion(evidence).html()
    assert "click = 1, buy = 2, price = 0.1" in text
    assert "Weight of price" in text


def test_an_audit_that_was_not_made_says_why(evidence):
    text = record.audit(replace(evidence, unaudited="the log is gone")).html()
    assert "The log was not audited: the log is gone." in text


def test_rows_of_weight_zero_are_not_there():
    schema = pr.Schema([pr.SparseFeature("x")], [pr.Task("click")], pr.Keys(weight="w"))
    log = {"x": [1, 2] * 8, "click": [1, 0, 1, 1] * 4, "w": [1.0, 1.0, 1.0, 0.0] * 4}
    bundle = pr.fit(schema, pr.Model(), train=log, valid=log, epochs=1)
    evidence = gather(bundle, log)
    assert evidence.notes == ()
    assert len(evidence.rows["click @ all"].label) == 12
    nothing = gather(bundle, log | {"w": [0.0] * 16}, split="given")
    assert nothing.labelled == ()
    assert "<h1>fit</h1>" in page(nothing, written=NOW)


def test_sampled_rows_are_weighted_as_the_scorecard_weighs_them():
    schema = pr.Schema([pr.SparseFeature("x")], [pr.Task("click")])
    log = {"x": [1, 2] * 8, "click": [1, 0, 1, 1] * 4}
    sampling = pr.Sampling("click", keep=0.1, splits=["train", "valid"])
    bundle = pr.fit(schema, pr.Model(), train=log, valid=log, epochs=1, sampling=sampling)
    evidence = gather(bundle, log)
    rows = evidence.rows["click @ all"]
    mean = bundle.scorecard["click @ all"].label_mean
    assert np.average(rows.label, weights=rows.weight) == pytest.approx(mean)
    assert evidence.notes == ()


def test_rows_that_have_changed_are_noticed(bundle, rows):
    fewer = {name: np.asarray(column)[:3000] for name, column in rows.items()}
    (note,) = gather(bundle, fewer).notes
    assert (
        "The valid rows have changed since the run was scored: click @ all now has 3,000 rows"
        in note
    )
    assert gather(bundle, rows).notes == ()


def test_other_rows_get_a_scorecard_of_their_own(bundle, rows):
    fewer = {name: np.asarray(column)[:3000] for name, column in rows.items()}
    evidence = gather(bundle, fewer, split="given")
    assert (evidence.scorecard.split, evidence.scorecard["click @ all"].rows) == ("given", 3000)
    assert evidence.notes == ()


def test_scored_rows_are_those_of_the_scorecard(evidence):
    for score in evidence.scorecard:
        rows = evidence.rows[score.name]
        assert rows.prediction.mean() == pytest.approx(score.prediction_mean)
        if score.rows is not None:
            assert len(rows.label) == score.rows
            assert rows.label.mean() == pytest.approx(score.label_mean)
        if not rows.is_event:
            continue
        assert np.abs(rows.truth - rows.prediction).mean() == pytest.approx(score.truth["mae"])


def test_the_audit_puts_errors_first(full):
    text = record.audit(full).html()
    assert text.index("label-equal") < text.index("constant")
    assert "1 error, 0 warnings, 1 note in 4,000 train rows." in text
    clean = replace(full, audit=Audit((), {"train": 4000}))
    assert "The audit of 4,000 train rows found nothing." in record.audit(clean).html()


def test_write_replaces_the_file_and_returns_its_path(evidence, tmp_path):
    path = tmp_path / "new" / "report.html"
    assert write(evidence, path) == path
    assert write(evidence, str(path)) == path
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_a_path_that_cannot_be_written_is_refused(evidence, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(pr.PolyrankError, match=r"the report .* could not be written"):
        write(evidence, tmp_path / "file" / "report.html")


def test_without_the_extra_it_says_how_to_install_it(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr("polyrank.report.installed", lambda: False)
    with pytest.raises(pr.PolyrankError, match=r"pip install 'polyrank\[report\]'"):
        write(evidence, tmp_path / "report.html")


def test_weights_that_leave_few_rows_are_warned_of_beside_their_propensities(full):
    text = debiased.propensities(full).html()
    assert "Propensities of buy|click @ click" in text
    assert "leave an effective sample of" in text
    assert "0.2% of them clipped at a propensity of 0.001. The dashed line is the floor." in text
    assert debiased.propensities(replace(full, propensities=())) is None


def test_importance_has_a_chart_a_score_and_every_loss_in_a_table(full):
    section = inspected.importance(full)
    text = section.html()
    figures = [each for each in section.blocks if isinstance(each, Figure)]
    assert [each.title for each in figures] == list(full.importance.whole)
    assert "permutation importance" not in text
    assert "Permutation importance on 4,000 valid rows; 5 permutations" in text
    drop = next(each for each in full.importance.drops if each.feature == "price")
    assert scores.number(drop.value).lstrip("−") in text
    for figure in figures:
        for chart in figure.charts:
            chart.to_dict()  # which validates it


def test_importance_names_what_is_left_out_and_what_it_leaves_out(full):
    many = tuple(Drop("click @ all", "auc", f"f{each}", 0.1) for each in range(25))
    found = replace(
        full.importance, drops=many, whole={"click @ all": 0.7}, left_out={"slot": "it is served"}
    )
    text = inspected.importance(replace(full, importance=found)).html()
    assert "Slot is left out: it is served." in text
    partly = replace(found, whole={"click @ all": 0.7, "buy @ all": 0.6}, drops=many[:2])
    text_of_part = inspected.importance(replace(full, importance=partly)).html()
    assert 'title="it cannot be measured without the feature"' in text_of_part
    assert "The 20 largest of 25." in text
    assert "the 20 first of 25, by the first score" in text
    assert "f20" not in text


def test_curves_of_numbers_are_drawn_in_the_order_of_their_importance(full):
    names = [f"n{each}" for each in range(9)]
    curve = full.dependence.filter(feature="price")
    frame = pl.concat(curve.with_columns(feature=pl.lit(name)) for name in names)
    drops = [Drop("click @ all", "auc", name, place / 10) for place, name in enumerate(names)]
    found = replace(full.importance, drops=tuple(drops))
    section = inspected.dependence(replace(full, dependence=frame, importance=found))
    figures = [each for each in section.blocks if isinstance(each, Figure)]
    assert [each.title for each in figures] == names[:0:-1]
    assert "Here are the 8 numbers of 9 that matter most." in section.html()
    assert len(figures[0].charts) == 3  # an output of each task
    for chart in figures[0].charts:
        chart.to_dict()


def test_without_inspection_neither_is_there(full):
    bare = replace(full, importance=None, dependence=None)
    assert inspected.importance(bare) is None
    assert inspected.dependence(bare) is None
    assert inspected.dependence(replace(full, dependence=full.dependence.clear())) is None
