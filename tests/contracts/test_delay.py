"""What every correction of late conversions keeps, through each way in."""

import json
from dataclasses import dataclass, fields
from html import unescape
from pathlib import Path

import polars as pl
import pytest
from tests.contracts.of_funnel import COLUMNS, DAY, log, model

import polyrank as pr
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.delay import DELAY, EarlyDelay
from polyrank.delay.stream import StreamDelay
from polyrank.errors import DataError
from polyrank.registry import unregister
from polyrank.terms import Summand

methods = pytest.mark.parametrize("kind", DELAY)
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


@pytest.mark.slow
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
    (page,) = Path("runs/late").glob("*.html")
    text = unescape(page.read_text(encoding="utf-8"))
    assert f"{young.height:,} of {rows.height:,} rows are younger than the window of 7d" in text
    assert counted["early_events"] == int(young["buy_time"].is_not_nan().sum())
    delay = Experiment.load("runs/late/config.toml").schema.by_name["buy"].delay
    assert type(delay) is DELAY[kind]
    assert delay.now == rows["time"].max()


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
