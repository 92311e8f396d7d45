"""First stages on the page: what is gathered of a bundle, and how it is told."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import polyrank as pr
from polyrank.models.outputs import margins_of
from polyrank.report import gather
from polyrank.report.first_stages import MOST_EFFECTS, QUANTILES, first_stages
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
def bundle(log):
    schema = pr.Schema(
        [pr.SparseFeature("item")],
        [pr.Task("click"), pr.Task("stars", kind="regression", given="click")],
        pr.Keys(weight="w"),
    )
    model = pr.Model(trunk=pr.SharedBottom([4]), tower=[4], embed_dim=4, wide=Wide())
    return pr.fit(schema, model, train=log, valid=log, epochs=1, batch_size=100, lr=0.05)


@pytest.fixture(scope="module")
def evidence(bundle, log):
    return gather(bundle, log)


def test_changes_are_what_the_network_adds_to_the_margin(bundle, log, evidence):
    table = bundle.encode(log, split="rows")
    first, counts = bundle.ranker.first.stage["wide"], table.weight > 0
    effect, bias = first.effect.numpy()[table.ids[0]], first.bias.numpy()
    for at, head in enumerate(("click", "stars")):
        margin = (bias[at] + effect[:, at]).astype(np.float64)
        added = (bundle.logits(table)[head] - margin)[counts]
        own = margin[counts] - margin[counts].mean()
        for found, values in ((evidence.first.changes, added), (evidence.first.margins, own)):
            np.testing.assert_allclose(found[head], np.quantile(values, QUANTILES), atol=1e-5)


def test_gains_are_of_the_margins_alone_and_of_all(bundle, log, evidence):
    table = bundle.encode(log, split="rows")
    margin = margins_of(bundle.ranker, table)["click"].numpy()
    gain = evidence.first.gains["click @ all"]
    assert gain.metric == "auc"
    for found, score in ((gain.alone, margin), (gain.together, bundle.logits(table)["click"])):
        expected = roc_auc_score(log["click"], score, sample_weight=log["w"])
        assert found == pytest.approx(expected, abs=1e-6)
    assert evidence.first.gains["stars|click @ click"].metric == "rmse"


def test_a_fresh_network_adds_nothing(bundle, log):
    table = bundle.encode(log, split="rows")
    fresh = bundle.model.build(bundle.ranker.layout)
    fresh.start_at({})
    fresh.first.load_state_dict(bundle.ranker.first.state_dict())
    logits = {
        head: bundle.logits(table)[head] * 0 + each.numpy()
        for head, each in margins_of(fresh, table).items()
    }
    margins = margins_of(bundle.ranker, table)
    for head, each in margins.items():
        np.testing.assert_array_equal(logits[head], each.numpy().astype(np.float64))


def test_without_rows_it_still_says_what_it_knows(bundle):
    evidence = gather(bundle)
    assert (evidence.first.changes, evidence.first.gains) == ({}, {})
    text = section(evidence).html()
    assert "click: the largest effects" in text
    assert "What the network adds" not in text


def test_rows_of_no_weight_are_no_rows(bundle, log):
    found = gather(bundle, log | {"w": np.zeros(ROWS)}, split="given")
    assert found.first.changes == {}


def test_a_model_without_first_stages_has_no_section(full, bundle):
    assert section(replace(full, first=None)) is None
    assert first_stages(bundle).stages == {"click": ("wide",), "stars": ("wide",)}


def test_an_effect_is_an_odds_ratio_with_its_interval(full):
    text = section(full).html()
    # e and e^(1 ± 1.96 ÷ 4)
    assert '2.72 <span class="detail">[1.67, 4.44]</span>' in text
    assert "<span>75 %</span>" in text  # 12 ÷ (4 + 12)


def test_an_effect_on_a_number_is_in_its_unit(full, bundle, log):
    text = section(full).html()
    assert "effect, units of spend" in text
    assert "1.5000" in text  # half a deviation of 3
    deviation = bundle.likelihoods["stars"].unit
    assert first_stages(bundle).units == {"stars": deviation}
    assert deviation == pytest.approx(
        np.sqrt(np.cov(log["stars"][log["click"] == 1], aweights=log["w"][log["click"] == 1], ddof=0)),
        rel=1e-4,
    )


def test_what_is_added_and_what_is_read_is_told_by_head(full):
    table = section(full).blocks[1]
    assert [[cell.text for cell in row[:4]] for row in table.rows] == [
        ["click", "wide", "trees", "−.2000"], ["spend|buy", "trees", "–", "0"]
    ]  # fmt: skip


def test_names_are_text_and_long_ids_are_cut(full):
    text = section(full).html()
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


def test_a_page_of_many_fields_stays_small(full):
    first = full.first
    each = first.effects[0]
    many = tuple(replace(each, field=f"f{number}") for number in range(200))
    small = len(section(full).html())
    large = section(replace(full, first=replace(first, effects=many))).html()
    assert len(large) < small + 40_000
    assert "The 15 largest; 185 more are left out." in large
