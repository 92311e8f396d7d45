"""A first stage from outside goes the whole way of a bundle, alone and beside polyrank's own."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.data.folds import folds
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError
from polyrank.registry import load_plugins, register, unregister
from polyrank.serve.export.write import export
from polyrank.stages.stage import StageRun
from polyrank.train.explain import explain
from polyrank.train.sources import Sources

FEATURES = [
    pr.SparseFeature("user"), pr.SparseFeature("item"),
    pr.SequenceFeature("history", shared_with="item"), pr.DenseFeature("price"),
]  # fmt: skip
TASKS = [
    pr.Task("click"), pr.Task("buy", given="click"),
    pr.Task("spend", kind="regression", given="buy"),
]  # fmt: skip


class Interrupt(Exception):
    pass


@pytest.fixture(autouse=True)
def acme(monkeypatch):
    """The stage of the plugin, as a notebook has it: imported and registered."""
    load_plugins()  # before its entry point is on the path, which would register all of it
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugin"))
    import acme_torch

    register("first_stage", "popularity", acme_torch.Popularity)
    yield acme_torch
    unregister("first_stage", "popularity")
    sys.modules.pop("acme_torch")


def fitted(rows, model, **options):
    schema = pr.Schema(FEATURES, TASKS)
    known = {"train": rows, "valid": rows, "epochs": 2, "batch_size": 64, "seed": 5}
    return pr.fit(schema, model, **known, **options)


def interrupt(progress):
    if progress.event == "epoch":
        raise Interrupt


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, pr.Wide(folds=3)], ids=["alone", "beside wide rows"])
def test_it_trains_resumes_saves_loads_and_exports(wide, acme, rows, tmp_path):
    popularity = acme.Popularity(column="item", folds=3)
    model = pr.Model(trunk=pr.SharedBottom(), embed_dim=4, wide=wide, stages=[popularity])
    assert pr.Model.from_table(model.to_table()) == model
    bundle = fitted(rows, model, out=tmp_path / "whole")
    weights = bundle.ranker.named_weights()
    assert weights["popularity.odds"].abs().sum() > 0
    with pytest.raises(Interrupt):
        fitted(rows, model, out=tmp_path / "cut", progress=interrupt)
    resumed = fitted(rows, model, out=tmp_path / "cut", resume=True).ranker.named_weights()
    assert all(torch.equal(each, resumed[name]) for name, each in weights.items())
    folder = tmp_path / "whole" / "bundle"
    again = pr.load(folder)
    assert again.model == model
    assert again.predict(rows).equals(bundle.predict(rows))
    found = export(bundle, folder, [read(rows).collect()])
    assert [each.rows for each in found.values()] == [len(rows["click"])]
    ours, theirs = bundle.predict(rows), pr.Engine(folder).predict(pl.DataFrame(rows))
    for name in ours.columns:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=2e-5, atol=1e-6)


def test_training_rows_get_what_never_saw_them_and_others_what_saw_all(acme, rows):
    """Against a plain count of the other folds' rows of the same item."""
    schema = pr.Schema(FEATURES, TASKS)
    model = pr.Model(wide=False, stages=[acme.Popularity(column="item", prior=2.0, folds=3)])
    vocab = Vocab.fit(read(rows), schema)
    table = encode(read(rows), schema, vocab)
    layout = model.layout(schema, vocab)
    ranker = model.build(layout)
    assert ranker.first.heads == ("click", "buy")  # and spend has no margin
    run = StageRun(
        train=table, valid=None, likelihoods={}, rates={"click": 0.5, "buy": 0.25}, sampling=None,
        seed=3, steps=1, unseen_rate=0.0, batch_size=500, threads=1,
    )  # fmt: skip
    learner = ranker.first.stage["popularity"].learner(run)
    learner.start()
    x = torch.zeros(len(table), layout.width)
    column = layout.slices["#popularity"].start
    (batch,) = table.batches(layout, 500)
    margin = learner.step(batch, x, column)
    assert torch.equal(x[:, column : column + 2], margin)
    assert not x[:, :column].any()
    item, fold = rows["item"], folds(np.arange(len(table)), 3, 3)
    served = ranker.inputs(*_tensors(batch)).margin
    for at, (label, usable, rate) in enumerate(
        [(rows["click"], np.full(len(table), True), 0.5), (rows["buy"], rows["click"] == 1, 0.25)]
    ):
        for row in range(20):
            same = usable & (item == item[row])
            for found, known in ((margin, same & (fold != fold[row])), (served, same)):
                yes, no = (label[known] == 1).sum(), (label[known] == 0).sum()
                wanted = np.log((yes + 2 * rate) / (no + 2 * (1 - rate)))
                assert found[row, at] == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_the_stage_that_validation_prefers_is_added(acme):
    """Users tell everything here and items nothing, so wide rows win over the item's rate."""
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, 30, 3000), rng.integers(0, 30, 3000)
    z = rng.normal(0, 1.5, 30)[user]
    log = {"user": user, "item": item, "click": (rng.random(3000) < 1 / (1 + np.exp(-z))) * 1}
    schema = pr.Schema([pr.SparseFeature("user"), pr.SparseFeature("item")], [pr.Task("click")])
    for column, added in (("item", [[1], [0]]), ("user", None)):
        model = pr.Model(wide=pr.Wide(), stages=[acme.Popularity(column=column)])
        bundle = pr.fit(schema, model, train=log, valid=log, epochs=1, batch_size=256)
        weights = bundle.ranker.named_weights()
        assert weights["first.added"].sum() == 1
        if added is not None:
            assert weights["first.added"].tolist() == added


