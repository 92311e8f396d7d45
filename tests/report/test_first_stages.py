"""First stages on the page: what is gathered of a bundle, and how it is told."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import polyrank as pr
from polyrank.models.outputs import logits_of, margins_of
from polyrank.report import gather
from polyrank.report.first_stages import MOST_EFFECTS, QUANTILES, first_stages
from polyrank.report.sections.record import missing
from polyrank.report.sections.stages import _in_turn
from polyrank.report.sections.stages import first_stages as section
from polyrank.stages.effects import FieldEffects, IdEffect
from polyrank.stages.wide import Wide

ROWS = 600


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(3)
    item = rng.integers(0, 9, ROWS)
    click = rng.random(ROWS) < 0.1 + 0.08 * item
    return {
        "item": item,
        "click": click.astype(int),
        "stars": np.where(click, item + rng.normal(size=ROWS), np.nan),
        "w": rng.integers(0, 3, ROWS).astype(float),
    }


@pytest.fixture(scope="module")
def fitted(log):
    schema = pr.Schema(
        [pr.SparseFeature("item")],
        [pr.Task("click"), pr.Task("stars", kind="regression", given="click")],
        pr.Keys(weight="w"),
    )
    model = pr.Model(trunk=pr.SharedBottom(hidden=[4]), tower=[4], embed_dim=4, wide=Wide())
    return pr.fit(schema, model, train=log, valid=log, epochs=1, batch_size=100, lr=0.05)


@pytest.fixture(scope="module")
def gathered(fitted, log):
    return gather(fitted, log)


def test_changes_are_what_the_network_adds_to_the_margin(fitted, log, gathered):
    table = fitted.encode(log, split="rows")
    first, counts = fitted.ranker.first.stage["wide"], table.weight > 0
    effect, bias = first.effect.numpy()[table.ids[0]], first.bias.numpy()
    for at, head in enumerate(("click", "stars")):
        margin = (bias[at] + effect[:, at]).astype(np.float64)
        added = (fitted.logits(table)[head] - margin)[counts]
        own = margin[counts] - margin[counts].mean()
        for found, values in ((gathered.first.changes, added), (gathered.first.margins, own)):
            np.testing.assert_allclose(found[head], np.quantile(values, QUANTILES), atol=1e-5)


def test_gains_are_of_the_margins_alone_and_of_all(fitted, log, gathered):
    table = fitted.encode(log, split="rows")
    margin = margins_of(fitted.ranker, table)["click"].numpy()
    gain = gathered.first.gains["click @ all"]
    assert gain.metric == "auc"
    for found, score in ((gain.alone, margin), (gain.together, fitted.logits(table)["click"])):
        expected = roc_auc_score(log["click"], score, sample_weight=log["w"])
        assert found == pytest.approx(expected, abs=1e-6)
    assert gathered.first.gains["stars|click @ click"].metric == "rmse"


def test_the_margins_are_all_that_a_fresh_network_gives(fitted, log):
    table = fitted.encode(log, split="rows")
    fresh = fitted.model.build(fitted.ranker.layout)
    fresh.start_at({})
    fresh.first.load_state_dict(fitted.ranker.first.state_dict())
    logits, margins = logits_of(fresh, table), margins_of(fitted.ranker, table)
    assert margins.keys() == {"click", "stars"}
    for head, each in margins.items():
        np.testing.assert_array_equal(logits[head], each)


def test_without_rows_it_still_says_what_it_knows(fitted):
    gathered = gather(fitted)
    assert (gathered.first.changes, gathered.first.gains) == ({}, {})
    text = section(gathered).html()
    assert "click: the largest effects" in text
    assert "What the network adds" not in text
    assert "what the network adds to its first stages, and" in missing(gathered).html()


def test_rows_of_no_weight_are_no_rows(fitted, log):
    found = gather(fitted, log | {"w": np.zeros(ROWS)}, split="given")
    assert found.first.changes == {}


def test_a_model_without_first_stages_has_no_section(told, fitted):
    assert section(replace(told, first=None)) is None
    assert first_stages(fitted).stages == {"click": ("wide",), "stars": ("wide",)}


def test_an_effect_is_an_odds_ratio_with_its_interval(told):
    text = section(told).html()
    # e and e^(1 ± 1.96 ÷ 4)
    assert '2.72 <span class="detail">[1.67, 4.44]</span>' in text
    assert "<span>75 %</span>" in text  # 12 ÷ (4 + 12)


def test_an_effect_on_a_number_is_in_its_unit(told, fitted, log):
    text = section(told).html()
    assert "effect, units of spend" in text
    assert "1.5000" in text  # half a deviation of 3
    known, w = ~np.isnan(log["stars"]), log["w"]
    deviation = np.sqrt(np.cov(log["stars"][known], aweights=w[known], ddof=0))
    assert first_stages(fitted).units == {"stars": pytest.approx(deviation, rel=1e-4)}


def test_what_is_added_and_what_is_read_is_told_by_head(told):
    table = section(told).blocks[1]
    assert [[cell.text for cell in row[:4]] for row in table.rows] == [
        ["click", "wide", "trees", "−.2000"], ["spend|buy", "trees", "–", "0"]
    ]  # fmt: skip


def test_names_are_text_and_long_ids_are_cut(told):
    text = section(told).html()
    assert "<script>7" not in text
    assert "&lt;script&gt;7" in text
    assert "x" * 59 + "…" in text
    assert "x" * 60 not in text


def test_fields_take_turns_among_the_largest():
    def field(name, *effects):
        largest = tuple(
            IdEffect(id=str(each), effect=each, precision=1.0, information=1.0) for each in effects
        )
        return FieldEffects(
            field=name, head="click", prior=1.0, ids=9, deciles=(1.0,) * 9, largest=largest
        )

    many = field("many", *[9.0 - each / 10 for each in range(10)])
    found = _in_turn([field("few", -0.5), many, field("one", 12.0, 0.1)])
    assert len(found) == MOST_EFFECTS
    assert [(each.field, one.effect) for each, one in found] == [
        ("one", 12.0), ("one", 0.1),
        *(("many", 9.0 - each / 10) for each in range(7)),
        ("few", -0.5),
    ]  # fmt: skip


def test_a_page_of_many_fields_stays_small(told):
    first = told.first
    each = first.effects[0]
    many = tuple(replace(each, field=f"f{number}") for number in range(200))
    small = len(section(told).html())
    large = section(replace(told, first=replace(first, effects=many))).html()
    assert len(large) < small + 40_000
    assert "The 15 largest; 185 more are left out." in large


def test_outputs_of_a_head_are_told_one_by_one_up_to_a_few(log):
    rng = np.random.default_rng(4)
    rows = log | {
        "level": np.digitize(log["item"] + rng.normal(size=ROWS), [3, 6]),
        "button": (log["item"] + rng.integers(0, 2, ROWS)) % 6,
        "money": np.exp(log["item"] / 9 + rng.normal(size=ROWS)),
    }
    schema = pr.Schema(
        [pr.SparseFeature("item")],
        [
            pr.Task("level", kind="ordinal"), pr.Task("button", kind="categorical"),
            pr.Task("money", kind="lognormal"),
        ],
    )  # fmt: skip
    model = pr.Model(trunk=pr.SharedBottom(hidden=[4]), tower=[4], embed_dim=4, wide=Wide())
    fitted = pr.fit(schema, model, train=rows, valid=rows, epochs=1, batch_size=100, lr=0.05)
    gathered = gather(fitted, rows)
    use = gathered.first
    levels = ("level ≥ 1", "level ≥ 2 if ≥ 1")
    assert use.heads == (*levels, *(f"button = {each}" for each in range(6)), "money")
    assert use.margins.keys() == use.changes.keys() == set(use.heads)
    assert {each.head for each in use.effects} == set(use.heads)
    assert use.units == {}
    deviation = np.log(rows["money"]).std()
    assert use.ratios == {"money": pytest.approx(deviation, rel=1e-4)}
    margins = margins_of(fitted.ranker, fitted.encode(rows, split="rows"))
    own = margins["level"][:, 1].numpy().astype(np.float64)
    np.testing.assert_allclose(
        use.margins["level ≥ 2 if ≥ 1"], np.quantile(own - own.mean(), QUANTILES), atol=1e-6
    )
    assert use.gains["money @ all"].metric == "rmse"
    text = section(gathered).html()
    for name in (*levels, "button = 3", "money"):
        assert f"{name}: the largest effects" in text
    assert "button = 4: the largest effects" not in text
    assert "those after the first 4 have no charts: 2 here." in text
    assert "ratio of means" in text
