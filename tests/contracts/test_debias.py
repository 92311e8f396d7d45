"""What every debiased loss keeps, through each way in: a new one is tested by existing."""

import json
import logging
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
from tests.contracts.of_funnel import COLUMNS, model

import polyrank as pr
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.debias import DEBIAS
from polyrank.errors import ConfigError, SchemaError
from polyrank.objective.losses import Supervision

methods = pytest.mark.parametrize("kind", DEBIAS)
TOML = """
name = "debiased"
seed = 3
[data]
train = "train.parquet"
valid = "train.parquet"
[features]
sparse = ["item"]
[[task]]
name = "click"
[[task]]
name = "cart"
given = "click"
[[task]]
name = "buy"
given = "cart"
debias = {{ kind = "{kind}" }}
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


def log(size=500, seed=1):
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 12, size)
    click = rng.random(size) < 0.2 + 0.05 * item
    cart = click & (rng.random(size) < 0.6)
    buy = cart & (rng.random(size) < 0.4)
    return pl.DataFrame(
        {
            "item": item,
            "click": click.astype(int),
            "cart": np.where(click, cart, np.nan),
            "buy": np.where(cart, buy, np.nan),
        }
    )


def schema(kind, **options):
    tasks = [
        pr.Task("click"), pr.Task("cart", given="click"),
        pr.Task("buy", given="cart", debias=DEBIAS[kind](**options)),
    ]  # fmt: skip
    return pr.Schema([pr.SparseFeature("item")], tasks)


@methods
def test_options_read_back_from_json_and_files(kind):
    found = schema(kind)
    assert pr.Schema.from_json(found.to_json()) == found
    names = [each.name for each in fields(DEBIAS[kind])]
    assert list(found.to_table()["tasks"][2]["debias"]) == ["kind", *names]


@methods
def test_terms_name_the_method_and_heads_are_no_tasks(kind):
    found = schema(kind)
    own = [term.name for term in found.objective if term.population.task == "buy"]
    assert own[0] == f"buy|cart @ cart [{kind}]"
    assert all(name == "buy @ all" or f"[{kind}" in name for name in own)
    joint = kind.startswith("escm2") or kind in ("dcmt", "ddpo")
    assert ("buy @ all" in own) == joint
    for head in found.heads[3:]:
        assert head.auxiliary
        assert head.name.startswith("buy#")
    assert list(found.outputs) == COLUMNS


@pytest.mark.slow
@methods
def test_the_file_and_every_verb_know_it(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log().write_parquet("train.parquet")
    (tmp_path / "debiased.toml").write_text(TOML.format(kind=kind))
    for line in (
        "explain debiased.toml",
        "check debiased.toml",
        "train debiased.toml",
        "report runs/debiased",
        "export runs/debiased",
        "predict runs/debiased train.parquet -o scored.parquet",
    ):
        assert run(line.split()) == 0, line
    assert f"buy|cart @ cart [{kind}]" in capsys.readouterr().out
    assert pl.read_parquet("scored.parquet").columns == COLUMNS
    page = (tmp_path / "runs/debiased/report.html").read_text()
    assert f"buy|cart @ cart [{kind}]" in page
    weighs = "floor" in DEBIAS[kind].__dataclass_fields__
    assert ("Propensities of buy|cart @ cart" in page) == weighs
    lines = (tmp_path / "runs/debiased/log.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in lines][-1]
    assert ("buy|cart @ cart effective rows" in last) == weighs
    assert ("buy|cart @ cart propensity 0.1-1 share" in last) == weighs
    debias = Experiment.load("runs/debiased/config.toml").schema.by_name["buy"].debias
    assert debias == DEBIAS[kind]()


@methods
def test_heads_start_at_the_rate_of_what_they_predict(kind):
    bundle = pr.fit(schema(kind), model(), train=log(), epochs=1, lr=1e-12)
    bought = log().filter(pl.col("cart") == 1)["buy"].to_numpy()
    rate = (bought.sum() + 1) / (len(bought) + 2)
    for head in bundle.schema.heads[2:]:
        bias = bundle.ranker.named_weights()[f"head.{head.name}.output.bias"]
        expected = 1 - rate if head.name == "buy#twin" else rate
        assert float(bias.sigmoid()) == pytest.approx(expected, rel=1e-4)


@methods
def test_balances_take_its_terms(kind):
    bundle = pr.fit(
        schema(kind), model(), train=log(), epochs=1, batch_size=64, balance=pr.GradNorm()
    )  # fmt: skip
    assert all(each.isfinite().all() for each in bundle.ranker.named_weights().values())


@methods
def test_sampled_negatives_teach_it(kind):
    """Propensities are those of the sample, in which the rows were drawn."""
    sampling = pr.Sampling("click", keep=0.5)
    bundle = pr.fit(schema(kind), model(), train=log(), epochs=1, batch_size=64, sampling=sampling)
    assert bundle.predict(log())["p_buy"].is_finite().all()
    for each in bundle.propensities(log(), split="train"):
        assert 0 < each.effective_share <= 1


def test_normalize_divides_by_the_unweighted_conditional_entropy():
    frame = log()
    vocab = Vocab.fit(frame, schema("ips"))
    supervision = Supervision.of(encode(frame, schema("ips"), vocab))
    name = "buy|cart @ cart [ips]"
    bought = frame.filter(pl.col("cart") == 1)["buy"].mean()
    entropy = -(bought * np.log(bought) + (1 - bought) * np.log(1 - bought))
    term = next(each for each in schema("ips").objective if each.name == name)
    found = supervision.likelihoods["buy"].constant_loss(term, supervision.statistics[name])
    assert found == pytest.approx(entropy)
    assert supervision.statistics[name].weight_share == pytest.approx(1.0)


def few_heavy_rows():
    """Clicks of which a handful stand for half of the log."""
    item = np.repeat([0, 1], [3_000, 3_000])
    click = np.zeros(6_000)
    click[:2_000], click[3_000:3_003] = 1, 1
    return pl.DataFrame({"item": item, "click": click, "buy": click * (np.arange(6_000) % 3 == 0)})


@pytest.mark.slow
def test_a_small_effective_sample_is_warned_about(caplog):
    rows = few_heavy_rows()
    tasks = [pr.Task("click"), pr.Task("buy", given="click", debias=pr.IPS(floor=1e-4))]
    found = pr.Schema([pr.SparseFeature("item")], tasks)
    fit = {"train": rows, "valid": rows, "epochs": 20, "batch_size": 256, "lr": 0.05}
    with caplog.at_level(logging.INFO, "polyrank"):
        bundle = pr.fit(found, model(), **fit)
    use = bundle.propensities(rows, split="valid")[0]
    assert use.effective_share < 0.1
    kept = bundle.history.filter(pl.col("best")).tail(1).to_dicts()[0]
    assert {name: kept[name] for name in use.figures()} == pytest.approx(use.figures(), rel=1e-4)
    assert use.rows == 2_003
    assert "leave an effective sample of" in caplog.text
    assert "a few rows decide what is learned. Raise floor (now 0.0001)" in caplog.text
    assert "buy|click @ click: effective sample" in caplog.text
    caplog.clear()
    raised = replace(
        found, tasks=[tasks[0], pr.Task("buy", given="click", debias=pr.IPS(floor=0.5))]
    )
    with caplog.at_level(logging.INFO, "polyrank"):
        bundle = pr.fit(raised, model(), **fit)
    assert "leave an effective sample of" not in caplog.text
    assert bundle.propensities(rows, split="valid")[0].clipped_share == pytest.approx(3 / 2_003)


def test_esmm_supervises_all_rows_and_refuses_a_debiased_loss():
    with pytest.raises(ConfigError, match="task 'buy' has a debiased loss of its own, 'ips'"):
        pr.fit(schema("ips"), pr.ESMM(), train=log(), epochs=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.Task("buy", debias="ips"), "'buy': debias needs an event that is given"),
        (
            lambda: pr.Task("spend", kind="regression", given="buy", debias="ips"),
            "'spend': debias needs an event that is given another one",
        ),
        (
            lambda: pr.Task("buy", given="click", space="all", debias="ips"),
            "'buy': debias takes the place of space: leave space out",
        ),
        (
            lambda: pr.Task("buy", given="click", debias="snip"),
            "unknown kind 'snip'.*'snips'",
        ),
        (lambda: pr.IPS(floor=0), "debias 'ips': floor must be a number above 0 and at most 1"),
        (lambda: pr.SNIPS(floor=1.5), "debias 'snips': floor .* at most 1, got 1.5"),
        (lambda: pr.DR(floor="low"), "debias 'dr': floor .*, got 'low'"),
        (lambda: pr.DR(mrdr="yes"), "debias 'dr': mrdr must be true or false, got 'yes'"),
        (lambda: pr.ESCM2IPS(counterfactual=0), "'escm2_ips': counterfactual .* above 0, got 0"),
        (lambda: pr.ESCM2DR(joint=-1), "debias 'escm2_dr': joint must be a number above 0, got -1"),
        (lambda: pr.DCMT(constraint=-1), "debias 'dcmt': constraint .* at least 0, got -1"),
        (lambda: pr.DCMT(joint=float("nan")), "debias 'dcmt': joint .*, got nan"),
        (lambda: pr.NISE(largest=0), "debias 'nise': largest must be a number above 0, got 0"),
        (lambda: pr.DDPO(conversion=0), "debias 'ddpo': conversion .* above 0, got 0"),
        (lambda: pr.DDPO(debiased=None), "debias 'ddpo': debiased .*, got None"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


def test_an_unknown_option_of_a_file_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key 'flor'.*'floor'"):
        pr.Task.from_table({"name": "buy", "given": "click",
                            "debias": {"kind": "ips", "flor": 0.1}})  # fmt: skip
