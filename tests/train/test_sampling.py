"""Down-sampled negatives from the log to predictions and scorecards."""

import logging

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.bundle.model import load
from polyrank.config import Experiment
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError
from polyrank.objective.losses import Supervision
from polyrank.train import step
from polyrank.train.explain import explain
from polyrank.train.heads import base_rates, start
from polyrank.train.loop import Trainer
from polyrank.train.sources import Sources, encoded
from polyrank.train.training import Training

KEEP = 0.1
SCHEMA = pr.Schema(
    [pr.SparseFeature("item")],
    [pr.Task("click"), pr.Task("buy", given="click"), pr.Task("like")],
)
SAMPLING = pr.Sampling("click", KEEP)
EXPERIMENT = """
[data]
train = "train.parquet"
valid = "valid.parquet"
[data.sampling]
task = "click"
keep = 0.1
splits = ["train", "valid"]
[features]
sparse = ["item"]
[[task]]
name = "click"
[[task]]
name = "buy"
given = "click"
"""


def whole(seed, rows=30_000):
    """A log of 10 items: clicks are rare, and make a like more likely."""
    generator = np.random.default_rng(seed)
    item = generator.integers(0, 10, rows)
    click = generator.random(rows) < 0.02 + 0.01 * item
    buy = click & (generator.random(rows) < 0.4)
    like = generator.random(rows) < np.where(click, 0.6, 0.1)
    labels = {"click": click, "buy": buy, "like": like}
    return pl.DataFrame({"item": item, **{name: y.astype(int) for name, y in labels.items()}})


def sample(log, seed=9):
    generator = np.random.default_rng(seed)
    kept = (log["click"].to_numpy() == 1) | (generator.random(len(log)) < KEEP)
    return log.filter(pl.Series(kept))