def test_explain_and_a_stage_that_refuses_the_schema(acme, rows):
    schema, sources = pr.Schema(FEATURES, TASKS), Sources(read(rows))
    model = pr.Model(stages=[acme.Popularity(column="user")])
    plan = explain(schema, model, pr.Training(), sources)
    assert plan.memory_bytes["first stage: popularity"] == 0
    with pytest.raises(ConfigError, match="'prise' is no feature of ids"):
        fitted(rows, pr.Model(stages=[acme.Popularity(column="prise")]))


@pytest.mark.slow
def test_a_stage_may_be_only_read(acme, rows, tmp_path):
    """It has no margin, so heads start at their base rate as without it."""

    @dataclass(frozen=True, kw_only=True)
    class Hint(acme.Popularity):
        name: ClassVar[str] = "hint"

        def build(self, layout):
            return HintModule(self, layout)

    class HintModule(acme.PopularityModule):
        def __init__(self, spec, layout):
            super().__init__(spec, layout)
            self.given_heads, self.heads = self.heads, ()

        def forward(self, ids, bags, given):
            read = super().forward(ids, bags, given)[0]
            return read[:, :0], read

        def in_graph(self, ids, sequences, given):
            read = super().in_graph(ids, sequences, given)[0]
            return read[:, :0], read

        def learner(self, run):
            return HintLearner(self, run)

    class HintLearner(acme.PopularityLearner):
        def start(self):
            self.module.heads = self.module.given_heads
            super().start()
            self.module.heads = ()

        def alone(self, valid):
            return super().alone(valid)[:, :0]

        def step(self, batch, x, column):
            return super().step(batch, x, column)[:, :0]

    register("first_stage", "hint", Hint)
    try:
        for wide in (False, pr.Wide()):
            model = pr.Model(stages=[Hint(column="item")], wide=wide)
            bundle = fitted(rows, model, out=tmp_path / f"hint {bool(wide)}")
            assert bundle.ranker.first.heads == (("click", "buy", "spend") if wide else ())
            folder = tmp_path / f"hint {bool(wide)}" / "bundle"
            assert pr.load(folder).predict(rows).equals(bundle.predict(rows))
            assert export(bundle, folder, [read(rows).collect()])
    finally:
        unregister("first_stage", "hint")


def test_what_is_no_stage_of_a_plugin_is_refused(acme):
    @dataclass(frozen=True, kw_only=True)
    class Mine(acme.Popularity):
        pass

    one = acme.Popularity(column="item")
    for found, message in (
        (one, "stages must be a list of first stages, got Popularity"),
        ([3], "stages must be a list of first stages, got 3 in it"),
        ([pr.Wide()], r"Wide is no part of stages: write Model\(wide=Wide\(…\)\)"),
        ([Mine(column="a")], r'Mine is not registered.*register\("first_stage", "mine", Mine\)'),
        ([one, replace(one, column="user")], "name 'popularity' of first stage .* is taken"),
    ):
        with pytest.raises(ConfigError, match=message):
            pr.Model(stages=found)
    register("first_stage", "mine", Mine)
    try:
        for name, message in (("trunk", "is taken"), ("a.b", "must be an identifier")):
            Mine.name = name
            with pytest.raises(ConfigError, match=message):
                pr.Model(stages=[Mine(column="item")])
    finally:
        unregister("first_stage", "mine")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "popularity"}, "model.stages: expected a list of tables with a kind each"),
        ([{"kind": "popularty"}], r"model.stages\[0\]: unknown kind 'popularty'; did you"),
        ([{"kind": "wide"}], r"model.stages\[0\]: 'wide' has a key of its own in \[model\]"),
        ([{"kind": "popularity", "colum": "item"}], r"stages\[0\]: unknown key 'colum'; did you"),
        ([{"kind": "popularity"}], r"model.stages\[0\]: the key 'column' is missing"),
    ],
)
def test_tables_are_checked(table, message):
    with pytest.raises(ConfigError, match=message):
        pr.Model.from_table({"stages": table})


def test_config_shows_none_by_default():
    assert pr.Model().to_table()["stages"] == []


def _tensors(batch):
    bags = tuple((torch.from_numpy(bag.ids), torch.from_numpy(bag.offsets)) for bag in batch.bags)
    return torch.from_numpy(batch.ids), torch.from_numpy(batch.dense), bags
