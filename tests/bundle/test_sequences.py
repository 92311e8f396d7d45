"""Sequences from raw rows with lists to predictions: here, in a fresh process, file by file."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.errors import DataError, LeakageWarning, TrainingError
from polyrank.serve import batch
from polyrank.serve.batch import Predictor, predict_file
from polyrank.train.explain import explain
from polyrank.train.sources import Sources
from polyrank.train.training import Training

SCHEMA = pr.Schema(
    [
        pr.SparseFeature("item"),
        pr.SequenceFeature("seen", shared_with="item"),
        pr.SequenceFeature("pages", hash=40, pooling="last", padding_idx=7, embed_dim=4),
        pr.SequenceFeature("tags", pooling="sum"),
        pr.DenseFeature("price", encoding="standard"),
    ],
    [pr.Task("click"), pr.Task("buy", given="click")],
    pr.Keys(user="user"),
)


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(8)
    size = 400
    lengths = generator.integers(0, 6, size)
    click = generator.integers(0, 2, size)
    seen = [generator.integers(0, 30, n).tolist() for n in lengths]
    return {
        "item": generator.integers(0, 30, size),
        "seen": [None if n == 5 else each for n, each in zip(lengths, seen, strict=True)],
        "pages": generator.integers(5, 9, (size, 3)),
        "tags": [generator.choice(["x", "北京", ""], n).tolist() for n in lengths[::-1]],
        "price": generator.normal(size=size),
        "user": np.arange(size),
        "click": click,
        "buy": click * generator.integers(0, 2, size),
    }


@pytest.fixture(scope="module")
def fitted(log):
    return pr.fit(SCHEMA, pr.Model(embed_dim=8), train=log, valid=log, epochs=2, seed=1)


@pytest.fixture
def parquet(log, tmp_path):
    frame = pl.DataFrame({**log, "pages": log["pages"].tolist()})
    frame.write_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def scorer_of(bundle):
    return Predictor(bundle.schema, bundle.predict_frame)


def test_a_loaded_bundle_gives_the_same_bits(fitted, log, tmp_path):
    fitted.save(tmp_path / "b")
    loaded = pr.load(tmp_path / "b")
    assert loaded.schema == pr.Model().supervised(SCHEMA)
    assert loaded.predict(log).equals(fitted.predict(log))
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert manifest["tables"] == {"item": "item", "seen": "item", "pages": "pages", "tags": "tags"}
    names = {file.name for file in (tmp_path / "b" / "vocab").iterdir()}
    assert names == {"item.parquet", "tags.parquet"}


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same_bits_from_raw_lists(fitted, log, parquet, tmp_path):
    fitted.save(tmp_path / "b")
    code = (
        "import polyrank as pr, torch; torch.set_num_threads(1); "
        f"pr.load(r'{tmp_path / 'b'}').predict(r'{parquet}')"
        f".write_parquet(r'{tmp_path / 'out.parquet'}')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert pl.read_parquet(tmp_path / "out.parquet").equals(fitted.predict(log))


@pytest.mark.parametrize("chunk", [7, 1000])
def test_files_of_lists_are_scored_by_chunks(fitted, log, parquet, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(batch, "CHUNK_ROWS", chunk)
    scored = predict_file(scorer_of(fitted), parquet, tmp_path / "out.csv")
    found = pl.read_csv(tmp_path / "out.csv")
    assert found.columns == ["user", "p_click", "p_buy_given_click", "p_buy"]
    assert (found["p_buy"] - fitted.predict(log)["p_buy"]).abs().max() <= 1e-6
    assert scored.nulls["seen"] == sum(each is None for each in log["seen"])


def test_a_csv_file_is_refused_before_scoring(fitted, tmp_path):
    (tmp_path / "rows.csv").write_text("item,seen,pages,tags,price\n1,2,3,4,5\n")
    with pytest.raises(DataError, match="sequence feature 'seen' is a column of a text file"):
        predict_file(
            Predictor(fitted.schema, fitted.predict_frame),
            tmp_path / "rows.csv",
            tmp_path / "out.parquet",
        )


def test_ids_in_lists_that_training_did_not_see_are_counted(fitted, log):
    rows = {name: values[:2] for name, values in log.items()} | {"tags": [["x", "new"], []]}
    table = fitted.encode(rows)
    assert table.unseen["tags"] == 1
    assert table.unseen["pages"] == 0


def test_padding_changes_nothing(fitted, log):
    pages = np.pad(log["pages"], [(0, 0), (0, 4)], constant_values=7)
    assert fitted.predict({**log, "pages": pages}).equals(fitted.predict(log))


def test_a_row_without_lists_is_the_same_whatever_stands_for_none(fitted):
    lists = {"seen": [None, [], []], "pages": [[7], [], None], "tags": [[]] * 3}
    predicted = fitted.predict({"item": [1] * 3, "price": [0.0] * 3, **lists})
    assert len(predicted.unique()) == 1


def test_lists_are_learned_from():
    generator = np.random.default_rng(0)
    lists = [generator.integers(0, 20, n).tolist() for n in generator.integers(0, 5, 3000)]
    click = [int(3 in each) for each in lists]
    rows = {"seen": lists, "click": click}
    schema = pr.Schema([pr.SequenceFeature("seen", pooling="sum")], [pr.Task("click")])
    model = pr.Model(trunk=pr.SharedBottom(), tower=[8], embed_dim=8)
    with pytest.warns(LeakageWarning, match="feature 'seen' may state"):  # it does: 3 is a click
        bundle = pr.fit(schema, model, train=rows, valid=rows, epochs=8, batch_size=64, lr=0.01)
    assert bundle.scorecard.value("click @ all", "auc") > 0.98


def test_the_plan_counts_lists(log):
    found = explain(SCHEMA, pr.Model(embed_dim=8), Training(), Sources(log))
    assert found.parameters["embed.pages"] == 41 * 4
    assert found.memory_bytes["train rows"] > 400 * 3 * 4


def test_resuming_compares_the_lists(log, tmp_path):
    arguments = {"valid": log, "epochs": 1, "out": tmp_path / "run"}
    pr.fit(SCHEMA, pr.Model(embed_dim=8), train=log, **arguments)
    other = {**log, "tags": log["tags"][::-1]}
    with pytest.raises(TrainingError, match="is of a run on other rows"):
        pr.fit(SCHEMA, pr.Model(embed_dim=8), train=other, **arguments, resume=True)


def test_a_resumed_run_goes_on_to_the_same_bits(log, tmp_path):
    model = pr.Model(embed_dim=8)
    arguments = {"train": log, "valid": log, "epochs": 3, "batch_size": 64, "unseen_rate": 0.1}
    whole = pr.fit(SCHEMA, model, **arguments)

    def stop(progress):
        if progress.event == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pr.fit(SCHEMA, model, **arguments, out=tmp_path / "run", progress=stop)
    resumed = pr.fit(SCHEMA, model, **arguments, out=tmp_path / "run", resume=True)
    assert resumed.predict(log).equals(whole.predict(log))


def test_the_command_line_explains_trains_and_scores(parquet, tmp_path, capsys):
    text = """
        [data]
        train = "rows.parquet"
        [features]
        sparse = ["item"]
        sequence = ["seen"]
        [features.item]
        hash = 20
        [features.seen]
        shared_with = "item"
        [[task]]
        name = "click"
        [train]
        epochs = 1
    """
    (tmp_path / "exp.toml").write_text(text)
    file, run_folder, out = (str(tmp_path / name) for name in ("exp.toml", "run", "out.parquet"))
    assert run(["explain", file]) == 0
    assert "embed.item" in capsys.readouterr().out
    assert run(["train", file, "--out", run_folder]) == 0
    assert run(["evaluate", run_folder, str(parquet)]) == 0
    assert run(["predict", run_folder, str(parquet), "-o", out]) == 0
    assert pl.read_parquet(out).columns == ["p_click"]


def test_the_file_of_the_run_reads_back(fitted):
    config = {**fitted.config, "data": {"train": "t.parquet"}}
    assert config["features"]["sequence"] == ["seen", "pages", "tags"]
    assert Experiment.from_table(config).schema == pr.Model().supervised(SCHEMA)
