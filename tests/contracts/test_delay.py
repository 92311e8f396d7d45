"""What every correction of late conversions keeps, through each way in."""

import json
from dataclasses import dataclass, fields

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.delay import DELAY, EarlyDelay
from polyrank.delay.stream import StreamDelay
from polyrank.errors import DataError
from polyrank.objective.losses import Supervision
from polyrank.registry import unregister
from polyrank.serve.export.write import export
from polyrank.terms import Summand
from polyrank.train import step
from polyrank.train.loop import Trainer

methods = pytest.mark.parametrize("kind", DELAY)
PLAIN = {"wide": False, "trees": False, "interaction": False, "field_dropout": 0.0}
COLUMNS = [
    "p_click", "p_cart_given_click", "p_cart", "p_buy_given_cart", "p_buy",
]  # fmt: skip
DAY = 86_400
TOML = """
name = "late"
seed = 3
[data]
train = "train.parquet"
valid = "train.parquet"
[features]
sparse = ["item"]
[keys]
time = "time"
[[task]]
name = "click"
[[task]]
name = "cart"
given = "click"
[[task]]
name = "buy"
given = "cart"
delay = {{ {kind}time = "buy_time", window = "7d" }}
[model]
trunk = {{ kind = "mmoe", experts = 2, hidden = [4] }}
tower = [4]
embed_dim = 4
wide = false
trees = false
[train]
epochs = 2
batch_size = 64
"""


class Interrupt(Exception):
    pass