def fitted(sampling, train, **options):
    return pr.fit(
        SCHEMA, pr.ESMM(tower=[8], embed_dim=4), train=train, sampling=sampling, epochs=6,
        batch_size=256, lr=1e-2, schedule=pr.Cosine(), seed=1, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def log():
    return whole(1)


@pytest.fixture(scope="module")
def bundle(log):
    return fitted(pr.Sampling("click", KEEP, ("train", "test")), sample(log))


def test_predictions_are_those_of_the_whole_log(log, bundle):
    means = bundle.predict(log).mean().row(0, named=True)
    truth = log.mean().row(0, named=True)
    assert means["p_click"] == pytest.approx(truth["click"], rel=0.05)
    assert means["p_buy"] == pytest.approx(truth["buy"], rel=0.1)
    assert means["p_like"] == pytest.approx(truth["like"], rel=0.1)


def test_without_the_sampling_they_are_those_of_the_sample(log):
    means = fitted(None, sample(log)).predict(log).mean().row(0, named=True)
    truth = log.mean().row(0, named=True)
    assert means["p_click"] > 3 * truth["click"]
    assert means["p_buy"] > 3 * truth["buy"]
    assert means["p_like"] > 1.2 * truth["like"]


def test_a_sampled_split_is_scored_as_the_whole_log(log, bundle):
    some = sample(whole(2), seed=3)
    card = bundle.evaluate(some)
    click = card["click @ all"]
    assert (click.rows, click.positives) == (len(some), some["click"].sum())
    assert click.label_mean == pytest.approx(log["click"].mean(), rel=0.05)
    assert card.value("click @ all", "pcoc") == pytest.approx(1, abs=0.05)
    assert card.value("like @ all", "pcoc") == pytest.approx(1, abs=0.1)
    assert bundle.evaluate(some, split="other")["click @ all"].label_mean > 0.3


def test_a_saved_bundle_knows_of_it(bundle, tmp_path):
    bundle.save(tmp_path / "bundle")
    assert load(tmp_path / "bundle").sampling == pr.Sampling("click", KEEP, ("train", "test"))


def test_a_bundle_without_has_none(log):
    assert fitted(None, log.head(500)).sampling is None


def test_heads_start_at_the_rates_of_the_whole_log(log):
    frame = sample(log)
    table = encode(frame, SCHEMA, Vocab.fit(read(frame), SCHEMA))
    rates = base_rates(table, SAMPLING)
    assert rates["click"] == pytest.approx(log["click"].mean(), rel=0.05)
    assert rates["buy"] == base_rates(table)["buy"]
    assert rates["like"] == pytest.approx(log["like"].mean(), rel=0.05)


def test_validation_rows_that_were_sampled_are_weighted_and_training_rows_are_not(log):
    sampling = pr.Sampling("click", 0.5, ("train", "valid"))
    sources = Sources(log.head(100), log.head(50), log.head(20), sampling=sampling)
    tables = encoded(SCHEMA, sources)[1]
    expected = np.where(log.head(50)["click"] == 0, 2, 1)
    assert tables["train"].weight is None
    assert tables["valid"].weight.tolist() == expected.tolist()
    assert tables["test"].weight is None


def test_the_cache_knows_nothing_of_it(log, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "log.parquet"
    log.head(100).write_parquet(path)
    first, changed = (pr.Sampling("click", keep, ("valid",)) for keep in (0.5, 0.25))
    encoded(SCHEMA, Sources(path, path, sampling=first), beside=tmp_path)
    caplog.clear()
    tables = encoded(SCHEMA, Sources(path, path, sampling=changed), beside=tmp_path)[1]
    assert "encoded rows of an earlier run are used" in caplog.text
    assert tables["valid"].weight.max() == 4
    assert encoded(SCHEMA, Sources(path, path), beside=tmp_path)[1]["valid"].weight is None


def trainer(frame, balance, compile):
    vocab = Vocab.fit(read(frame), SCHEMA)
    table = encode(frame, SCHEMA, vocab)
    spec = pr.ESMM(tower=[4], embed_dim=4)
    training = Training(epochs=1, batch_size=64, balance=balance, compile=compile)
    torch.manual_seed(0)
    ranker = spec.build(spec.layout(SCHEMA, vocab))
    start(ranker, table, "cpu", SAMPLING)
    supervision = Supervision.of(table, SAMPLING)
    return Trainer(ranker, training, supervision, train=table, valid=None, seed=0)


def test_the_compiled_step_is_the_eager_one(log, monkeypatch):
    monkeypatch.setattr(step, "compiled", lambda graph: graph)
    frame = sample(log).head(300)
    eager, graph = (
        [list(each.run()), each.state()][1]
        for each in (trainer(frame, pr.Sum(), False), trainer(frame, pr.Sum(), True))
    )
    for name, tensor in eager.items():
        assert graph[name].numpy() == pytest.approx(tensor.numpy(), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("balance", [pr.Uncertainty(), pr.GradNorm(), pr.MetaBalance()])
def test_every_other_balance_trains_on_a_sample(log, balance):
    last = list(trainer(sample(log).head(300), balance, False).run())[-1]
    assert all(np.isfinite(value) for value in last.losses.values())


def test_a_toml_file_declares_it(tmp_path):
    experiment = Experiment.from_text(EXPERIMENT, folder=tmp_path)
    assert experiment.data.sampling == pr.Sampling("click", 0.1, ("train", "valid"))
    assert experiment.sources().sampling == experiment.data.sampling
    assert Experiment.from_text(experiment.to_toml()) == experiment


def test_it_goes_with_a_split_of_one_source(log, tmp_path):
    log.head(100).write_parquet(tmp_path / "log.parquet")
    text = EXPERIMENT.replace('train = "train.parquet"', 'source = "log.parquet"')
    text = text.replace('valid = "valid.parquet"', "").replace('"valid"]', '"valid", "test"]')
    assert Experiment.from_text(text, folder=tmp_path).sources().sampling.keep == 0.1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("keep = 0.1", "keep = 2", "data.sampling: keep, the share kept, must be"),
        ("keep = 0.1", "kep = 0.1", "data.sampling: unknown key 'kep'; did you mean 'keep'"),
        ('"valid"]', '"vald"]', "data.sampling: unknown split 'vald'; did you mean 'valid'"),
    ],
)
def test_a_table_that_cannot_be_is_refused(old, new, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.from_text(EXPERIMENT.replace(old, new))


def test_fit_refuses_what_is_no_root(log):
    with pytest.raises(ConfigError, match="only a root can be sampled"):
        fitted(pr.Sampling("buy", 0.1), log.head(100))


def test_fit_takes_a_sampling_and_nothing_else(log):
    with pytest.raises(ConfigError, match=r"sampling must be a Sampling\(task, keep\), got 0.1"):
        fitted(0.1, log.head(100))


def test_the_plan_says_it_and_counts_what_was_kept(log):
    frame = sample(log)
    found = explain(SCHEMA, pr.Model(), Training(), Sources(frame, sampling=SAMPLING))
    assert "sampling: rows with click = 0 were kept at a rate of 0.1 in train" in str(found)
    table = found.to_json()
    assert table["sampling"] == {"task": "click", "keep": 0.1, "splits": ["train"]}
    assert table["objective"][0]["usable_rows"] == len(frame)
    assert table["objective"][0]["mean"] == pytest.approx(frame["click"].mean())
