"""What first stages say of ids: the largest effects against a whole sort, and what they are named.

The effects are made up: how they are estimated is in test_wide.py.
"""

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.data.vocab import Vocab
from polyrank.stages.effects import FieldEffects
from polyrank.stages.ensemble import Ensemble
from polyrank.stages.trees import Boosters, Column, Trees, TreesModule
from polyrank.stages.wide import Wide

LOG = pl.DataFrame(
    {
        "user": ["a", "b", "b", None] * 5, "item": [70, 71, 72, 70] * 5,
        "seen": [[70], [71, 72], [], [73]] * 5, "shop": [1, 2, 3, 4] * 5,
        "price": [0.5, 1.0, 2.0, None] * 5, "click": [0, 1, 0, 1] * 5,
        "stars": [1.0, 2.0, 3.0, 4.0] * 5,
    }
)  # fmt: skip
SCHEMA = pr.Schema(
    [
        pr.SparseFeature("user"), pr.SparseFeature("item"), pr.SparseFeature("shop", hash=4),
        pr.SequenceFeature("seen", shared_with="item"),
        pr.DenseFeature("price", encoding=["bins", "values"], min_count=1),
    ],
    [pr.Task("click"), pr.Task("stars", kind="regression")],
)  # fmt: skip


@pytest.fixture(scope="module")
def vocab():
    return Vocab.fit(LOG, SCHEMA)


@pytest.fixture
def wide(vocab):
    """Wide rows whose ids have the effect and the information of their row's number."""
    layout = pr.Model(wide=Wide()).layout(SCHEMA, vocab)
    rows = Wide().build(layout)
    rows.prior.copy_(torch.arange(1, 1 + rows.prior.numel()).view_as(rows.prior))
    for k, (first, end) in enumerate(zip(rows.first_rows, rows.first_rows[1:], strict=False)):
        number = torch.arange(end - first, dtype=torch.float32)[:, None]
        rows.effect[first:end] = torch.cat([number, -2 * number], dim=1)
        rows.precision[first:end] = rows.prior[k] + number
    return rows


def test_the_largest_are_those_of_a_whole_sort():
    rng = np.random.default_rng(0)
    effect = rng.normal(size=500).astype(np.float32)
    information = np.where(rng.random(500) < 0.7, rng.exponential(size=500), 0)
    precision = (np.float32(2.5) + information).astype(np.float32)
    told = np.flatnonzero(information)
    found = FieldEffects.of(
        "item", "click", effect, precision, np.float32(2.5), most=7,
        names=lambda rows: [str(row) for row in rows],
    )  # fmt: skip
    expected = sorted(told, key=lambda row: -abs(effect[row]))[:7]
    assert [int(each.id) for each in found.largest] == expected
    assert [each.effect for each in found.largest] == [float(effect[row]) for row in expected]
    assert found.ids == len(told)
    deciles = np.quantile(information[told], np.arange(1, 10) / 10)
    np.testing.assert_allclose(found.deciles, deciles, atol=1e-6)


def test_of_a_million_ids_only_the_largest_are_named():
    named = []
    size = 1_000_000
    precision = np.full(size, 3, np.float32)
    FieldEffects.of(
        "item", "click", np.arange(size, dtype=np.float32), precision, np.float32(1), most=2,
        names=lambda rows: named.extend(rows.tolist()) or ["", ""],
    )  # fmt: skip
    assert named == [size - 1, size - 2]


def test_ids_that_no_row_tells_of_are_no_ids():
    prior = np.float32(0.3)
    none = FieldEffects.of(
        "item", "click", np.zeros(9, np.float32), np.full(9, prior), prior, most=3, names=list
    )
    assert (none.ids, none.deciles, none.largest) == (0, (), ())
    assert none.deviation == pytest.approx(0.3**-0.5)


def test_each_slot_has_the_names_of_its_own_table(wide, vocab):
    found = {(each.field, each.head): each for each in wide.effects(vocab, 9)}
    assert len(found) == 5 * 2  # exact values have no wide rows
    names = {field: [one.id for one in found[field, "click"].largest] for field, _ in found}
    # Row 0 has no information here.
    assert names == {
        "user": ["a", "null", "b"],
        "item": ["73", "72", "71", "70"],
        "shop": ["bucket 3", "bucket 2", "bucket 1", "bucket 0"],
        "price": ["(1, ∞)", "(0.5, 1]", "(−∞, 0.5]"],
        "seen": ["73", "72", "71", "70"],
    }


def test_effects_are_those_of_the_head(wide, vocab):
    click, stars = (
        next(e for e in wide.effects(vocab, 2) if (e.field, e.head) == ("item", head))
        for head in ("click", "stars")
    )
    assert [each.effect for each in click.largest] == [4, 3]
    assert [each.effect for each in stars.largest] == [-8, -6]
    at = [slot.name for slot in wide.slots].index("item")
    assert (click.prior, stars.prior) == tuple(wide.prior[at].tolist())
    assert [each.information for each in stars.largest] == [4, 3]
    assert stars.largest[0].precision == stars.prior + 4
    assert stars.kept(4) == 4 / (4 + stars.prior)


def test_trees_say_what_they_split_by_and_nothing_of_ids(vocab):
    module = TreesModule(Trees(), pr.Model(trees=Trees()).layout(SCHEMA, vocab))
    assert (module.importance(), module.effects(vocab, 3)) == ({}, ())
    leaf = Ensemble.constant(0.5, 1)
    module.boosters = Boosters((Column(feature="price"),), {"click": leaf, "stars": leaf})
    assert module.importance() == {"click": {}, "stars": {}}