def log(size=500, seed=1):
    """Thirty days of a funnel whose purchases come 3 days late on average."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 12, size)
    time = np.sort(rng.integers(0, 30 * DAY, size))
    click = rng.random(size) < 0.3 + 0.05 * item
    cart = click & (rng.random(size) < 0.7)
    bought = time + rng.exponential(3 * DAY, size)
    buy = cart & (rng.random(size) < 0.5) & (bought <= time[-1])
    return pl.DataFrame(
        {
            "item": item,
            "time": time,
            "click": click.astype(int),
            "cart": np.where(click, cart, np.nan),
            "buy": np.where(cart, buy, np.nan),
            "buy_time": np.where(buy, bought, np.nan),
        }
    )


def delayed(kind, **options):
    return DELAY[kind](time="buy_time", window="7d", **options)


def schema(kind, **options):
    tasks = [
        pr.Task("click"), pr.Task("cart", given="click"),
        pr.Task("buy", given="cart", delay=delayed(kind, **options)),
    ]  # fmt: skip
    return pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(time="time"))


def own_term(kind):
    return "buy|cart @ cart" + f" [{kind}]" * issubclass(DELAY[kind], EarlyDelay)


def model(**more):
    return pr.Model(trunk=pr.MMoE(experts=2, hidden=[4]), tower=[4], embed_dim=4, **PLAIN | more)


@methods
def test_options_read_back_from_json_and_files(kind):
    found = schema(kind, now=30.0 * DAY)
    assert pr.Schema.from_json(found.to_json()) == found
    table = found.to_table()["tasks"][2]["delay"]
    assert table["kind"] == kind
    assert {*table} <= {"kind", *(each.name for each in fields(DELAY[kind]))}


@methods
def test_terms_name_the_method_and_heads_are_no_tasks(kind):
    found = schema(kind)
    own = [term.name for term in found.objective if term.population.task == "buy"]
    assert own[0] == own_term(kind)
    assert all(name.startswith(own_term(kind).removesuffix("]")) for name in own)
    for head in found.heads[3:]:
        assert head.auxiliary
        assert head.name.startswith("buy#")
    assert list(found.outputs) == COLUMNS


@methods
def test_the_file_and_every_verb_know_it(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log().write_parquet("train.parquet")
    named = "" if kind == "mask" else f'kind = "{kind}", '
    (tmp_path / "late.toml").write_text(TOML.format(kind=named))
    for line in (
        "explain late.toml",
        "check late.toml",
        "train late.toml",
        "evaluate runs/late train.parquet",
        "report runs/late",
        "export runs/late",
        "predict runs/late train.parquet -o scored.parquet",
    ):
        assert run(line.split()) == 0, line
    shown = capsys.readouterr().out
    assert own_term(kind) in shown
    assert "younger than the window" in shown
    rows = log()
    learned = "every row" if issubclass(DELAY[kind], EarlyDelay) else "mature rows"
    if issubclass(DELAY[kind], StreamDelay):
        days = (rows["time"].max() - rows["time"].min()) / DAY - 7
        learned = f"what came in the last {days:.4g} days"
    assert learned in shown
    assert pl.read_parquet("scored.parquet").columns[-len(COLUMNS) :] == COLUMNS
    assert run(["explain", "late.toml", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["delays"]["buy"]
    young = rows.filter(rows["time"].max() - pl.col("time") < 7 * DAY)
    assert counted["immature"] == young.height
    assert counted["early_events"] == int(young["buy_time"].is_not_nan().sum())
    delay = Experiment.load("runs/late/config.toml").schema.by_name["buy"].delay
    assert type(delay) is DELAY[kind]
    assert delay.now == rows["time"].max()


@methods
def test_it_trains_resumes_saves_loads_and_exports(kind, tmp_path):
    rows = log()

    def fit(folder, **options):
        return pr.fit(
            schema(kind), model(dropout=0.2), train=rows, valid=rows, epochs=2, batch_size=64,
            seed=5, out=tmp_path / folder, **options,
        )  # fmt: skip

    def interrupt(progress):
        if progress.event == "epoch":
            raise Interrupt

    bundle = fit("whole")
    for term in bundle.schema.objective:
        assert bundle.history[f"train {term.name} loss"].is_finite().all()
    weights = bundle.ranker.named_weights()
    for head in bundle.schema.heads:
        assert f"head.{head.name}.output.weight" in weights
    with pytest.raises(Interrupt):
        fit("broken", progress=interrupt)
    resumed = fit("broken", resume=True).ranker.named_weights()
    assert all(torch.equal(each, resumed[name]) for name, each in weights.items())
    folder = tmp_path / "whole" / "bundle"
    unlabelled = rows.select("item")
    assert pr.load(folder).predict(unlabelled).equals(bundle.predict(unlabelled))
    export(bundle, folder, [rows])
    assert list(pr.Engine(folder).outputs) == COLUMNS
    assert {each.task for each in bundle.scorecard} == {"click", "cart", "buy"}
    by_file = tmp_path / "rows.parquet"
    rows.write_parquet(by_file)
    assert bundle.evaluate(by_file).to_json() == bundle.evaluate(rows).to_json()


@methods
def test_young_rows_are_scored_by_nobody(kind):
    """A score of validation rows is of those that are mature, whatever the method learns from."""
    rows = log()
    bundle = pr.fit(schema(kind), model(), train=rows, valid=rows, epochs=1, batch_size=64)
    mature = rows.filter(rows["time"].max() - pl.col("time") >= 7 * DAY)
    scores = {score.name: score for score in bundle.scorecard}
    assert scores["click @ all"].rows == rows.height
    assert scores["buy @ all"].rows == mature.height
    assert scores["buy|cart @ cart"].rows == int((mature["cart"] == 1).sum())


@methods
def test_every_head_that_it_declares_learns(kind):
    rows = log()
    still, moved = (
        pr.fit(schema(kind), model(), train=rows, epochs=1, batch_size=64, lr=lr).ranker
        for lr in (1e-12, 0.01)
    )
    for head in schema(kind).heads:
        name = f"head.{head.name}.output.weight"
        assert not torch.allclose(still.named_weights()[name], moved.named_weights()[name])


@methods
def test_compiled_steps_equal_the_eager_ones(kind, monkeypatch):
    monkeypatch.setattr(step, "compiled", lambda graph: graph)
    frame, found = log(), []
    own = schema(kind)
    own = pr.fit(own, model(), train=frame, epochs=1).schema  # with what it takes from the rows
    vocab = Vocab.fit(frame, own)
    table = encode(frame, own, vocab)
    for compile in (False, True):
        torch.manual_seed(0)
        ranker = model().build(model().layout(own, vocab))
        training = pr.Training(epochs=2, batch_size=64, compile=compile)
        each = Trainer(
            ranker, training, Supervision.of(table), train=table, valid=None, seed=0
        )  # fmt: skip
        assert list(each.run())
        found.append(each.state())
    eager, graph = found
    assert eager.keys() == graph.keys()
    for name, tensor in eager.items():
        torch.testing.assert_close(graph[name], tensor, rtol=1e-4, atol=1e-5)


@methods
def test_balances_and_first_stages_take_its_rows(kind):
    bundle = pr.fit(
        schema(kind), model(wide=pr.Wide(folds=2), trees=pr.Trees(folds=2, rounds=3)),
        train=log(), epochs=1, batch_size=64, balance=pr.GradNorm(),
    )  # fmt: skip
    assert all(each.isfinite().all() for each in bundle.ranker.named_weights().values())
    assert bundle.predict(log())["p_buy"].is_finite().all()


@methods
def test_sampled_negatives_teach_it(kind):
    sampling = pr.Sampling("click", keep=0.5)
    bundle = pr.fit(schema(kind), model(), train=log(), epochs=1, batch_size=64, sampling=sampling)
    assert bundle.predict(log())["p_buy"].is_finite().all()


@dataclass(frozen=True, kw_only=True)
class Naive(EarlyDelay):
    """What is known at the cut, as another package might have it."""

    name = "naive"

    def summands(self, term, scores, labels):
        yes, no, open_ = labels.at_the_cut(term.population)
        return (
            Summand(yes, 1.0, -scores.log_probability(term.yes), positive=True),
            Summand(no | open_, 1.0, -scores.log_probability(term.no)),
        )


def test_a_plugin_adds_a_method():
    pr.register("delay", "naive", Naive)
    try:
        table = {"kind": "naive", "time": "buy_time", "window": "7d"}
        task = pr.Task.from_table({"name": "buy", "given": "cart", "delay": table})
        assert task.to_table()["delay"] == table
        own = pr.Schema(
            [pr.SparseFeature("item")],
            [pr.Task("click"), pr.Task("cart", given="click"), task], pr.Keys(time="time"),
        )  # fmt: skip
        bundle = pr.fit(own, model(), train=log(), epochs=1, batch_size=64)
        assert [term.name for term in own.objective][2] == "buy|cart @ cart [naive]"
        assert bundle.predict(log())["p_buy"].is_finite().all()
    finally:
        unregister("delay", "naive")


def test_a_schema_of_a_bundle_is_of_its_log():
    """Its cut and its stream are those of the training rows: a later log needs its own."""
    own = pr.fit(schema("fnw"), model(), train=log(), epochs=1).schema
    delay = own.by_name["buy"].delay
    assert delay.now == log()["time"].max()
    assert delay.stream == pytest.approx(log()["time"].max() - log()["time"].min() - 7 * DAY)
    later = log().with_columns(pl.col("time", "buy_time") + 30 * DAY)
    with pytest.raises(DataError, match=r"now = .* lies before the latest impression"):
        pr.fit(own, model(), train=later, epochs=1)
